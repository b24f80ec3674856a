"""Pictures near an earlier one by perceptual hash, over a whole set, without comparing every pair.

Multi-index hashing (Norouzi, Punjani and Fleet 2012): a hash of 64 bits is cut into m bands. Of two hashes that
differ in at most d = m r + a bits, one of the first a + 1 bands differs in at most r bits, or one of the others in at
most r - 1: so the earlier ones are looked up by band, under every key that near, and only those are compared in full.
The search is exact.
"""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import dataclass

BITS = 64


@dataclass(frozen=True)
class _Band:
    """A share of the bits. positions: which ones, of 64. flips: every mask that turns a key into a near one."""

    positions: tuple[int, ...]
    flips: tuple[int, ...]


class _Keys:
    """The keys of a hash, one a band: its bits in the order of the bands, a byte at a time, cut at their ends."""

    def __init__(self, bands: list[_Band]) -> None:
        place = {bit: n for n, bit in enumerate(bit for band in bands for bit in band.positions)}
        self._scattered = [
            [
                sum(1 << place[first + bit] for bit in range(8) if byte >> bit & 1 and first + bit in place)
                for byte in range(256)
            ]
            for first in range(0, BITS, 8)
        ]
        widths = [len(band.positions) for band in bands]
        starts = itertools.accumulate(widths[:-1], initial=0)
        self._cuts = [(start, (1 << width) - 1) for start, width in zip(starts, widths, strict=True)]

    def of(self, value: int) -> list[int]:
        """The key of each band."""
        whole = 0
        for scattered, byte in zip(self._scattered, value.to_bytes(BITS // 8, "little"), strict=True):
            whole |= scattered[byte]
        return [whole >> start & mask for start, mask in self._cuts]


class NearDuplicates:
    """Kept hashes so far; the first of near ones is kept.

    max_distance: differing bits up to which two hashes are near. expected: about how many hashes will come; it
    decides the bands, and so the speed, never the answer.
    """

    def __init__(self, max_distance: int, expected: int) -> None:
        self._max_distance = max_distance
        self._bands = _bands(max_distance, expected)
        self._keys = _Keys(self._bands)
        self._kept: list[dict[int, list[int]]] = [{} for _ in self._bands]

    def keep(self, phash: str) -> bool:
        """Whether a hash (16 hex digits) is near no kept one; it is kept then, too."""
        value = int(phash, 16)
        keys = self._keys.of(value)
        for band, kept, key in zip(self._bands, self._kept, keys, strict=True):
            for flip in band.flips:
                for other in kept.get(key ^ flip, ()):
                    if (other ^ value).bit_count() <= self._max_distance:
                        return False
        for kept, key in zip(self._kept, keys, strict=True):
            kept.setdefault(key, []).append(value)
        return True


def _bands(max_distance: int, expected: int) -> list[_Band]:
    """The cut into bands that is expected to cost least; see the head of the module."""
    # Scattered: neighbouring bits of a picture are alike, and a band of a white border is zero in every drawing.
    positions = random.Random(0).sample(range(BITS), BITS)
    count = min(range(1, max_distance + 2), key=lambda count: _cost(count, max_distance, expected))
    cut = [(tuple(positions[number::count]), reach) for number, reach in _reaches(count, max_distance)]
    return [_Band(own, _flips(len(own), reach)) for own, reach in cut]


def _reaches(count: int, max_distance: int) -> list[tuple[int, int]]:
    """(band, differing bits up to which it is looked up), for the bands that are looked up at all."""
    radius, rest = divmod(max_distance, count)
    reaches = [(number, radius if number <= rest else radius - 1) for number in range(count)]
    return [(number, reach) for number, reach in reaches if reach >= 0]


def _cost(count: int, max_distance: int, expected: int) -> float:
    """Keys looked up, and hashes compared in full, for one hash among `expected` random ones."""
    cost = 0.0
    for number, reach in _reaches(count, max_distance):
        bits = len(range(number, BITS, count))
        lookups = sum(math.comb(bits, size) for size in range(reach + 1))
        cost += lookups * (1 + expected / 2**bits)
    return cost


def _flips(bits: int, reach: int) -> tuple[int, ...]:
    """Every mask of so many bits with at most `reach` set, the fewest first."""
    return tuple(
        sum(1 << position for position in chosen)
        for size in range(reach + 1)
        for chosen in itertools.combinations(range(bits), size)
    )
