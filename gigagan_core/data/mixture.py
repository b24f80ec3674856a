"""Shard sets read as one: their samples, their shares, and what they have in common. See `order` for who comes when."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from gigagan_core.data import order
from gigagan_core.data.order import BLOCK
from gigagan_core.data.pictures import NO_LABEL, Samples, join, read_samples, selected
from gigagan_core.data.shards import folder_of, read_index
from gigagan_core.errors import GigaganError


class Mixture:
    """Shard sets read as one, each with its share of the images and in exact epochs of its own.

    data: a shard set (an artifact or a folder), or pairs of one and its weight: with 0.7 and 0.3, seven images in ten
    come from the first. Of samples that occur in several sets (equal sha256 of the fetched bytes, or equal perceptual
    hash and caption) the one in the set named first stays.

    samples: those of all sets, one set after the other. counts: samples of each set. duplicates: how many samples
    each set lost to the sets before it. shares: images of each set in `BLOCK`.
    Raises GigaganError where a folder is no shard set, a weight is none, or a set has no sample of its own.
    """

    def __init__(self, data: Any):
        parts = weighted(data)
        self.folders = [folder_of(shard_set) for shard_set, _ in parts]
        self.shares = _shares([weight for _, weight in parts], self.folders)
        tables = [read_samples(shard_set) for shard_set, _ in parts]
        self.duplicates = [0] * len(parts)
        if len(parts) > 1:
            kept = list(_first_of_equals([_marks(shard_set) for shard_set, _ in parts]))
            self.duplicates = [int((~keep).sum()) for keep in kept]
            tables = [table.where(keep) for table, keep in zip(tables, kept, strict=True)]
        self.counts = [len(table) for table in tables]
        for folder, count, duplicates in zip(self.folders, self.counts, self.duplicates, strict=True):
            if count == 0:
                shared = f" ({duplicates} are in the sets before it)" if duplicates else ""
                raise GigaganError(f"{folder} has no selected sample{shared}; select more or ingest more")
        self.samples: Samples = join(tables)

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def unlabelled(self) -> int:
        """How many samples have no class label."""
        labels = self.samples.label
        return len(self) if labels is None else int((labels == NO_LABEL).sum())

    def visits(self, indices: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Which set each global image index draws from, and how many images of that set came before: int64 [N] each.

        indices: int64 [N], ascending and in a row.
        """
        sets, visits = order.visits(torch.from_numpy(indices), self.shares, seed)
        return sets.numpy(), visits.numpy()

    def positions(self, sets: np.ndarray, visits: np.ndarray, seed: int) -> np.ndarray:
        """int64 [N]: the position in `samples` of each visit to a set; a set's epoch visits all its samples once."""
        sets, visits = torch.from_numpy(sets), torch.from_numpy(visits)
        return order.positions(sets, visits, self.counts, seed).numpy()


def weighted(data: Any) -> list[tuple[Any, float]]:
    """Pairs of shard set and weight, of what `Mixture` takes. Raises GigaganError for weights that are none."""
    if not isinstance(data, (list, tuple)):
        return [(data, 1.0)]
    if not data:
        raise GigaganError("a mixture of no shard sets; give at least one with its weight")
    for shard_set, weight in data:
        if not (math.isfinite(weight) and weight > 0):
            raise GigaganError(
                f"{folder_of(shard_set)} has weight {weight} in the mixture; give a number above 0, or leave it out"
            )
    return [(shard_set, float(weight)) for shard_set, weight in data]


def _shares(weights: list[float], folders: list[Any]) -> list[int]:
    """Images of each set in `BLOCK`, by largest remainder."""
    exact = np.array(weights) / sum(weights) * BLOCK
    shares = np.floor(exact).astype(int)
    for number in np.argsort(shares - exact, kind="stable")[: BLOCK - shares.sum()]:
        shares[number] += 1
    for folder, weight, share in zip(folders, weights, shares, strict=True):
        if share == 0:
            raise GigaganError(
                f"{folder} has weight {weight:g} of {sum(weights):g} in the mixture, less than one image in {BLOCK}; "
                "raise the weight, or leave the set out"
            )
    return shares.tolist()


def _marks(shard_set: Any) -> np.ndarray:
    """uint64 [samples, 2]: of the bytes, and of perceptual hash and caption; equal marks are duplicates, 0 is none.

    64 bits stand for each, so that a hundred million samples fit in memory: in two sets of that size the chance that
    even one sample is left out wrongly is 1 in 1,000.
    """
    return np.concatenate([np.empty((0, 2), np.uint64), *map(_marks_of, read_index(shard_set))])


def _marks_of(shard: Any) -> np.ndarray:
    try:
        rows = selected(shard, ("sha256", "phash", "caption"))
    except GigaganError:  # told by `read_samples`, which keeps a place for every sample all the same
        return np.zeros((shard.selected, 2), np.uint64)
    columns = {name: rows[name].to_pylist() for name in rows.column_names}
    nothing = [None] * len(rows)
    sums, hashes = columns.get("sha256", nothing), columns.get("phash", nothing)
    marks = np.zeros((len(rows), 2), np.uint64)
    marks[:, 0] = [int(text[:16], 16) if text else 0 for text in sums]
    marks[:, 1] = [
        _mark(f"{text} {caption}") if text else 0 for text, caption in zip(hashes, columns["caption"])
    ]
    return marks


def _mark(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _first_of_equals(marks: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
    """bool [samples] for each set: False where a set before it keeps an equal sample."""
    seen = np.empty((0, 2), np.uint64)
    for of_set in marks:
        keep = np.ones(len(of_set), bool)
        for column, known in zip(of_set.T, seen.T, strict=True):
            keep &= (column == 0) | ~np.isin(column, known)
        yield keep
        # Only a sample that stays makes later ones duplicates.
        seen = np.concatenate([seen, of_set[keep]])
