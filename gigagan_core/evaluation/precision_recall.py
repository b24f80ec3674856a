"""Improved precision and recall: how much of each set lies on the other's manifold.

Kynkaanniemi et al. 2019, "Improved Precision and Recall Metric for Assessing Generative Models",
eqs. 1 and 2: a manifold is the union of balls around a set's features, each reaching to its k-th
nearest neighbour within the set.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gigagan_core.errors import GigaganError
from gigagan_core.evaluation.moments import require_finite

_ROWS_AT_ONCE = 2048


@dataclass(frozen=True)
class PrecisionRecall:
    """precision: share of generated images on the real manifold (fidelity), 0 to 1.
    recall: share of real images on the generated manifold (diversity), 0 to 1. k: neighbours."""

    precision: float
    recall: float
    k: int


def precision_recall(real: Tensor, fake: Tensor, k: int = 3) -> PrecisionRecall:
    """Precision and recall of fake features [M, D] against real features [N, D]; any float dtype.

    k: the paper's 3. Distances are taken in float64, so ties between equal images are exact.
    Raises GigaganError for non-finite features or a set with no k-th neighbour (size <= k).
    """
    for name, features in (("real images", real), ("generated images", fake)):
        require_finite(features, name)
        if len(features) <= k:
            raise GigaganError(
                f"precision and recall with k={k} need at least {k + 1} {name}, there are {len(features)}; "
                "evaluate more images or lower neighbours"
            )
    real, fake = real.to(torch.float64), fake.to(torch.float64)
    return PrecisionRecall(
        precision=_share_on_manifold(fake, real, _kth_neighbour_distance(real, k)),
        recall=_share_on_manifold(real, fake, _kth_neighbour_distance(fake, k)),
        k=k,
    )


def _kth_neighbour_distance(features: Tensor, k: int) -> Tensor:
    """[N] distance to the k-th nearest other member of the set."""
    # k + 1 smallest: the nearest is the point itself, at distance 0
    return torch.cat([_distances(rows, features).kthvalue(k + 1, dim=1).values for rows in _pieces(features)])


def _share_on_manifold(queries: Tensor, centres: Tensor, radii: Tensor) -> float:
    inside = sum(int((_distances(rows, centres) <= radii).any(dim=1).sum()) for rows in _pieces(queries))
    return inside / len(queries)


def _pieces(features: Tensor) -> tuple[Tensor, ...]:
    return features.split(_ROWS_AT_ONCE)


def _distances(rows: Tensor, columns: Tensor) -> Tensor:
    # Not through the dot product, whose rounding lifts the distance of equal points off zero.
    return torch.cdist(rows, columns, compute_mode="donot_use_mm_for_euclid_dist")
