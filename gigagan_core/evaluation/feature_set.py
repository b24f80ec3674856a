"""Features of a set of images: pieces on disk or in memory, and the accumulators that read them once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, Self

import numpy as np
import torch
from torch import Tensor

from gigagan_core.errors import GigaganError
from gigagan_core.evaluation.moments import Moments


class Accumulator(Protocol):
    """Takes features in batches, in any order, on any machine; two of them merge into one of the union."""

    count: int

    def add(self, features: Tensor) -> None:
        """Features [N, D] of N more images."""
        ...

    def merge(self, other: Self) -> None:
        """What `other` took, of images that are not here; `other` is left as it is."""
        ...


class MomentsAccumulator:
    """Mean and covariance in float64: all that a Frechet distance needs, D * D numbers whatever the count.

    name: of the set, first: number of the first image taken within it; both for errors.
    """

    def __init__(self, name: str = "features", first: int = 0) -> None:
        self._name, self._first, self._moments = name, first, None

    @property
    def count(self) -> int:
        """Images taken."""
        return 0 if self._moments is None else self._moments.count

    @property
    def moments(self) -> Moments:
        """Of everything taken. Raises GigaganError where nothing was."""
        if self._moments is None:
            raise GigaganError(f"{self._name}: no images were given")
        return self._moments

    def add(self, features: Tensor) -> None:
        """Features [N, D], N >= 1. Raises GigaganError where one is not finite."""
        self._take(Moments.of(features, self._name, self._first + self.count))

    def merge(self, other: MomentsAccumulator) -> None:
        """The other's images too."""
        if other._moments is not None:
            self._take(other._moments)

    def _take(self, more: Moments) -> None:
        self._moments = more if self._moments is None else self._moments.merge(more)


class SampleAccumulator:
    """The features themselves, float32, for measures that compare image with image; up to `limit` of them.

    limit: kept at most, None: all. What is kept is the first `limit`, so shuffle first where that matters.
    """

    def __init__(self, limit: int | None = None) -> None:
        self._pieces: list[np.ndarray] = []
        self._limit, self.count, self.kept = limit, 0, 0

    @property
    def nbytes(self) -> int:
        """Bytes kept in memory."""
        return sum(piece.nbytes for piece in self._pieces)

    def add(self, features: Tensor) -> None:
        """Features [N, D]."""
        room = len(features) if self._limit is None else max(0, self._limit - self.kept)
        piece = features[:room].detach().to("cpu", torch.float32).numpy().copy()
        self.count += len(features)
        self.kept += len(piece)
        if len(piece):
            self._pieces.append(piece)

    def merge(self, other: SampleAccumulator) -> None:
        """The other's images after these, as far as the limit allows."""
        taken = self.count
        for piece in other._pieces:
            self.add(torch.from_numpy(piece))
        self.count = taken + other.count

    def features(self, name: str) -> FeatureSet:
        """What was kept, as a set."""
        return FeatureSet(name, tuple(self._pieces))


@dataclass(frozen=True)
class FeatureSet:
    """Features of one set of images by one extractor, in the order of the images.

    name: of the set, for errors, e.g. "generated images". pieces: float32 [n_i, D] each, in memory or memory-mapped;
    there is at least one image. elsewhere: takes the moments of all pieces, on other machines; None: taken here.
    """

    name: str
    pieces: tuple[np.ndarray, ...]
    elsewhere: Callable[[], Moments] | None = field(default=None, repr=False, compare=False)
    _cache: dict[str, Moments] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, features: Tensor, name: str = "images") -> FeatureSet:
        """Features [N, D] already in memory, kept in float32."""
        return cls(name, (features.detach().to("cpu", torch.float32).numpy(),))

    @classmethod
    def mapped(
        cls, paths: Sequence[Path], name: str, elsewhere: Callable[[], Moments] | None = None
    ) -> FeatureSet:
        """Features in .npy files, read as needed."""
        return cls(name, tuple(np.load(path, mmap_mode="r") for path in paths), elsewhere)

    def __len__(self) -> int:
        return sum(len(piece) for piece in self.pieces)

    @property
    def dimensions(self) -> int:
        """D."""
        return self.pieces[0].shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes of all features, on disk or in memory."""
        return sum(piece.nbytes for piece in self.pieces)

    @property
    def moments(self) -> Moments:
        """Of all images; computed once. Raises GigaganError where a feature is not finite."""
        if "moments" not in self._cache:
            self._cache["moments"] = self.elsewhere() if self.elsewhere else self._moments_here()
        return self._cache["moments"]

    def _moments_here(self) -> Moments:
        total = MomentsAccumulator(self.name)
        for piece in self:
            total.add(piece)
        return total.moments

    def __iter__(self) -> Iterator[Tensor]:
        """The pieces that hold an image, as float32 tensors of their own."""
        for piece in self.pieces:
            if len(piece):
                yield torch.from_numpy(np.array(piece))

    def all(self) -> Tensor:
        """Every feature in memory, float32 [N, D]."""
        return torch.cat(list(self))
