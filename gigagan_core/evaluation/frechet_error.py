"""How far to trust a Frechet distance: its sampling interval, and its value without the bias of the count."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gigagan_core.errors import GigaganError
from gigagan_core.evaluation.bootstrap import Interval, bootstrap_mean
from gigagan_core.evaluation.feature_set import FeatureSet
from gigagan_core.evaluation.frechet import Reference, cholesky
from gigagan_core.evaluation.moments import Moments

_RELATIVE_RANK = 1e-10


def influences(real: FeatureSet, fake: FeatureSet) -> tuple[Tensor, Tensor]:
    """How much each image moves the distance: float64 [N] of the real ones, [M] of the generated, each of mean 0.

    The first-order influence of an image x of the second set, S its covariance, on d^2:
    2 (m2 - m1).(x - m2) + (x - m2)^T (I - T) (x - m2) - tr((I - T) S), where the symmetric T with T S T = S1 is the
    optimal transport map from the second set to the first; of the first set likewise.
    """
    back, forth = _transports(real.moments.covariance, fake.moments.covariance)
    shift = fake.moments.mean - real.moments.mean
    return _effects(real, forth, -shift), _effects(fake, back, shift)


def _effects(features: FeatureSet, transport: Tensor, shift: Tensor) -> Tensor:
    slope = torch.eye(len(shift), dtype=torch.float64) - transport
    pieces = []
    for piece in features:
        deviation = piece.to(torch.float64) - features.moments.mean
        pieces.append(2 * deviation @ shift + ((deviation @ slope) * deviation).sum(dim=1))
    values = torch.cat(pieces)
    return values - values.mean()


def _transports(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """The maps from second to first and from first to second: T S2 T = S1, and its inverse.

    With S2 = L L^T and M = L^T S1 L they are L^{-T} M^{1/2} L^{-1} and L M^{-1/2} L^T; inverses are taken on the range
    of S2, where there are fewer images than dimensions.
    """
    factor = cholesky(second)
    if factor is not None:
        identity = torch.eye(len(factor), dtype=factor.dtype)
        inverse = torch.linalg.solve_triangular(factor, identity, upper=False).T
    else:
        values, vectors = torch.linalg.eigh(second)
        kept = values > values[-1:] * _RELATIVE_RANK
        root = values[kept].sqrt()
        factor, inverse = vectors[:, kept] * root, vectors[:, kept] / root
    values, vectors = torch.linalg.eigh(factor.T @ first @ factor)
    values = values.clamp(min=0)
    # a slice, since a set of equal images has no direction at all
    kept = values > values[-1:] * _RELATIVE_RANK**2
    back, forth = inverse @ vectors, (factor @ vectors)[:, kept]
    return (back * values.sqrt()) @ back.T, (forth / values[kept].sqrt()) @ forth.T


def distance_interval(
    real: FeatureSet,
    fake: FeatureSet,
    distance: float,
    *,
    resamples: int,
    seed: int,
    level: float = 0.95,
    groups: tuple[Tensor | None, Tensor | None] = (None, None),
) -> Interval:
    """Bootstrap interval of a Frechet distance for the images drawn of both sets, on its linearisation.

    groups: of the real and of the generated images, see `bootstrap_mean`.

    Resampling images and computing the distance anew would cost seconds a resample at 2048 dimensions and lift every
    value by its own bias; resampled influences give the spread alone. The bias that a finite count puts into the
    distance is not in the interval: see `extrapolate`.
    """
    ends = [
        bootstrap_mean(effects, resamples=resamples, seed=seed + place, level=level, groups=groups[place])
        for place, effects in enumerate(influences(real, fake))
    ]
    # independent sets: half-widths add in squares
    low = distance - sum(end.low**2 for end in ends) ** 0.5
    low = max(low, min(distance, 0.0))  # no distance is below 0
    high = distance + sum(end.high**2 for end in ends) ** 0.5
    method = (
        f"bootstrap of the linearised distance over images of both sets, {resamples} resamples, seed {seed}"
    )
    return Interval(low, high, level, method)


def difference_interval(
    real: FeatureSet,
    first: FeatureSet,
    second: FeatureSet,
    difference: float,
    *,
    resamples: int,
    seed: int,
    level: float = 0.95,
    groups: Tensor | None = None,
) -> Interval:
    """Bootstrap interval of the distance of `first` to `real` less that of `second`, of paired sets.

    Row i of each set is of the same picture: what makes a picture hard for one of two makes it hard for the other, so
    that the difference is known better than either distance. difference: of the two distances. groups: see
    `bootstrap_mean`. Raises GigaganError for sets of different counts.
    """
    if not len(real) == len(first) == len(second):
        raise GigaganError(
            f"distances are compared image by image, and there are {len(real)}, {len(first)} and {len(second)} images"
        )
    of_first, of_second = influences(real, first), influences(real, second)
    effects = sum(of_first) - sum(of_second)
    moved = bootstrap_mean(effects, resamples=resamples, seed=seed, level=level, groups=groups)
    method = f"bootstrap of the difference of linearised distances over pictures, {resamples} resamples, seed {seed}"
    return Interval(difference + moved.low, difference + moved.high, level, method)


@dataclass(frozen=True)
class Extrapolation:
    """FD-infinity and the line it came from. value: at 1/N = 0. slope: per 1/N. sizes, distances: the points.
    residual: standard deviation of the points around the line."""

    value: float
    slope: float
    sizes: tuple[int, ...]
    distances: tuple[float, ...]
    residual: float


def extrapolate(reference: Reference, fake: FeatureSet, *, points: int = 15, seed: int = 0) -> Extrapolation:
    """The distance extrapolated to infinitely many generated images (Chong and Forsyth 2020, section 4).

    The distance is linear in 1/N for large N: it is taken on seeded random subsets of `points` sizes, evenly spaced
    from 5,000 (half the set where that is less) to all, and the line is read off at 0. The reference is used whole.
    Raises GigaganError for fewer than 20 images.
    """
    total = len(fake)
    if total < 20:
        raise GigaganError(f"FD-infinity needs at least 20 generated images, there are {total}")
    features = fake.all()
    sizes = torch.linspace(min(5000, total // 2), total, points).round().long().tolist()
    generator = torch.Generator().manual_seed(seed)
    distances = []
    for size in sizes:
        rows = torch.randperm(total, generator=generator)[:size]
        distances.append(reference.distance(Moments.of(features[rows], fake.name)).distance)
    inverse = 1 / torch.tensor(sizes, dtype=torch.float64)
    values = torch.tensor(distances, dtype=torch.float64)
    design = torch.stack([torch.ones_like(inverse), inverse], dim=1)
    value, slope = torch.linalg.lstsq(design, values[:, None]).solution[:, 0]
    residual = (values - value - slope * inverse).square().mean().sqrt()
    return Extrapolation(float(value), float(slope), tuple(sizes), tuple(distances), float(residual))
