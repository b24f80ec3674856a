"""Nearest neighbours among features, and what they say: copies of training images, images that repeat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from gigagan_core.errors import GigaganError
from gigagan_core.evaluation.bootstrap import Interval, bootstrap_mean, wilson
from gigagan_core.evaluation.moments import require_finite

_ROWS_AT_ONCE = 1024
NEAR_QUANTILE = 0.01
"""Generated images as near to each other as this share of real ones are near-duplicates."""


class Nearest(NamedTuple):
    """distance: float64 [N], Euclidean, to the nearest. index: int64 [N], which one it is."""

    distance: Tensor
    index: Tensor


def nearest(
    features: Tensor, others: Tensor, groups: Tensor | None = None, other_groups: Tensor | None = None
) -> Nearest:
    """The nearest of others [M, D] to each of features [N, D].

    groups, other_groups: int64 [N], [M]; members of one group are no neighbours of each other.
    Raises GigaganError for features that are not finite, or where one has no neighbour at all.
    """
    require_finite(features, "images")
    require_finite(others, "images to search")
    others = others.to(torch.float64)
    lengths = others.square().sum(dim=1)
    distances, found = [], []
    for start in range(0, len(features), _ROWS_AT_ONCE):
        rows = features[start : start + _ROWS_AT_ONCE].to(torch.float64)
        scores = torch.addmm(lengths, rows, others.T, alpha=-2)
        if groups is not None and other_groups is not None:
            scores[groups[start : start + len(rows), None] == other_groups] = torch.inf
        best = scores.min(dim=1)
        if torch.isinf(best.values).any():
            raise GigaganError(
                "an image has no other to be compared with: all belong to its own group; evaluate more captions"
            )
        found.append(best.indices)
        # the search's products round to 1e-8 of the lengths; a copy should have distance 0
        distances.append((rows - others[best.indices]).norm(dim=1))
    return Nearest(torch.cat(distances), torch.cat(found))


@dataclass(frozen=True)
class Memorisation:
    """Are generated images nearer to the training images than new real ones are?

    generated, held_out: of each image to its nearest training image. searched: how many there were. closer: chance
    that a generated image is nearer to its training neighbour than a held-out real image is to its own; one half where
    the model is no nearer to its training images than new data, 1 where it copies them; its interval over the
    generated images. positions: float64 [N], share of held-out images that are nearer than each generated image.
    """

    generated: Nearest
    held_out: Nearest
    searched: int
    closer: float
    interval: Interval
    positions: Tensor


def memorisation(
    generated: Tensor,
    held_out: Tensor,
    training: Tensor,
    *,
    resamples: int,
    seed: int,
    level: float = 0.95,
    groups: Tensor | None = None,
) -> Memorisation:
    """The test of Meehan et al. 2020, "A Non-Parametric Test to Detect Data-Copying in Generative Models", section 3.

    generated [N, D], held_out [M, D], training [T, D]: features. Its Mann-Whitney statistic is taken over all of
    space and given as a chance; resamples, seed, level, groups: of the interval, see `bootstrap_mean`.
    """
    made, real = nearest(generated, training), nearest(held_out, training)
    ordered = real.distance.sort().values
    below = torch.searchsorted(ordered, made.distance)
    up_to = torch.searchsorted(ordered, made.distance, right=True)
    positions = (below + up_to).to(torch.float64) / (2 * len(ordered))
    interval = bootstrap_mean(1 - positions, resamples=resamples, seed=seed, level=level, groups=groups)
    return Memorisation(made, real, len(training), float((1 - positions).mean()), interval, positions)


@dataclass(frozen=True)
class Repetition:
    """Do generated images for different captions look alike?

    generated, real: nearest image of another group within the same set. threshold: the distance that `NEAR_QUANTILE`
    of the real images are at or below, 0 where so many have a twin of equal features. share: of the generated images
    that are at or below it; its interval.
    """

    generated: Nearest
    real: Nearest
    threshold: float
    share: float
    interval: Interval


def repetition(
    generated: Tensor,
    real: Tensor,
    groups: Tensor,
    level: float = 0.95,
    real_groups: Tensor | None = None,
) -> Repetition:
    """Near-duplicates among generated [N, D], measured by how near real [N, D] come to each other.

    groups: int64 [N], equal for variants of one drawing or equal captions, which may well look alike; real_groups: of
    the real ones, None: the same.
    """
    of_real = groups if real_groups is None else real_groups
    made, known = nearest(generated, generated, groups, groups), nearest(real, real, of_real, of_real)
    threshold = float(known.distance.quantile(NEAR_QUANTILE))
    near = int((made.distance <= threshold).sum())  # both may be 0
    interval = wilson(near, len(generated), level, len(groups.unique()))
    return Repetition(made, known, threshold, near / len(generated), interval)
