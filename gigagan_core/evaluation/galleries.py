"""Galleries of a report: the best, the worst and the failures, chosen by figures and by nobody's eye."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gigagan_core.config.evaluate import EvaluateSettings
from gigagan_core.evaluation.baselines import sample as drawn
from gigagan_core.evaluation.judging import BaseFeatures
from gigagan_core.evaluation.neighbours import (
    Memorisation,
    Nearest,
    Repetition,
    memorisation,
    nearest,
    repetition,
)
from gigagan_core.evaluation.set_metrics import MeasureOptions


@dataclass(frozen=True)
class Sample:
    """A caption (a stranger's text, raw), its pictures by column title, uint8 [3, H, W], and a note on them."""

    caption: str
    images: Mapping[str, Any]
    note: str = ""


@dataclass(frozen=True)
class Gallery:
    """id: stable key. section: "scores", "failures" or "memorisation". note: how its images were chosen."""

    id: str
    section: str
    title: str
    note: str
    samples: Sequence[Sample]


@dataclass(frozen=True)
class Pictures:
    """What galleries show: captions [N], generated [N], real [M] and training [T] or None.

    Pictures are uint8 [3, H, W] by their row, or anything that stands for them until those that were chosen are there.
    """

    captions: Sequence[str]
    generated: Sequence[Any] | Tensor
    real: Sequence[Any] | Tensor | None = None
    training: Sequence[Any] | Tensor | None = None


@dataclass(frozen=True)
class Compared:
    """Features by which neighbours are looked for: generated [N, D], real [M, D] and training [T, D] or None.

    groups: int64 [N], equal for variants of one drawing or equal captions. real_groups: int64 [M], likewise.
    """

    generated: Tensor
    groups: Tensor
    real: Tensor | None = None
    real_groups: Tensor | None = None
    training: Tensor | None = None


@dataclass(frozen=True)
class Chosen:
    """The galleries, and what the nearest neighbours said; memorisation is None without training or real images."""

    galleries: list[Gallery]
    memorisation: Memorisation | None = None
    repetition: Repetition | None = None


def choose(
    pictures: Pictures,
    features: BaseFeatures,
    scores: Tensor,
    shown: list[int],
    groups: Tensor,
    settings: EvaluateSettings,
) -> Chosen:
    """Every gallery of a report on images beside held-out ones.

    scores: float64 [N], the generated images' cosines with their captions. shown: positions of the report's samples.
    groups: int64 [N], equal for variants of one drawing; repetition is None where all are variants of one.
    """
    training = pictures.training
    if isinstance(training, Tensor):
        training = training[features.searched]
    options = MeasureOptions(settings.seed, settings.bootstrap_resamples, settings.confidence)
    found = by_neighbours(
        Pictures(pictures.captions, pictures.generated, pictures.real, training),
        Compared(features.generated, groups, features.real, groups, features.training),
        shown,
        settings.gallery_shown,
        options,
    )
    best_and_worst = by_score(pictures, scores, settings.gallery_shown)
    return Chosen([*best_and_worst, *found.galleries], found.memorisation, found.repetition)


def by_neighbours(
    pictures: Pictures, features: Compared, shown: list[int], count: int, options: MeasureOptions
) -> Chosen:
    """What is far from every real image, what repeats, and what is near a training image, `count` of each.

    shown: positions of the report's samples. Without real images nothing is far and no figure says how often images
    repeat or are copied; with fewer of them than generated ones the first figure is missing too, and with a single
    group of images both are.
    """
    chosen, twins, found = [], None, None
    several = len(features.groups.unique()) > 1
    if features.real is not None:
        chosen.append(far_from_real(pictures, features, count))
    if several:
        twins = _repetition(features, options)
        made, groups = features.generated, features.groups
        pairs = twins.generated if twins else nearest(made, made, groups, groups)
        chosen.append(alike(pictures, pairs, count))
    if features.training is not None:
        if features.real is None or not several:
            near, positions = nearest(features.generated, features.training), None
        else:
            found = memorisation(
                features.generated,
                features.real,
                features.training,
                resamples=options.resamples,
                seed=options.seed,
                level=options.level,
                groups=features.groups,
            )
            near, positions = found.generated, found.positions
        chosen += near_training(pictures, near, positions, shown, count)
    return Chosen(chosen, found, twins)


def _repetition(features: Compared, options: MeasureOptions) -> Repetition | None:
    """Measured by as many real images as there are generated ones: among more, each has a nearer neighbour."""
    real, groups = features.real, features.real_groups
    if real is None or groups is None or len(real) < len(features.generated):
        return None
    rows = drawn(len(features.generated), len(real), options.seed)
    if len(groups[rows].unique()) < 2:  # one picture again and again
        return None
    return repetition(features.generated, real[rows], features.groups, options.level, groups[rows])


def by_score(pictures: Pictures, scores: Tensor, count: int, network: str = "") -> list[Gallery]:
    """The images with the highest and the lowest CLIP score; scores: float64 [N]. network: that gave them, if named."""
    order = scores.argsort(descending=True, stable=True)
    by = f" by {network}" if network else ""
    return [
        Gallery(
            key,
            "scores",
            title,
            f"The {len(rows)} of {len(scores):,} images whose cosine with their caption{by} is {which}.",
            [_beside_real(pictures, row, f"cosine {scores[row]:.3f}") for row in rows.tolist()],
        )
        for key, title, which, rows in (
            ("best", "Best by CLIP score", "highest", order[:count]),
            ("worst", "Worst by CLIP score", "lowest", order.flip(0)[:count]),
        )
    ]


def far_from_real(pictures: Pictures, features: Compared, count: int) -> Gallery:
    """The images whose nearest real image, held-out or of training, is farthest away."""
    if features.real is None or pictures.real is None:
        raise AssertionError("no real images to be far from")
    known, images = features.real, pictures.real
    more = pictures.training if features.training is not None else None
    if features.training is not None:
        known = torch.cat([known, features.training])
    found = nearest(features.generated, known)

    def picture(place: int) -> Any:
        return images[place] if place < len(images) or more is None else more[place - len(images)]

    rows = found.distance.argsort(descending=True, stable=True)[:count].tolist()
    return Gallery(
        "far",
        "failures",
        "Unlike any real image",
        f"Farthest from the nearest of {len(known):,} real images, by the judge's features. Beside each the real image "
        "that comes nearest.",
        [
            Sample(
                pictures.captions[row],
                {"generated": pictures.generated[row], "nearest real": picture(int(found.index[row]))},
                f"distance {found.distance[row]:.3f}",
            )
            for row in rows
        ],
    )


def far_from_own(pictures: Pictures, distance: Tensor, count: int) -> Gallery:
    """The images farthest from the real image that each was made from; distance: float [N], row i from real image i."""
    rows = distance.argsort(descending=True, stable=True)[:count].tolist()
    return Gallery(
        "far",
        "failures",
        "Unlike what they were made from",
        f"Of {len(distance):,} images those farthest from the real image whose shrunk version was enlarged, by the "
        "judge's features.",
        [_beside_real(pictures, row, f"distance {distance[row]:.3f}") for row in rows],
    )


def alike(pictures: Pictures, found: Nearest, count: int) -> Gallery:
    """Pairs of generated images for different captions that are nearest to each other: mode collapse shows here.

    found: of each generated image, its nearest for another caption.
    """
    taken: set[int] = set()
    samples = []
    for row in found.distance.argsort(stable=True).tolist():
        other = int(found.index[row])
        if len(samples) < count and not {row, other} & taken:
            taken |= {row, other}
            caption = f"{pictures.captions[row]} / {pictures.captions[other]}"
            images = {"first": pictures.generated[row], "second": pictures.generated[other]}
            samples.append(Sample(caption, images, f"distance {found.distance[row]:.3f}"))
    return Gallery(
        "alike",
        "failures",
        "Alike for different captions",
        "The nearest pairs; images for equal captions, or for variants of one drawing, are no pair.",
        samples,
    )


def near_training(
    pictures: Pictures, found: Nearest, positions: Tensor | None, shown: list[int], count: int
) -> list[Gallery]:
    """Samples beside their nearest training image: those drawn by seed, and those that come nearest.

    found: of each generated image, its nearest in `pictures.training`. positions: float64 [N], share of held-out images
    that are nearer, or None where there are none.
    """
    training = pictures.training
    if training is None:
        raise AssertionError("no training images to be near to")
    closest = found.distance.argsort(stable=True)[:count].tolist()

    def sample(row: int) -> Sample:
        place = "" if positions is None else f"; {positions[row]:.0%} of held-out images are nearer"
        return Sample(
            pictures.captions[row],
            {"generated": pictures.generated[row], "nearest training": training[int(found.index[row])]},
            f"distance {found.distance[row]:.3f}{place}",
        )

    return [
        Gallery(
            "neighbours",
            "memorisation",
            "Samples and their nearest training image",
            "The first of the samples above, drawn by seed.",
            [sample(row) for row in shown[:count]],
        ),
        Gallery(
            "closest",
            "memorisation",
            "Nearest to a training image",
            "The images that come nearest to one: a copy would stand here.",
            [sample(row) for row in closest],
        ),
    ]


def _beside_real(pictures: Pictures, row: int, note: str) -> Sample:
    images = {"generated": pictures.generated[row]}
    if pictures.real is not None:
        images["real"] = pictures.real[row]
    return Sample(pictures.captions[row], images, note)
