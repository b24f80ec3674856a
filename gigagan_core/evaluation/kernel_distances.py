"""Distances by kernels: KID and CMMD. Unlike a Frechet distance they assume no Gaussians."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gigagan_core.errors import GigaganError
from gigagan_core.evaluation.moments import require_finite

_ROWS_AT_ONCE = 2048
CMMD_SIGMA, CMMD_SCALE = 10.0, 1000.0
"""Jayasumana et al. 2024, "Rethinking FID", and their released code (google-research/cmmd): bandwidth and factor."""
CMMD_NETWORK, CMMD_ASSET = "ViT-L-14-336", "clip-vit-l14-336"
"""The network whose features they take, and the name of its weights (OpenAI's) in the catalogue of assets."""


@dataclass(frozen=True)
class KernelDistance:
    """value: mean over subsets. spread: standard deviation over subsets, each of subset_size images of either set; None
    where every subset is all images."""

    value: float
    spread: float | None
    subsets: int
    subset_size: int


def kid(
    real: Tensor, fake: Tensor, *, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> KernelDistance:
    """Kernel Inception Distance of features [N, D] and [M, D] (Binkowski et al. 2018, eq. 4, unbiased).

    The kernel is (x.y / D + 1)^3, in float64. Subsets are drawn without repetition by seed; subset_size is lowered to
    the smaller set, and where that is all of both sets there is one subset. May be negative: it is unbiased.
    Raises GigaganError for non-finite features or a single image.
    """
    for name, features in (("real images", real), ("generated images", fake)):
        require_finite(features, name)
    size = min(len(real), len(fake), subset_size)
    if size < 2:
        raise GigaganError("KID needs at least 2 images of either set; evaluate more of them")
    is_one_subset = size == len(real) == len(fake)
    if is_one_subset:  # the order of the images moves nothing but the last digits
        subsets = 1
    generator = torch.Generator().manual_seed(seed)
    values = torch.stack(
        [
            _unbiased_mmd(*(_draw(features, size, generator) for features in (real, fake)))
            for _ in range(subsets)
        ]
    )
    spread = None if is_one_subset else float(values.std(correction=0))
    return KernelDistance(float(values.mean()), spread, subsets, size)


def _draw(features: Tensor, size: int, generator: torch.Generator) -> Tensor:
    return features[torch.randperm(len(features), generator=generator)[:size]].to(torch.float64)


def _unbiased_mmd(x: Tensor, y: Tensor) -> Tensor:
    size = len(x)
    within = sum(_polynomial(z, z) for z in (x, y))
    off_diagonal = within.sum() - within.trace()
    return off_diagonal / (size * (size - 1)) - 2 * _polynomial(x, y).mean()


def _polynomial(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3


def cmmd(real: Tensor, fake: Tensor) -> float:
    """CLIP maximum mean discrepancy of features [N, D] and [M, D] (Jayasumana et al. 2024), >= 0.

    1000 times the squared discrepancy under the Gaussian kernel of sigma 10 on features of unit length; as in the
    released code the estimate is the biased one, with each image's kernel to itself. float64, block by block.
    Raises GigaganError for non-finite features.
    """
    sets = []
    for name, features in (("real images", real), ("generated images", fake)):
        require_finite(features, name)
        sets.append(F.normalize(features.to(torch.float64), dim=1))
    first, second = sets
    discrepancy = _mean_gaussian(first, first) + _mean_gaussian(second, second)
    return CMMD_SCALE * (discrepancy - 2 * _mean_gaussian(first, second))


def _mean_gaussian(x: Tensor, y: Tensor) -> float:
    """Mean over all pairs of exp(-|x - y|^2 / (2 sigma^2)), of features of unit length."""
    total = 0.0
    for rows in x.split(_ROWS_AT_ONCE):
        total += float(torch.exp((rows @ y.T - 1) / CMMD_SIGMA**2).sum())
    return total / (len(x) * len(y))
