"""Which sample stands at which place of the endless sequence of images: torch alone, nothing read, nothing held.

Everything here is a function of (seed, global image index), so that reading goes on anywhere, on any worker. A
permutation is computed where it is looked at and never held: an epoch costs no memory and no time to begin.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from gigagan_core.models.randomness import keyed_bits, splitmix

BLOCK = 1000
"""In every so many images in a row, each set has its share of them, to the nearest whole."""

_ROUNDS = 8


def visits(indices: Tensor, shares: Sequence[int], seed: int) -> tuple[Tensor, Tensor]:
    """Which set each global image index draws from, and how many images of that set came before: int64 [N] each.

    indices: int64 [N], ascending and in a row. shares: images of each set in `BLOCK`.
    """
    first, last = int(indices[0]), int(indices[-1])
    blocks = range(first // BLOCK, last // BLOCK + 1)
    drawn = [_block(block, shares, seed) for block in blocks]
    here = slice(first - blocks[0] * BLOCK, last + 1 - blocks[0] * BLOCK)
    sets, before = (torch.cat(columns)[here] for columns in zip(*drawn))
    return sets, before


def positions(sets: Tensor, visits: Tensor, counts: Sequence[int], seed: int) -> Tensor:
    """int64 [N]: the position among all samples of each visit to a set; a set's epoch visits all its samples once.

    counts: samples of each set, which stand one set after the other.
    """
    found = torch.empty(len(visits), dtype=torch.int64)
    for number, count in enumerate(counts):
        of_set = sets == number
        now = visits[of_set]
        order = torch.empty_like(now)
        for epoch in (now // count).unique().tolist():
            rows = now // count == epoch
            order[rows] = shuffled(now[rows] % count, count, seed, f"reader/set {number} epoch {epoch}")
        found[of_set] = sum(counts[:number]) + order
    return found


def candidates(number: int, visit: int, counts: Sequence[int], seed: int) -> Iterator[int]:
    """Positions for one visit to set `number`: its own, and those of the epoch's next places, each sample once.

    The later ones stand in for a picture that cannot be read.
    """
    count = counts[number]
    start = visit // count * count
    for step in range(count):
        place = torch.tensor([start + (visit - start + step) % count])
        yield int(positions(torch.tensor([number]), place, counts, seed))


def mirrored(indices: Tensor, seed: int) -> Tensor:
    """bool [N]: whether the image at each global index is flipped left to right, with probability 1/2."""
    return keyed_bits(seed, "reader/flip", indices, 1)[:, 0] < 0


def shuffled(places: Tensor, count: int, seed: int, purpose: str) -> Tensor:
    """int64 [N]: where the numbers `places`, each below `count`, go in a random permutation of range(count).

    A Feistel network: numbers are rows and columns of a grid that is nearly square, and each round moves every
    row, or every column, by as much as the other coordinate says. The grid holds a few numbers more than `count`;
    whoever lands on one of those walks on until it lands on a valid one, which keeps it a permutation.
    """
    width = math.isqrt(count - 1) + 1
    height = -(-count // width)
    keys = keyed_bits(seed, purpose, torch.arange(_ROUNDS), 1)[:, 0].tolist()
    out = places.clone()
    walking = torch.arange(len(out))
    while len(walking):
        out[walking] = _feistel(out[walking], height, width, keys)
        walking = walking[out[walking] >= count]
    return out


def _feistel(numbers: Tensor, height: int, width: int, keys: list[int]) -> Tensor:
    row, column = numbers // width, numbers % width
    for even, odd in zip(keys[::2], keys[1::2]):
        row = (row + _remainder(splitmix(column ^ even), height)) % height
        column = (column + _remainder(splitmix(row ^ odd), width)) % width
    return row * width + column


def _remainder(bits: Tensor, divisor: int) -> Tensor:
    """Of the bits as unsigned numbers, which torch's int64 are not."""
    half = (bits >> 1) & ((1 << 63) - 1)
    return (half % divisor * 2 + (bits & 1)) % divisor


def _block(block: int, shares: Sequence[int], seed: int) -> tuple[Tensor, Tensor]:
    sets = torch.arange(len(shares)).repeat_interleave(torch.tensor(shares))
    if len(shares) > 1:
        bits = keyed_bits(seed, "reader/mixture", torch.arange(BLOCK) + block * BLOCK, 1)
        sets = sets[bits[:, 0].argsort(stable=True)]
    before = torch.empty(BLOCK, dtype=torch.int64)
    for number, share in enumerate(shares):
        before[sets == number] = block * share + torch.arange(share)
    return sets, before
