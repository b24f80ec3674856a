"""Frechet distance between two Gaussians, by symmetric eigenvalues.

d^2 = |m1 - m2|^2 + tr(S1) + tr(S2) - 2 tr((S1 S2)^{1/2})          (Dowson and Landau 1982)

With S1 = L L^T, S1 S2 has the eigenvalues of the symmetric L^T S2 L, so the last trace is the sum of the
square roots of those: no general matrix square root, no complex numbers, and no call whose meaning
changes between scipy's versions. The same value as clean-fid's on full-rank covariances.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gigagan_core.errors import GigaganError
from gigagan_core.evaluation.moments import Moments

# Rounding leaves about D * eps of the trace in wrongly negative eigenvalues; this is far above it.
_NEGATIVE_MASS_LIMIT = 1e-6
# A root turns a rounding of 1e-16 into 1e-8, and there are D of them; clean-fid gives up at about this.
_IMAGINARY_MASS_LIMIT = 1e-3
# Far above D * eps, so that no direction of a covariance that passes can count as null.
_LEAST_PIVOT = 1e-9


@dataclass(frozen=True)
class FrechetDistance:
    """A Frechet distance and what there is to know about its numerics.

    distance: squared distance, in squared feature units; not clamped, so equal sets may give -1e-15.
    mean_term: |m1 - m2|^2; covariance_term: the rest of the distance.
    negative_mass: share of the traces that sat in negative eigenvalues (rounding) and was set to 0.
    imaginary_mass: share of the traces that the imaginary part of (S1 S2)^{1/2} holds, from negative eigenvalues of
    the product (rounding), and that was left out of the distance.
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
    imaginary_mass: float = 0.0

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
        if self.imaginary_mass > _IMAGINARY_MASS_LIMIT:
            return f"the root of the product is imaginary by {self.imaginary_mass:.1e} of the trace; treat with care"
        if any(self.null_directions):
            return (
                f"{self.null_directions[0]} directions of feature space have no variance in the first set and "
                f"{self.null_directions[1]} in the second, of {self.dimensions}: many images are alike, or features "
                "that never fire"
            )
        return None


class Reference:
    """One set's moments with what every distance to it needs, so that many distances cost little more than one.

    The factor L with L L^T = S1 is Cholesky's where the covariance is well conditioned, which also shows that it has
    no null directions; else S1^{1/2} by eigenvalues.
    """

    def __init__(self, moments: Moments) -> None:
        self.moments = moments
        self.covariance = moments.covariance
        self.trace = self.covariance.trace()
        self.factor, self.spectrum = _factor(self.covariance)

    def distance(self, other: Moments) -> FrechetDistance:
        """Frechet distance to another set. Raises GigaganError where the dimensions differ."""
        if self.moments.dimensions != other.dimensions:
            raise GigaganError(
                f"features of {self.moments.dimensions} and of {other.dimensions} dimensions cannot be compared; "
                "extract both sets with the same encoder"
            )
        covariance = other.covariance
        product = torch.linalg.eigvalsh(self.factor.T @ covariance @ self.factor)
        spectrum = _Spectrum.of(covariance)
        mean_term = (self.moments.mean - other.mean).square().sum()
        traces = self.trace + covariance.trace()
        covariance_term = traces - 2 * product.clamp(min=0).sqrt().sum()
        negative = self.spectrum.negative + spectrum.negative
        imaginary = (-product).clamp(min=0).sqrt().sum()
        return FrechetDistance(
            distance=float(mean_term + covariance_term),
            mean_term=float(mean_term),
            covariance_term=float(covariance_term),
            negative_mass=negative / float(traces) if traces > 0 else 0.0,
            imaginary_mass=float(imaginary / traces) if traces > 0 else 0.0,
            null_directions=(self.spectrum.null_directions, spectrum.null_directions),
            count=min(self.moments.count, other.count),
            dimensions=self.moments.dimensions,
        )


def frechet_distance(first: Moments, second: Moments) -> FrechetDistance:
    """Frechet distance of two sets from their moments, symmetric in its arguments up to rounding.

    Raises GigaganError where the feature dimensions differ or a set has fewer than 2 images.
    """
    return Reference(first).distance(second)


@dataclass(frozen=True)
class _Spectrum:
    """What the eigenvalues of a covariance tell. negative: mass of the negative ones, as a positive number."""

    negative: float
    null_directions: int

    @classmethod
    def of(cls, covariance: Tensor) -> _Spectrum:
        """Without eigenvalues where Cholesky's factor shows that none is near 0: they cost more than the distance."""
        return cls(0.0, 0) if cholesky(covariance) is not None else cls.by(torch.linalg.eigvalsh(covariance))

    @classmethod
    def by(cls, eigenvalues: Tensor) -> _Spectrum:
        """Of ascending eigenvalues [D]; null are those that are zero up to rounding."""
        threshold = eigenvalues[-1].clamp(min=0) * len(eigenvalues) * torch.finfo(torch.float64).eps
        return cls(float(eigenvalues.clamp(max=0).sum().abs()), int((eigenvalues <= threshold).sum()))


def _factor(covariance: Tensor) -> tuple[Tensor, _Spectrum]:
    factor = cholesky(covariance)
    if factor is not None:
        return factor, _Spectrum(0.0, 0)
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp(min=0).sqrt(), _Spectrum.by(values)


def cholesky(covariance: Tensor) -> Tensor | None:
    """The lower factor of a covariance whose pivots are all far from 0, or None."""
    factor, failed = torch.linalg.cholesky_ex(covariance)
    pivots = factor.diagonal().square()
    if failed or not bool((pivots > pivots.max() * _LEAST_PIVOT).all()):
        return None
    return factor
