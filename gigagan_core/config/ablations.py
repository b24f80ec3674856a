"""The ladder of the paper's Table 1: one network and recipe a row, each one switch away from the row it builds on.

64 px, 100,000 steps of 256 images. The reading (widths 512, w of 512 channels, two kernels, where the switches
begin and end) is the one that meets the published counts in closed form; docs/parameters.md says what is a fit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from gigagan_core.config.training import BaseTrainingSettings
from gigagan_core.models.published import VISION_LAYERS
from gigagan_core.models.settings import DiscriminatorSettings, GeneratorSettings
from gigagan_core.training.settings import BaseLossSettings, BaseTraining, ScheduleSettings

PREFIX = "ablation-"


@dataclass(frozen=True)
class Row:
    """A row of Table 1.

    name: of the preset, after `ablation-`. switch: what changes from the row `base` (None: the first row).
    millions: the generator's parameters as published; increment: published in the same place, in millions.
    fid, clip: FID-10k and CLIP score (ViT-B/32) of the paper.
    """

    name: str
    what: str
    base: str | None
    switch: Callable[[BaseTrainingSettings], BaseTrainingSettings]
    millions: float
    fid: float
    clip: float
    increment: float | None = None


def ablation(name: str) -> BaseTrainingSettings:
    """The settings of a row, by its name: the switches applied from the first row on."""
    row = ROWS[name]
    return row.switch(_start() if row.base is None else ablation(row.base))


def _start() -> BaseTrainingSettings:
    """StyleGAN2 with a sentence descriptor in its mapping network; nothing of GigaGAN's."""
    size = {"channel_base": 32768, "channel_max": 512}  # fit: 512 everywhere
    return BaseTrainingSettings(
        generator=GeneratorSettings(
            z_dim=512,
            w_dim=512,
            mapping_depth=8,  # StyleGAN2's
            mapping_text_dim=512,  # fit: StyleGAN2's embedding of its condition
            kernels=(1,) * 5,
            blocks=(1,) * 5,
            residual="none",
            attention_depths=(0,) * 5,
            cross_attention=False,
            rgb_per="resolution",
            multi_scale=False,
            **size,
        ),
        discriminator=DiscriminatorSettings(
            levels=1,
            intermediate_predictions=False,
            blocks=(1,) * 5,
            attention_depths=(0,) * 5,
            minibatch_std_group=4,  # I: StyleGAN2's
            **size,
        ),
        training=BaseTraining(
            schedule=ScheduleSettings(batch_size=256, total_images=100_000 * 256, precision="bfloat16"),
            losses=BaseLossSettings(
                level_weights=(1.0,),
                intermediate_adversarial=1.0,
                intermediate_matching=1.0,
                matching=0.0,
                matching_block=8,  # ours: of no effect before matching-d; lets 1 to 32 workers make the same steps
                contrastive=0.0,
            ),
        ),
        use_gpu=True,
    )


def _unchanged(settings: BaseTrainingSettings) -> BaseTrainingSettings:
    return settings


def _larger(settings: BaseTrainingSettings) -> BaseTrainingSettings:
    # fit: the width is not published; this one meets the count
    return _with(settings, generator={"channel_base": 1344 * 64, "channel_max": 1344})


def _tuned(settings: BaseTrainingSettings) -> BaseTrainingSettings:
    return _with(settings, generator={"z_dim": 128, "mapping_depth": 4, "mapping_text_dim": 0})


def _attention(settings: BaseTrainingSettings) -> BaseTrainingSettings:
    # fit: blocks get their residual path here
    depths = (0, 2, 2, 1, 0)
    return _with(
        settings,
        generator={"attention_depths": depths, "cross_attention": True, "residual": "conv"},
        discriminator={"attention_depths": depths},
    )


def _matching_in_d(settings: BaseTrainingSettings) -> BaseTrainingSettings:
    return _with(settings, losses={"matching": 1.0, "matching_in": "discriminator"})


def _matching_in_both(settings: BaseTrainingSettings) -> BaseTrainingSettings:
    return _with(settings, losses={"matching_in": "both"})


def _adaptive(settings: BaseTrainingSettings) -> BaseTrainingSettings:
    return _with(settings, generator={"kernels": (2,) * 5})  # fit: 1, 1, 2, 4, 8 would add 51.9M


def _deeper(settings: BaseTrainingSettings) -> BaseTrainingSettings:
    return _with(settings, generator={"blocks": (3, 3, 3, 2, 2)})


def _clip_loss(settings: BaseTrainingSettings) -> BaseTrainingSettings:
    return _with(settings, losses={"contrastive": BaseLossSettings().contrastive})


def _multi_scale(settings: BaseTrainingSettings) -> BaseTrainingSettings:
    paper = BaseLossSettings()
    weights = ("level_weights", "intermediate_adversarial", "intermediate_matching")
    return _with(
        settings,
        generator={"multi_scale": True, "rgb_per": "block"},  # fit: an RGB output for every block
        discriminator={"levels": 5, "intermediate_predictions": True},
        losses={name: getattr(paper, name) for name in weights},
    )


def _vision_aided(settings: BaseTrainingSettings) -> BaseTrainingSettings:
    # I: the weight is not known
    return _with(settings, discriminator={"vision_layers": VISION_LAYERS}, losses={"vision_aided": 1.0})


def _with(
    settings: BaseTrainingSettings,
    generator: dict[str, Any] | None = None,
    discriminator: dict[str, Any] | None = None,
    losses: dict[str, Any] | None = None,
) -> BaseTrainingSettings:
    changed = {
        "generator": replace(settings.generator, **generator or {}),
        "discriminator": replace(settings.discriminator, **discriminator or {}),
        "training": replace(settings.training, losses=replace(settings.training.losses, **losses or {})),
    }
    return BaseTrainingSettings(**dict(settings) | changed)


ROWS: dict[str, Row] = {
    row.name: row
    for row in (
        Row("stylegan2", "StyleGAN2 on a sentence descriptor", None, _unchanged, 27.8, 29.91, 0.222),
        Row("larger", "StyleGAN2, wider", "stylegan2", _larger, 158.9, 34.07, 0.223),
        Row("tuned", "StyleGAN2 with GigaGAN's mapping network", "stylegan2", _tuned, 26.2, 28.11, 0.228),
        Row("attention", "+ attention", "tuned", _attention, 59.0, 23.87, 0.235, increment=32.8),
        Row("matching-d", "+ matching loss in D", "attention", _matching_in_d, 59.0, 27.29, 0.250),
        Row("matching", "+ matching loss in G and D", "matching-d", _matching_in_both, 59.0, 21.66, 0.254),
        Row("adaptive", "+ adaptive convolution", "matching", _adaptive, 80.2, 19.97, 0.261, increment=21.2),
        Row("deeper", "+ deeper", "adaptive", _deeper, 161.9, 19.18, 0.263, increment=81.7),
        Row("clip-loss", "+ CLIP loss", "deeper", _clip_loss, 161.9, 14.88, 0.280),
        Row("multi-scale", "+ multi-scale", "clip-loss", _multi_scale, 164.0, 14.92, 0.300, increment=2.1),
        Row("vision-aided", "+ vision-aided", "multi-scale", _vision_aided, 164.0, 13.67, 0.287),
    )
}
"""By name, in the paper's order. The last row of Table 1, the scale-up, is the preset `paper-t2i-64`."""
