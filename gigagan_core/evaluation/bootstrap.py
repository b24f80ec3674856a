"""Intervals for means of per-image figures, seeded."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from gigagan_core.errors import GigaganError

_DRAWS_AT_ONCE = 4_000_000
OF_ONE_IMAGE = "no interval, for one image says nothing of how far others would move the figure"
"""The caution beside a figure of a single image."""


@dataclass(frozen=True)
class Interval:
    """low, high: ends. level: e.g. 0.95. method: how it was made, for the report."""

    low: float
    high: float
    level: float
    method: str

    def excludes(self, value: float) -> bool:
        """Whether value lies outside, on either side."""
        return not self.low <= value <= self.high


def bootstrap_mean(
    values: Tensor, *, resamples: int, seed: int, level: float = 0.95, groups: Tensor | None = None
) -> Interval:
    """Percentile bootstrap interval of the mean of values [N].

    resamples: number of bootstrap samples. seed: decides every draw. groups: int64 [N] in [0, G); where
    given, whole groups are drawn (images that share a drawing or a caption are not independent, and
    drawing them one by one would make the interval too narrow).
    Raises GigaganError for fewer than 2 values or a value that is not finite.
    """
    values = values.detach().to("cpu", torch.float64).flatten()
    if groups is None:
        sums, sizes = values, torch.ones_like(values)
    else:
        number = int(groups.max()) + 1
        sums = torch.zeros(number, dtype=torch.float64).index_add_(0, groups, values)
        sizes = torch.bincount(groups, minlength=number).to(torch.float64)
    if len(sums) < 2:
        raise GigaganError(f"a bootstrap interval needs at least 2 independent images, got {len(sums)}")
    if not torch.isfinite(values).all():
        raise GigaganError("a bootstrap interval needs finite values; some figures of single images are NaN")
    generator = torch.Generator().manual_seed(seed)
    step = max(1, _DRAWS_AT_ONCE // len(sums))
    means = []
    for done in range(0, resamples, step):
        drawn = torch.randint(len(sums), (min(step, resamples - done), len(sums)), generator=generator)
        means.append(sums[drawn].sum(dim=1) / sizes[drawn].sum(dim=1))
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = torch.cat(means).quantile(tails).tolist()
    unit = "images" if groups is None else f"{len(sums)} groups of images"
    return Interval(low, high, level, f"percentile bootstrap over {unit}, {resamples} resamples, seed {seed}")


def interval_of_mean(
    values: Tensor, *, resamples: int, seed: int, level: float = 0.95
) -> tuple[Interval | None, tuple[str, ...]]:
    """`bootstrap_mean` of values [N] and no caution; of a single image, whose value stands, None and OF_ONE_IMAGE."""
    if len(values) == 1:
        return None, (OF_ONE_IMAGE,)
    return bootstrap_mean(values, resamples=resamples, seed=seed, level=level), ()


def wilson(successes: int, count: int, level: float = 0.95, independent: int | None = None) -> Interval:
    """Wilson's binomial interval of a share: honest for few images and for shares near 0 or 1.

    successes of count images; independent: how many of them count as independent (default: all).
    """
    trials = count if independent is None else independent
    share = successes / count
    z = NormalDist().inv_cdf((1 + level) / 2)
    centre = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials**2))
    # exact at the ends, where rounding would leave 1e-17
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == count else min(1.0, centre + half)
    return Interval(low, high, level, f"Wilson, {trials} independent")
