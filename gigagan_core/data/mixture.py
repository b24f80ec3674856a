"""Shard sets read as one: which sample stands at which global image index.

Everything here is a function of (seed, global image index), so that reading goes on anywhere, on any worker. A
permutation is computed where it is looked at and never held: an epoch costs no memory and no time to begin.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from gigagan_core.data.pictures import NO_LABEL, Samples, join, read_samples, selected
from gigagan_core.data.shards import folder_of, read_index
from gigagan_core.errors import GigaganError
from gigagan_core.models.randomness import keyed_bits

BLOCK = 1000
"""In every so many images in a row, each set has its share of them, to the nearest whole."""

_ROUNDS = 8


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
        self._first = np.cumsum([0, *self.counts])

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
        blocks = np.arange(indices[0] // BLOCK, indices[-1] // BLOCK + 1)
        drawn = [self._block(int(block), seed) for block in blocks]
        here = slice(indices[0] - blocks[0] * BLOCK, indices[-1] + 1 - blocks[0] * BLOCK)
        return tuple(np.concatenate(columns)[here] for columns in zip(*drawn))

    def positions(self, sets: np.ndarray, visits: np.ndarray, seed: int) -> np.ndarray:
        """int64 [N]: the position in `samples` of each visit to a set; a set's epoch visits all its samples once."""
        found = np.empty(len(visits), np.int64)
        for number, count in enumerate(self.counts):
            of_set = sets == number
            epochs, places = np.divmod(visits[of_set], count)
            order = np.empty(len(places), np.int64)
            for epoch in np.unique(epochs):
                now = epochs == epoch
                order[now] = shuffled(places[now], count, seed, f"reader/set {number} epoch {epoch}")
            found[of_set] = self._first[number] + order
        return found

    def _block(self, block: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        sets = np.repeat(np.arange(len(self.shares)), self.shares)
        if len(self.shares) > 1:
            bits = keyed_bits(seed, "reader/mixture", torch.arange(BLOCK) + block * BLOCK, 1)
            sets = sets[bits[:, 0].argsort(stable=True).numpy()]
        visits = np.empty(BLOCK, np.int64)
        for number, share in enumerate(self.shares):
            visits[sets == number] = block * share + np.arange(share)
        return sets, visits


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


def shuffled(places: np.ndarray, count: int, seed: int, purpose: str) -> np.ndarray:
    """int64 [N]: where the numbers `places`, each below `count`, go in a random permutation of range(count).

    A Feistel network: numbers are rows and columns of a grid that is nearly square, and each round moves every
    row, or every column, by as much as the other coordinate says. The grid holds a few numbers more than `count`;
    whoever lands on one of those walks on until it lands on a valid one, which keeps it a permutation.
    """
    width = math.isqrt(count - 1) + 1
    height = -(-count // width)
    keys = keyed_bits(seed, purpose, torch.arange(_ROUNDS), 1)[:, 0].numpy().view(np.uint64)
    out = places.astype(np.uint64)
    walking = np.arange(len(out))
    while len(walking):
        out[walking] = _feistel(out[walking], np.uint64(height), np.uint64(width), keys)
        walking = walking[out[walking] >= count]
    return out.astype(np.int64)


def _feistel(numbers: np.ndarray, height: np.uint64, width: np.uint64, keys: np.ndarray) -> np.ndarray:
    row, column = numbers // width, numbers % width
    for even, odd in keys.reshape(-1, 2):
        row = (row + _mixed(column ^ even) % height) % height
        column = (column + _mixed(row ^ odd) % width) % width
    return row * width + column


def _mixed(x: np.ndarray) -> np.ndarray:
    """splitmix64's finaliser, uint64 [N]."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


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
