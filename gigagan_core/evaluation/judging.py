"""The figures of one evaluation: every set of images judged once, by one encoder, at equal count."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gigagan_core.config.evaluate import EvaluateSettings
from gigagan_core.errors import GigaganError
from gigagan_core.evaluation import baselines
from gigagan_core.evaluation.clip_score import ClipScore, clip_score
from gigagan_core.evaluation.features import caption_features, image_features
from gigagan_core.evaluation.frechet import FrechetDistance, frechet_distance
from gigagan_core.evaluation.moments import Moments
from gigagan_core.evaluation.patches import bicubic, consistency_rmse, cut_patches, patch_positions, psnr
from gigagan_core.evaluation.precision_recall import PrecisionRecall, precision_recall
from gigagan_core.evaluation.retrieval import Retrieval, caption_recall

if TYPE_CHECKING:
    from gigagan_core.encoders.protocol import Encoder

Progress = Callable[[int], None]


@dataclass(frozen=True)
class SetFigures:
    """What the judge says of one set of images; None where a figure makes no sense for the set.

    id: stable key. label: for people. fd: against the held-out real images. manifold: precision and
    recall against them. clip, retrieval: with the held-out captions.
    """

    id: str
    label: str
    fd: FrechetDistance | None = None
    manifold: PrecisionRecall | None = None
    clip: ClipScore | None = None
    retrieval: Retrieval | None = None


@dataclass(frozen=True)
class UpsamplerFigures:
    """What is measured of one way to enlarge; psnr in dB, consistency in shares of the pixel range."""

    id: str
    label: str
    patch_fd: FrechetDistance
    psnr: float
    consistency: float


def judge_base(
    judge: Encoder,
    captions: list[str],
    real: Tensor,
    generated: Tensor,
    untrained: Tensor | None,
    training: Tensor | None,
    settings: EvaluateSettings,
    groups: Tensor | None = None,
    on_batch: Progress = lambda done: None,
) -> list[SetFigures]:
    """Figures of the generated images and of every baseline, the generated ones first.

    captions: N held-out captions. real, generated, untrained: uint8 [N, 3, H, W], row i made for or
    showing caption i. training: uint8 [T, 3, H, W] training images, T >= N, or None: then the baselines
    made of them are missing. groups: int64 [N], equal where images are variants of one drawing and so do
    not count as independent in intervals; None: all are.
    Raises GigaganError where counts or sizes differ or features are not finite.
    """
    for name, images in (("generated", generated), ("untrained", untrained), ("training", training)):
        if images is not None and images.shape[1:] != real.shape[1:]:
            raise GigaganError(
                f"{name} images are {list(images.shape[1:])} and held-out ones {list(real.shape[1:])}; "
                "set image_size to the model's"
            )

    def features(images: Tensor) -> Tensor:
        return image_features(
            judge,
            images,
            batch_size=settings.batch_size,
            normalise=settings.normalise_features,
            on_batch=on_batch,
        )

    texts = caption_features(judge, captions)
    real_features = features(real)
    reference = Moments.of(real_features, "held-out images")

    def judged(
        key: str, label: str, set_features: Tensor, *, own_captions: bool, manifold: bool = True
    ) -> SetFigures:
        return SetFigures(
            key,
            label,
            fd=frechet_distance(reference, Moments.of(set_features, label)),
            manifold=precision_recall(real_features, set_features, settings.neighbours) if manifold else None,
            **(_with_captions(set_features, texts, captions, settings, groups) if own_captions else {}),
        )

    sets = [judged("generated", "generated", features(generated), own_captions=True)]
    if untrained is not None:
        sets.append(judged("untrained", "untrained generator", features(untrained), own_captions=True))
    if training is not None:
        chosen = training[baselines.sample(len(real), len(training), settings.seed)]
        size = baselines.BLUR_SIZE
        sets.append(
            judged(
                "blurred",
                f"real training images, blurred to {size} x {size}",
                features(baselines.blurred(chosen)),
                own_captions=False,
            )
        )
        mean = features(baselines.mean_image(training)).expand(len(real), -1)
        sets.append(judged("mean-image", "mean training image", mean, own_captions=False, manifold=False))
        sets.append(judged("training", "real training images", features(chosen), own_captions=False))
    held_out = _with_captions(real_features, texts, captions, settings, groups)
    sets.append(SetFigures("held-out", "real held-out images", **held_out))
    return sets


def images_to_judge(held_out: int, with_untrained: bool, with_training: bool) -> int:
    """How many images `judge_base` runs through the encoder, for a progress bar."""
    return held_out * (2 + with_untrained + 2 * with_training) + with_training


def _with_captions(
    features: Tensor, texts: Tensor, captions: list[str], settings: EvaluateSettings, groups: Tensor | None
) -> dict[str, ClipScore | Retrieval]:
    return {
        "clip": clip_score(
            features,
            texts,
            captions,
            resamples=settings.bootstrap_resamples,
            seed=settings.seed,
            level=settings.confidence,
            groups=groups,
        ),
        "retrieval": caption_recall(
            features,
            texts,
            captions,
            k=settings.recall_k,
            level=settings.confidence,
            independent=None if groups is None else len(groups.unique()),
        ),
    }


def judge_upsamplers(
    judge: Encoder,
    real: Tensor,
    low: Tensor,
    enlarged: dict[str, tuple[str, Tensor]],
    settings: EvaluateSettings,
    on_batch: Progress = lambda done: None,
) -> list[UpsamplerFigures]:
    """Figures of bicubic enlarging and of every upsampler's images, bicubic last.

    real: uint8 [N, 3, H, W]. low: uint8 [N, 3, h, w], `patches.shrink` of real. enlarged: by id, (label,
    uint8 [N, 3, H, W]). Patches lie at the same places in every set.
    """
    enlarged = {**enlarged, "bicubic": ("bicubic", bicubic(low, real.shape[-1]))}
    places = patch_positions(
        torch.arange(len(real)),
        real.shape[-1],
        settings.patch_size,
        settings.patches_per_image,
        settings.seed,
    )

    def moments(images: Tensor, name: str) -> Moments:
        # image by image in batches: all patches at once would be P times the images' memory
        total: Moments | None = None
        for some, where in zip(
            images.split(settings.batch_size), places.split(settings.batch_size), strict=True
        ):
            patches = cut_patches(some, where, settings.patch_size)
            piece = Moments.of(image_features(judge, patches, normalise=settings.normalise_features), name)
            total = piece if total is None else total.merge(piece)
            on_batch(len(patches))
        return total

    reference = moments(real, "patches of held-out images")
    return [
        UpsamplerFigures(
            key,
            label,
            patch_fd=frechet_distance(reference, moments(images, f"patches of {label}")),
            psnr=float(psnr(images, real).mean()),
            consistency=consistency_rmse(images, low),
        )
        for key, (label, images) in enlarged.items()
    ]
