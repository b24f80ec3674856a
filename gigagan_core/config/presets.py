"""Named settings of a whole pipeline run. No stage imports this module: a preset's values are in the
fingerprints, its source is not.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal

from gigagan_core.config import ablations, openmoji, paper
from gigagan_core.config.curate import CurateSettings
from gigagan_core.config.encoder import EncoderSettings, TowerSettings, demo_encoder
from gigagan_core.config.evaluate import EvaluateSettings
from gigagan_core.config.ingest import FetchSettings, IngestSettings
from gigagan_core.config.pipeline import PipelineSettings, SourceSettings
from gigagan_core.config.training import BaseTrainingSettings, UpsamplerTrainingSettings
from gigagan_core.errors import GigaganError, nearest
from gigagan_core.models.published import PUBLISHED, Published
from gigagan_core.models.settings import (
    DiscriminatorSettings,
    GeneratorSettings,
    UpsamplerSettings,
    demo_discriminator,
    demo_generator,
    demo_upsampler,
)
from gigagan_core.training.settings import (
    BaseLossSettings,
    BaseTraining,
    EmaSettings,
    OptimiserSettings,
    R1Settings,
    ScheduleSettings,
    UpsamplerLossSettings,
    UpsamplerTraining,
)

Part = Literal["base", "upsampler"]


@dataclasses.dataclass(frozen=True)
class Preset:
    """purpose: what it is for, in one line. build: its settings. part: the one section that it is of, else all."""

    purpose: str
    build: Callable[[], PipelineSettings | BaseTrainingSettings | UpsamplerTrainingSettings]
    part: Part | None = None


def preset(name: str) -> PipelineSettings:
    """The settings of a whole pipeline; GigaganError names the nearest preset where there is none of this name."""
    found = _find(name)
    if found.part is not None:
        raise GigaganError(
            f"preset {name!r} is of one stage; give it to train-{found.part}, or name a preset of a whole pipeline: "
            + ", ".join(each for each, other in PRESETS.items() if other.part is None)
        )
    return found.build()


def section(name: str, part: str) -> Any:
    """One section's settings in a preset, such as "base"; GigaganError where it has no such section.

    part: a field of `PipelineSettings`. The control of an upsampler belongs to the preset of that upsampler.
    """
    found = _find(name)
    settings = found.build()
    if found.part is None:
        chosen = getattr(settings, part)
    elif (found.part, part) == ("upsampler", "control"):
        chosen = control_of(settings)
    else:
        chosen = settings if found.part == part else None
    if chosen is None:
        fits = [each for each, other in PRESETS.items() if other.part in (None, part)]
        raise GigaganError(f"preset {name!r} has no {part} settings; choose one that has: {', '.join(fits)}")
    return chosen


def known(name: str) -> None:
    """Raises GigaganError, naming the nearest preset, where there is none of this name."""
    _find(name)


def networks(name: str) -> dict[str, GeneratorSettings | UpsamplerSettings | DiscriminatorSettings]:
    """Every GAN network of a preset, by its place."""
    found = _find(name)
    settings = found.build()
    base = settings if found.part == "base" else getattr(settings, "base", None)
    large = settings if found.part == "upsampler" else getattr(settings, "upsampler", None)
    named: dict[str, GeneratorSettings | UpsamplerSettings | DiscriminatorSettings] = {}
    if found.part in (None, "base"):
        named |= {"generator": base.generator, "discriminator": base.discriminator}
    if found.part in (None, "upsampler"):
        named |= {"upsampler": large.upsampler, "upsampler's discriminator": large.discriminator}
    return named


def _find(name: str) -> Preset:
    if name not in PRESETS:
        raise GigaganError(f"unknown preset {name!r}; {nearest(name, PRESETS)}")
    return PRESETS[name]


def control_of(upsampler: UpsamplerTrainingSettings) -> UpsamplerTrainingSettings:
    """The L1-only control of an upsampler: equal network, data and images; no trainer of its own to start."""
    training = dataclasses.replace(upsampler.training, objective="l1")
    return upsampler.model_copy(update={"training": training, "launcher": "plain"})


def demo() -> PipelineSettings:
    """OpenMoji at 32 px and to 128 px on two CPU cores, in minutes. Lengths are in images, never in seconds.

    Everything below is ours, chosen for two cores, where it differs from the paper's values (the defaults of
    the settings' classes say what those are and how sure each is).
    """
    condition, judge = demo_encoder("condition"), demo_encoder("judge")
    text_dim = condition.text.width
    optimiser = OptimiserSettings(learning_rate=0.0025)
    upsampler = UpsamplerTrainingSettings(
        upsampler=demo_upsampler(32, 128, text_dim=text_dim),
        # two cores: half the base's width, and one prediction a level, at the end of the trunk
        discriminator=dataclasses.replace(
            demo_discriminator(128, levels=3, text_dim=text_dim),
            channel_max=64,
            intermediate_predictions=False,
        ),
        training=UpsamplerTraining(
            schedule=ScheduleSettings(
                batch_size=4,
                total_images=1_000,
                checkpoint_every_images=500,
                sample_every_images=500,
            ),
            # So few steps teach a discriminator little: at full weight it made patches worse than bicubic's
            # (0.017 against 0.006), at a tenth it sharpens what L1 and the feature distance find.
            losses=UpsamplerLossSettings(
                level_weights=(0.3, 0.1, 0.1),
                adversarial=0.1,
                matching=0.1,
                contrastive=0.0,
                lpips=0.0,
                feature_distance=20.0,
                feature_patches=4,
                l1=10.0,
            ),
            generator=OptimiserSettings(learning_rate=0.004),
            discriminator=OptimiserSettings(learning_rate=0.004),
            r1=R1Settings(strength=0.2048),
            ema=EmaSettings(decay=0.99, ramp=0.1),
        ),
    )
    return PipelineSettings(
        source=SourceSettings(kind="openmoji"),
        ingest=IngestSettings(
            image_size=128,
            encode_format="png",
            site="openmoji",
            fetch=FetchSettings(timeout_s=4.0),
        ),
        condition=condition,
        judge=judge,
        curate=CurateSettings(),
        base=BaseTrainingSettings(
            # started with a quarter of the contrast, a run this short learns colours sooner
            generator=dataclasses.replace(demo_generator(32, text_dim=text_dim), rgb_gain=0.3),
            discriminator=dataclasses.replace(demo_discriminator(32, text_dim=text_dim), channel_max=96),
            training=BaseTraining(
                schedule=ScheduleSettings(
                    batch_size=16,
                    total_images=8_960,
                    w_mean_decay=0.99,
                    checkpoint_every_images=2_240,
                    sample_every_images=2_240,
                ),
                # four levels at 32 px, weighted as the paper weighs its first four of five
                losses=BaseLossSettings(level_weights=(0.33, 0.17, 0.17, 0.17)),
                generator=optimiser,
                discriminator=optimiser,
                r1=R1Settings(strength=0.5),
                ema=EmaSettings(decay=0.99, ramp=0.1),
            ),
        ),
        upsampler=upsampler,
        control=control_of(upsampler),
        # as many patches of 32 px as tile a picture: with four, which ones were drawn weighed as much as the upsampler
        evaluate=EvaluateSettings(patches_per_image=16),
    )


def openmoji_on_a_gpu() -> PipelineSettings:
    """The demonstration at twice the size, with networks and hours for one GPU."""
    small = demo()
    upsampler = openmoji.upsampler_64_to_256()
    return PipelineSettings(
        source=SourceSettings(kind="openmoji", size=320),
        ingest=small.ingest.model_copy(update={"image_size": 256}),
        condition=small.condition,
        judge=small.judge,
        curate=small.curate,
        base=openmoji.base_64(),
        upsampler=upsampler,
        control=control_of(upsampler),
        evaluate=EvaluateSettings(image_size=64, upsampled_size=256),
    )


def tiny() -> PipelineSettings:
    """Every stage for real at the smallest size: to see that an installation works, and for tests."""
    text_dim = 32
    small = {
        "image_size": 16,
        "embed_dim": 16,
        "vision": TowerSettings(width=32, layers=1, heads=2),
        "text": TowerSettings(width=text_dim, layers=2, heads=2),
        "total_images": 256,
        "batch_size": 32,
        "warmup_images": 64,
    }
    condition = EncoderSettings(role="condition", **small)
    judge = EncoderSettings(role="judge", seed=1, **small)
    schedule = ScheduleSettings(
        batch_size=8,
        total_images=64,
        checkpoint_every_images=32,
        sample_every_images=64,
        metrics_every_steps=2,
    )
    upsampler = UpsamplerTrainingSettings(
        upsampler=demo_upsampler(16, 32, text_dim=text_dim),
        discriminator=demo_discriminator(32, levels=2, text_dim=text_dim),
        training=UpsamplerTraining(
            schedule=schedule,
            losses=UpsamplerLossSettings(
                level_weights=None, contrastive=0.0, lpips=0.0, feature_distance=10.0, matching_block=4
            ),
        ),
        launcher="plain",
    )
    settings = demo()
    return settings.model_copy(
        update={
            "source": SourceSettings(kind="openmoji", limit=160),
            "ingest": settings.ingest.model_copy(
                update={"image_size": 32, "fetch": FetchSettings(timeout_s=1.0, backoff_s=0.1)}
            ),
            "condition": condition,
            "judge": judge,
            "base": BaseTrainingSettings(
                generator=demo_generator(16, text_dim=text_dim),
                discriminator=demo_discriminator(16, text_dim=text_dim),
                training=BaseTraining(
                    schedule=schedule, losses=BaseLossSettings(level_weights=None, matching_block=4)
                ),
            ),
            "upsampler": upsampler,
            "control": control_of(upsampler),
            "evaluate": EvaluateSettings(
                image_size=16, upsampled_size=32, patch_size=16, bootstrap_resamples=200, samples_shown=8
            ),
        }
    )


PRESETS: dict[str, Preset] = {
    "demo": Preset("real drawings, 32 px and to 128 px, on 2 CPU cores in under 15 minutes", demo),
    "tiny": Preset(
        "every stage at the smallest size, to see that an installation works; learns nothing", tiny
    ),
    "openmoji": Preset("the same drawings at 64 px and to 256 px, on one GPU", openmoji_on_a_gpu),
    "openmoji-64": Preset("real drawings at 64 px, on one GPU", openmoji.base_64, "base"),
    "openmoji-64-to-256": Preset(
        "their upsampler to 256 px, on one GPU", openmoji.upsampler_64_to_256, "upsampler"
    ),
    "paper-t2i-64": Preset("the paper's base model, 64 px", paper.text_to_image_64, "base"),
    "paper-upsampler-64-to-512": Preset("the paper's upsampler", paper.upsampler_64_to_512, "upsampler"),
    "paper-upsampler-128-to-1024": Preset(
        "the paper's large upsampler (Table 4)", paper.upsampler_128_to_1024, "upsampler"
    ),
    "imagenet-256": Preset("the paper's class-conditional model (Table A1)", paper.imagenet_256, "base"),
    "imagenet-upsampler-64-to-256": Preset(
        "the paper's unconditional upsampler (Table 5)", paper.upsampler_imagenet_64_to_256, "upsampler"
    ),
} | {
    ablations.PREFIX + name: Preset(
        f"Table 1: {row.what}", functools.partial(ablations.ablation, name), "base"
    )
    for name, row in ablations.ROWS.items()
}
"""What can be asked for by name, in the order of `gigagan presets`."""


def published_counts(name: str) -> dict[str, Published]:
    """What the paper counts for networks of a preset, by the names that `networks` gives."""
    settings = networks(name)
    row = ablations.ROWS.get(name.removeprefix(ablations.PREFIX))
    if name.startswith(ablations.PREFIX) and row is not None:
        return {"generator": Published(row.what, settings["generator"], row.millions)}
    counts = {entry.settings: entry for entry in PUBLISHED}
    return {place: counts[network] for place, network in settings.items() if network in counts}
