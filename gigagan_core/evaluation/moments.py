"""Mean and covariance of features, in float64, in pieces that merge in any order."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gigagan_core.errors import GigaganError


@dataclass(frozen=True)
class Moments:
    """First and second moments of a set of feature vectors.

    count: vectors seen. mean: [D] float64. scatter: [D, D] float64, the sum over vectors of
    (x - mean)(x - mean)^T; kept instead of the covariance because scatters of disjoint sets add up.
    """

    count: int
    mean: Tensor
    scatter: Tensor

    @classmethod
    def of(cls, features: Tensor, name: str = "features", first: int = 0) -> Moments:
        """Moments of features [N, D], any float dtype, N >= 1.

        name: what the features are, first: the number of the first one within its set, for the error.
        Raises GigaganError where a feature is not finite.
        """
        if features.ndim != 2 or len(features) == 0:
            raise GigaganError(f"{name}: expected features [N, D] with N >= 1, got {list(features.shape)}")
        require_finite(features, name, first)
        features = features.detach().to("cpu", torch.float64)
        mean = features.mean(dim=0)
        deviation = features - mean
        return cls(len(features), mean, deviation.T @ deviation)

    def merge(self, other: Moments) -> Moments:
        """Moments of the union of two disjoint sets (Chan, Golub and LeVeque 1979, parallel form)."""
        count = self.count + other.count
        shift = other.mean - self.mean
        mean = self.mean + shift * (other.count / count)
        between = torch.outer(shift, shift) * (self.count * other.count / count)
        return Moments(count, mean, self.scatter + other.scatter + between)

    @property
    def dimensions(self) -> int:
        """D, the length of a feature vector."""
        return len(self.mean)

    @property
    def covariance(self) -> Tensor:
        """[D, D] float64 with divisor n - 1, as clean-fid's; raises GigaganError for a single vector."""
        if self.count < 2:
            raise GigaganError("a covariance needs at least 2 images; evaluate more of them")
        return self.scatter / (self.count - 1)


def require_finite(features: Tensor, name: str, first: int = 0) -> None:
    """Raise GigaganError, naming the first image concerned, where features [N, D] hold NaN or infinity.

    first: number of the first of these images within its set.
    """
    bad = (~torch.isfinite(features)).any(dim=1)
    if bad.any():
        raise GigaganError(
            f"{name}: {int(bad.sum())} of {len(features)} images have NaN or infinite features "
            f"(first: image {first + int(bad.nonzero()[0])}); a generator that diverged or a damaged encoder "
            "does this, so look at its samples and train again from an earlier checkpoint"
        )
