"""Manifolds of features: improved precision and recall, density and coverage, from one set of distances.

Kynkaanniemi et al. 2019, "Improved Precision and Recall Metric for Assessing Generative Models", eqs. 1 and 2: a
manifold is the union of balls around a set's features, each reaching to its k-th nearest neighbour within the set.
Naeem et al. 2020, "Reliable Fidelity and Diversity Metrics for Generative Models", eqs. 2 and 3: density counts in how
many real balls a generated image lies, coverage in how many real balls a generated image lies at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from gigagan_core.errors import GigaganError
from gigagan_core.evaluation.moments import require_finite

_ROWS_AT_ONCE = 1024
# Products round to about 1e-15 of the squared lengths: distances closer than this count as equal, so a tie is a tie.
_TIE = 1e-12


@dataclass(frozen=True)
class PrecisionRecall:
    """precision: share of generated images on the real manifold (fidelity), 0 to 1.
    recall: share of real images on the generated manifold (diversity), 0 to 1. k: neighbours."""

    precision: float
    recall: float
    k: int


@dataclass(frozen=True)
class DensityCoverage:
    """density: real balls around a generated image, over k; 1 on average where the sets are alike, may be above.
    coverage: share of real balls that hold a generated image, 0 to 1. k: neighbours.
    per_image: float64 [M], the densities of single images, whose mean is density."""

    density: float
    coverage: float
    k: int
    per_image: Tensor


@dataclass(frozen=True)
class Manifolds:
    """Both pairs of figures, or the first alone."""

    shares: PrecisionRecall
    coverage: DensityCoverage | None


def precision_recall(real: Tensor, fake: Tensor, k: int = 3) -> PrecisionRecall:
    """Precision and recall of fake features [M, D] against real features [N, D]; any float dtype.

    k: the paper's 3. Raises GigaganError as `manifolds` does.
    """
    return manifolds(real, fake, k, None).shares


def manifolds(real: Tensor, fake: Tensor, k: int = 3, density_k: int | None = 5) -> Manifolds:
    """All four figures of fake features [M, D] against real features [N, D]; any float dtype.

    k: of precision and recall, density_k: of density and coverage (5, Naeem et al.), None: leave these out. Distances
    are taken in float64, every pair once, in blocks of rows. Raises GigaganError for non-finite features or a
    set with no k-th neighbour (size <= k).
    """
    for name, features, needed in (
        ("real images", real, max(k, density_k or 0)),
        ("generated images", fake, k),
    ):
        require_finite(features, name)
        if len(features) <= needed:
            raise GigaganError(
                f"precision and recall with k={needed} need at least {needed + 1} {name}, there are {len(features)}; "
                "evaluate more images or lower neighbours"
            )
    real, fake = real.to(torch.float64), fake.to(torch.float64)
    # A common shift changes no distance and keeps the lengths, whose rounding is what matters, small.
    centre = real.mean(dim=0)
    real, fake = real - centre, fake - centre
    near_real = _kth_distances(real, (k, density_k or k))
    (near_fake,) = _kth_distances(fake, (k,))

    on_real = torch.zeros(len(fake), dtype=torch.bool)
    balls = torch.zeros(len(fake), dtype=torch.float64)
    on_fake, covered = [], []
    for rows, distances, tie in _blocks(real, fake):
        on_real |= (distances <= near_real[0][rows, None] + tie).any(dim=0)
        on_fake.append((distances <= near_fake + tie).any(dim=1))
        # strictly inside, as in the authors' code
        inside = distances < near_real[1][rows, None] - tie
        balls += inside.sum(dim=0)
        covered.append(inside.any(dim=1))
    shares = PrecisionRecall(_share(on_real), _share(torch.cat(on_fake)), k)
    if density_k is None:
        return Manifolds(shares, None)
    per_image = balls / density_k
    density = DensityCoverage(float(per_image.mean()), _share(torch.cat(covered)), density_k, per_image)
    return Manifolds(shares, density)


def _kth_distances(features: Tensor, ks: tuple[int, ...]) -> list[Tensor]:
    """[N] squared distance to the k-th nearest other member of the set, for each k."""
    found: list[list[Tensor]] = [[] for _ in ks]
    for _, distances, _ in _blocks(features, features):
        # one more than k: the nearest is the point itself, at distance 0
        nearest = distances.topk(max(ks) + 1, dim=1, largest=False).values
        for pieces, k in zip(found, ks, strict=True):
            pieces.append(nearest[:, k])
    return [torch.cat(pieces) for pieces in found]


def _blocks(rows: Tensor, columns: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """(which rows, squared distances [n, M], what is too close to tell from a tie [n, M]) block by block."""
    squares = columns.square().sum(dim=1)
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        block = rows[start : start + _ROWS_AT_ONCE]
        lengths = block.square().sum(dim=1)[:, None] + squares
        distances = torch.addmm(lengths, block, columns.T, alpha=-2).clamp_(min=0)
        yield slice(start, start + len(block)), distances, lengths.mul_(_TIE)


def _share(members: Tensor) -> float:
    return float(members.to(torch.float64).mean())
