"""Frechet distance between two Gaussians, by symmetric eigenvalues.

d^2 = |m1 - m2|^2 + tr(S1) + tr(S2) - 2 tr((S1 S2)^{1/2})          (Dowson and Landau 1982)

S1 S2 is similar to the symmetric S1^{1/2} S2 S1^{1/2}, so the last trace is the sum of the square
roots of that matrix's eigenvalues: no general matrix square root, no complex numbers, and no call
whose meaning changes between scipy's versions. The same value as clean-fid's on full-rank covariances.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gigagan_core.errors import GigaganError
from gigagan_core.evaluation.moments import Moments

# Rounding leaves about D * eps of the trace in wrongly negative eigenvalues; this is far above it.
_NEGATIVE_MASS_LIMIT = 1e-6


@dataclass(frozen=True)
class FrechetDistance:
    """A Frechet distance and what there is to know about its numerics.

    distance: squared distance, in squared feature units; not clamped, so equal sets may give -1e-15.
    mean_term: |m1 - m2|^2; covariance_term: the rest of the distance.
    negative_mass: share of the traces that sat in negative eigenvalues (rounding) and was set to 0.
    null_directions: directions of feature space without variance in either set, (first, second); where
    there are fewer images than dimensions there are at least D - N + 1 of them.
    count: images in the smaller set. dimensions: D.
    """

    distance: float
    mean_term: float
    covariance_term: float
    negative_mass: float
    null_directions: tuple[int, int]
    count: int
    dimensions: int

    @property
    def caution(self) -> str | None:
        """A sentence for the report where the estimate is biased or its numerics are poor, or None."""
        if self.count <= self.dimensions:
            return (
                f"fewer images ({self.count}) than feature dimensions allow ({self.dimensions} + 1): the "
                "covariance is singular and the distance biased upwards; compare only at equal count"
            )
        if self.negative_mass > _NEGATIVE_MASS_LIMIT:
            return f"{self.negative_mass:.1e} of the trace sat in negative eigenvalues; treat with care"
        return None


def frechet_distance(first: Moments, second: Moments) -> FrechetDistance:
    """Frechet distance of two sets from their moments, symmetric in its arguments up to rounding.

    Raises GigaganError where the feature dimensions differ or a set has fewer than 2 images.
    """
    if first.dimensions != second.dimensions:
        raise GigaganError(
            f"features of {first.dimensions} and of {second.dimensions} dimensions cannot be compared; "
            "extract both sets with the same encoder"
        )
    covariance_1, covariance_2 = first.covariance, second.covariance
    values_1, vectors_1 = torch.linalg.eigh(covariance_1)
    root_1 = (vectors_1 * values_1.clamp(min=0).sqrt()) @ vectors_1.T
    product = torch.linalg.eigvalsh(root_1 @ covariance_2 @ root_1)
    values_2 = torch.linalg.eigvalsh(covariance_2)

    mean_term = (first.mean - second.mean).square().sum()
    traces = covariance_1.trace() + covariance_2.trace()
    covariance_term = traces - 2 * product.clamp(min=0).sqrt().sum()
    negative = values_1.clamp(max=0).sum() + values_2.clamp(max=0).sum()
    return FrechetDistance(
        distance=float(mean_term + covariance_term),
        mean_term=float(mean_term),
        covariance_term=float(covariance_term),
        negative_mass=float(negative.abs() / traces) if traces > 0 else 0.0,
        null_directions=(_null_directions(values_1), _null_directions(values_2)),
        count=min(first.count, second.count),
        dimensions=first.dimensions,
    )


def _null_directions(eigenvalues: Tensor) -> int:
    """Eigenvalues that are zero up to rounding, of a covariance's ascending eigenvalues [D]."""
    threshold = eigenvalues[-1].clamp(min=0) * len(eigenvalues) * torch.finfo(torch.float64).eps
    return int((eigenvalues <= threshold).sum())
