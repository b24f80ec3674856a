"""Galleries of a report: the best, the worst and the failures, chosen by figures and by nobody's eye."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gigagan_core.config.evaluate import EvaluateSettings
from gigagan_core.evaluation.judging import BaseFeatures
from gigagan_core.evaluation.neighbours import (
    Memorisation,
    Repetition,
    memorisation,
    nearest,
    repetition,
)


@dataclass(frozen=True)
class Sample:
    """A caption (a stranger's text, raw), its pictures by column title, uint8 [3, H, W], and a note on them."""

    caption: str
    images: Mapping[str, Tensor]
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
    """What galleries show: captions [N], generated and real uint8 [N, 3, H, W], training uint8 [T, 3, H, W] or None."""

    captions: list[str]
    generated: Tensor
    real: Tensor
    training: Tensor | None = None


@dataclass(frozen=True)
class Chosen:
    """The galleries, and what the nearest neighbours said; memorisation is None without training images."""

    galleries: list[Gallery]
    memorisation: Memorisation | None
    repetition: Repetition | None


def choose(
    pictures: Pictures,
    features: BaseFeatures,
    scores: Tensor,
    shown: list[int],
    groups: Tensor,
    settings: EvaluateSettings,
) -> Chosen:
    """Every gallery of a report.

    scores: float64 [N], the generated images' cosines with their captions. shown: positions of the report's samples.
    groups: int64 [N], equal for variants of one drawing; repetition is None where all are variants of one.
    """
    count, found, twins = settings.gallery_shown, None, None
    chosen = [*by_score(pictures, scores, count), far_from_real(pictures, features, count)]
    if len(groups.unique()) > 1:
        twins = repetition(features.generated, features.real, groups, settings.confidence)
        chosen.append(alike(pictures, twins, count))
    if features.training is not None:
        found = memorisation(
            features.generated,
            features.real,
            features.training,
            resamples=settings.bootstrap_resamples,
            seed=settings.seed,
            level=settings.confidence,
            groups=groups,
        )
        chosen += near_training(pictures, features, found, shown, count)
    return Chosen(chosen, found, twins)


def by_score(pictures: Pictures, scores: Tensor, count: int) -> list[Gallery]:
    """The images with the highest and the lowest CLIP score; scores: float64 [N]."""
    order = scores.argsort(descending=True, stable=True)
    return [
        Gallery(
            key,
            "scores",
            title,
            f"The {len(rows)} of {len(scores)} images whose cosine with their caption is {which}.",
            [_beside_real(pictures, row, f"cosine {scores[row]:.3f}") for row in rows.tolist()],
        )
        for key, title, which, rows in (
            ("best", "Best by CLIP score", "highest", order[:count]),
            ("worst", "Worst by CLIP score", "lowest", order.flip(0)[:count]),
        )
    ]


def far_from_real(pictures: Pictures, features: BaseFeatures, count: int) -> Gallery:
    """The images whose nearest real image, held-out or of training, is farthest away."""
    known, images = features.real, pictures.real
    if features.training is not None and pictures.training is not None:
        known = torch.cat([known, features.training])
        images = torch.cat([images, pictures.training[features.searched]])
    found = nearest(features.generated, known)
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
                {"generated": pictures.generated[row], "nearest real": images[found.index[row]]},
                f"distance {found.distance[row]:.3f}",
            )
            for row in rows
        ],
    )


def alike(pictures: Pictures, found: Repetition, count: int) -> Gallery:
    """Pairs of generated images for different captions that are nearest to each other: mode collapse shows here."""
    taken: set[int] = set()
    samples = []
    for row in found.generated.distance.argsort(stable=True).tolist():
        other = int(found.generated.index[row])
        if len(samples) < count and not {row, other} & taken:
            taken |= {row, other}
            caption = f"{pictures.captions[row]} / {pictures.captions[other]}"
            images = {"first": pictures.generated[row], "second": pictures.generated[other]}
            samples.append(Sample(caption, images, f"distance {found.generated.distance[row]:.3f}"))
    return Gallery(
        "alike",
        "failures",
        "Alike for different captions",
        "The nearest pairs; variants of one drawing are no pair.",
        samples,
    )


def near_training(
    pictures: Pictures, features: BaseFeatures, found: Memorisation, shown: list[int], count: int
) -> list[Gallery]:
    """Samples beside their nearest training image: those drawn by seed, and those that come nearest."""
    if pictures.training is None or features.searched is None:
        return []
    training, searched = pictures.training, features.searched
    closest = found.generated.distance.argsort(stable=True)[:count].tolist()

    def sample(row: int) -> Sample:
        return Sample(
            pictures.captions[row],
            {
                "generated": pictures.generated[row],
                "nearest training": training[searched[found.generated.index[row]]],
            },
            f"distance {found.generated.distance[row]:.3f}; {found.positions[row]:.0%} of held-out images are nearer",
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
    images = {"generated": pictures.generated[row], "real": pictures.real[row]}
    return Sample(pictures.captions[row], images, note)
