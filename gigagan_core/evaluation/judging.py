"""The figures of one evaluation: every set of images judged once, by one encoder, at equal count."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gigagan_core.config.evaluate import EvaluateSettings
from gigagan_core.errors import GigaganError
from gigagan_core.evaluation import baselines
from gigagan_core.evaluation.bootstrap import Interval, bootstrap_mean
from gigagan_core.evaluation.clip_score import ClipScore, clip_score
from gigagan_core.evaluation.feature_set import FeatureSet, SampleAccumulator
from gigagan_core.evaluation.features import caption_features, image_features
from gigagan_core.evaluation.frechet import FrechetDistance, frechet_distance
from gigagan_core.evaluation.frechet_error import difference_interval, distance_interval
from gigagan_core.evaluation.moments import Moments
from gigagan_core.evaluation.patches import bicubic, consistency_error, cut_patches, patch_positions, psnr
from gigagan_core.evaluation.precision_recall import PrecisionRecall, precision_recall
from gigagan_core.evaluation.retrieval import Retrieval, caption_recall
from gigagan_core.evaluation.similarity import ssim

if TYPE_CHECKING:
    from gigagan_core.encoders.protocol import Encoder

Progress = Callable[[int], None]


@dataclass(frozen=True)
class SetFigures:
    """What the judge says of one set of images; None where a figure makes no sense for the set.

    id: stable key. label: for people. fd: against the held-out real images. manifold: precision and
    recall against them. clip, retrieval: with the held-out captions. fd_interval, score_interval: of fd's
    distance and of clip's score.
    """

    id: str
    label: str
    fd: FrechetDistance | None = None
    manifold: PrecisionRecall | None = None
    clip: ClipScore | None = None
    retrieval: Retrieval | None = None
    fd_interval: Interval | None = None
    score_interval: Interval | None = None


@dataclass(frozen=True)
class BaseFeatures:
    """The judge's features of all that a base model's evaluation compares, each image once: float32 on the CPU.

    texts, real, generated, untrained, blurred: [N, E], row i of or for caption i. mean_image: [1, E]. training:
    [S, E] of the training images `searched`, int64 [S] positions among all of them. chosen: int64 [N] rows of
    `training` that are the baselines' images. None where the images were not given.
    """

    texts: Tensor
    real: Tensor
    generated: Tensor
    untrained: Tensor | None = None
    blurred: Tensor | None = None
    mean_image: Tensor | None = None
    training: Tensor | None = None
    searched: Tensor | None = None
    chosen: Tensor | None = None


@dataclass(frozen=True)
class UpsamplerFigures:
    """What is measured of one way to enlarge, each figure with its interval.

    psnr: dB. ssim: -1 to 1. consistency: root mean square, shares of the pixel range. patch_interval: of patch_fd's
    distance. over_bicubic: of that distance less bicubic's, on the same patches; None for bicubic itself.
    """

    id: str
    label: str
    patch_fd: FrechetDistance
    psnr: float
    ssim: float
    consistency: float
    patch_interval: Interval
    psnr_interval: Interval
    ssim_interval: Interval
    consistency_interval: Interval
    over_bicubic: Interval | None = None


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
    """`base_figures` of `base_features`, whose arguments these are."""
    features = base_features(judge, captions, real, generated, untrained, training, settings, on_batch)
    return base_figures(features, captions, settings, groups)


def base_features(
    judge: Encoder,
    captions: list[str],
    real: Tensor,
    generated: Tensor,
    untrained: Tensor | None,
    training: Tensor | None,
    settings: EvaluateSettings,
    on_batch: Progress = lambda done: None,
) -> BaseFeatures:
    """Every image through the judge, once.

    captions: N held-out captions. real, generated, untrained: uint8 [N, 3, H, W], row i made for or
    showing caption i. training: uint8 [T, 3, H, W] training images, T >= N, or None: then the baselines
    made of them are missing. Raises GigaganError where counts or sizes differ.
    """
    for name, images in (("generated", generated), ("untrained", untrained), ("training", training)):
        if images is not None and images.shape[1:] != real.shape[1:]:
            raise GigaganError(
                f"{name} images are {list(images.shape[1:])} and held-out ones {list(real.shape[1:])}; "
                "set image_size to the model's"
            )

    def features(images: Tensor | None) -> Tensor | None:
        if images is None:
            return None
        return image_features(
            judge,
            images,
            batch_size=settings.batch_size,
            normalise=settings.normalise_features,
            on_batch=on_batch,
        )

    searched = chosen = blurred = mean = None
    if training is not None:
        searched = _searched(len(training), len(real), settings)
        chosen = baselines.sample(len(real), len(searched), settings.seed)
        blurred = baselines.blurred(training[searched[chosen]])
        mean = baselines.mean_image(training)
    return BaseFeatures(
        texts=caption_features(judge, captions),
        real=features(real),
        generated=features(generated),
        untrained=features(untrained),
        blurred=features(blurred),
        mean_image=features(mean),
        training=None if training is None else features(training[searched]),
        searched=searched,
        chosen=chosen,
    )


def _searched(available: int, held_out: int, settings: EvaluateSettings) -> Tensor:
    return baselines.sample(
        min(available, max(settings.training_searched, held_out)), available, settings.seed
    )


def images_to_judge(held_out: int, with_untrained: bool, training: int, settings: EvaluateSettings) -> int:
    """How many images `base_features` runs through the encoder, for a progress bar; training: T, 0 without."""
    searched = len(_searched(training, held_out, settings)) if training else 0
    return held_out * (2 + with_untrained + bool(training)) + searched + bool(training)


def base_figures(
    features: BaseFeatures, captions: list[str], settings: EvaluateSettings, groups: Tensor | None = None
) -> list[SetFigures]:
    """Figures of the generated images and of every baseline, the generated ones first.

    groups: int64 [N], equal where images are variants of one drawing and so do not count as independent in
    intervals; None: all are. Raises GigaganError where features are not finite.
    """
    real, texts = features.real, features.texts
    reference, real_set = Moments.of(real, "held-out images"), FeatureSet.of(real, "held-out images")

    def judged(key: str, label: str, fake: Tensor, *, own_captions: bool = False) -> SetFigures:
        fd = frechet_distance(reference, Moments.of(fake, label))
        interval = distance_interval(
            real_set,
            FeatureSet.of(fake, label),
            fd.distance,
            resamples=settings.bootstrap_resamples,
            seed=settings.seed,
            level=settings.confidence,
            groups=(groups, groups if own_captions else None),
        )
        manifold = precision_recall(real, fake, settings.neighbours)
        with_captions = _with_captions(fake, texts, captions, settings, groups) if own_captions else {}
        return SetFigures(key, label, fd=fd, fd_interval=interval, manifold=manifold, **with_captions)

    sets = [judged("generated", "generated", features.generated, own_captions=True)]
    if features.untrained is not None:
        sets.append(judged("untrained", "untrained generator", features.untrained, own_captions=True))
    if features.training is not None:
        size = baselines.BLUR_SIZE
        blurred = f"real training images, blurred to {size} x {size}"
        sets.append(judged("blurred", blurred, features.blurred))
        # one image repeated has no manifold, and no second draw of it
        mean = Moments.of(features.mean_image.expand(len(real), -1), "mean training image")
        sets.append(SetFigures("mean-image", "mean training image", fd=frechet_distance(reference, mean)))
        sets.append(judged("training", "real training images", features.training[features.chosen]))
    sets.append(
        SetFigures(
            "held-out", "real held-out images", **_with_captions(real, texts, captions, settings, groups)
        )
    )
    return sets


def _with_captions(
    features: Tensor, texts: Tensor, captions: list[str], settings: EvaluateSettings, groups: Tensor | None
) -> dict[str, ClipScore | Retrieval | Interval]:
    draws = {"resamples": settings.bootstrap_resamples, "seed": settings.seed, "level": settings.confidence}
    score = clip_score(features, texts, captions, groups=groups, **draws)
    return {
        "clip": score,
        "score_interval": bootstrap_mean(score.per_image, groups=groups, **draws),
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
    groups: Tensor | None = None,
    on_batch: Progress = lambda done: None,
) -> list[UpsamplerFigures]:
    """Figures of bicubic enlarging and of every upsampler's images, bicubic last.

    real: uint8 [N, 3, H, W]. low: uint8 [N, 3, h, w], `patches.shrink` of real. enlarged: by id, (label,
    uint8 [N, 3, H, W]). groups: int64 [N], as `base_figures`'. Patches lie at the same places in every set.
    """
    enlarged = {**enlarged, "bicubic": ("bicubic", bicubic(low, real.shape[-1]))}
    places = patch_positions(
        torch.arange(len(real)),
        real.shape[-1],
        settings.patch_size,
        settings.patches_per_image,
        settings.seed,
    )

    draws = {"resamples": settings.bootstrap_resamples, "seed": settings.seed, "level": settings.confidence}
    # patches of one image, and variants of one drawing, are no independent evidence
    of_patches = (torch.arange(len(real)) if groups is None else groups).repeat_interleave(places.shape[1])

    def features(images: Tensor, name: str) -> FeatureSet:
        # image by image in batches: all patches at once would be P times the images' memory
        kept = SampleAccumulator()
        for some, where in zip(
            images.split(settings.batch_size), places.split(settings.batch_size), strict=True
        ):
            cut = cut_patches(some, where, settings.patch_size)
            kept.add(image_features(judge, cut, normalise=settings.normalise_features))
            on_batch(len(cut))
        return kept.features(name)

    reference = features(real, "patches of held-out images")
    patches = {key: features(images, f"patches of {label}") for key, (label, images) in enlarged.items()}
    distances = {key: frechet_distance(reference.moments, of_one.moments) for key, of_one in patches.items()}

    def beside_bicubic(key: str) -> Interval | None:
        if key == "bicubic":
            return None
        difference = distances[key].distance - distances["bicubic"].distance
        return difference_interval(
            reference, patches[key], patches["bicubic"], difference, groups=of_patches, **draws
        )

    def judged(key: str, label: str, images: Tensor) -> UpsamplerFigures:
        fd = distances[key]
        interval = distance_interval(
            reference, patches[key], fd.distance, groups=(of_patches, of_patches), **draws
        )
        of_images = {
            "psnr": _by_batch(psnr, images, real, settings),
            "ssim": _by_batch(ssim, images, real, settings),
            "consistency": _by_batch(consistency_error, images, low, settings),
        }
        means = {name: float(values.mean()) for name, values in of_images.items()}
        ends = {name: bootstrap_mean(values, groups=groups, **draws) for name, values in of_images.items()}
        return UpsamplerFigures(
            key,
            label,
            fd,
            psnr=means["psnr"],
            ssim=means["ssim"],
            consistency=math.sqrt(means["consistency"]),
            patch_interval=interval,
            psnr_interval=ends["psnr"],
            ssim_interval=ends["ssim"],
            consistency_interval=_root(ends["consistency"]),
            over_bicubic=beside_bicubic(key),
        )

    return [judged(key, label, images) for key, (label, images) in enlarged.items()]


def _by_batch(
    measure: Callable[[Tensor, Tensor], Tensor], images: Tensor, reference: Tensor, settings: EvaluateSettings
) -> Tensor:
    """A measure of each pair, float64 [N]; in float64 all images at once would be many times their memory."""
    pairs = zip(images.split(settings.batch_size), reference.split(settings.batch_size), strict=True)
    return torch.cat([measure(some, beside) for some, beside in pairs])


def _root(interval: Interval) -> Interval:
    """Of the root of a mean of squares: the root keeps the order of the resampled means."""
    low, high = (math.sqrt(end) for end in (interval.low, interval.high))
    return replace(interval, low=low, high=high, method=f"root of the mean square's {interval.method}")
