"""Near-duplicates: the answer of comparing every pair, without comparing every pair."""

from __future__ import annotations

import random

import pytest

from gigagan_core.data.near_duplicates import BITS, NearDuplicates


def compared_in_pairs(hashes: list[int], max_distance: int) -> list[bool]:
    kept: list[int] = []
    answers = []
    for value in hashes:
        near = any((value ^ other).bit_count() <= max_distance for other in kept)
        answers.append(not near)
        if not near:
            kept.append(value)
    return answers


def clusters(seed: int, centres: int = 40, each: int = 8) -> list[int]:
    """Hashes around common centres: 0 to 9 bits flipped in each, in mixed order."""
    generator = random.Random(seed)
    # half of the centres have few bits set, as drawings on white have
    found = []
    for number in range(centres):
        centre = generator.getrandbits(BITS) & (generator.getrandbits(BITS) if number % 2 else -1)
        for _ in range(each):
            flipped = sum(1 << bit for bit in generator.sample(range(BITS), generator.randrange(10)))
            found.append((centre ^ flipped) & (1 << BITS) - 1)
    generator.shuffle(found)
    return found


@pytest.mark.parametrize("max_distance", range(9))
@pytest.mark.parametrize("expected", [2, 320, 1_000_000])
def test_the_answer_is_that_of_all_pairs_however_many_are_expected(max_distance: int, expected: int) -> None:
    hashes = clusters(seed=max_distance)
    near = NearDuplicates(max_distance, expected)
    answers = [near.keep(f"{value:016x}") for value in hashes]
    assert answers == compared_in_pairs(hashes, max_distance)
    if max_distance:
        assert 0 < sum(answers) < len(answers)


def test_few_hashes_are_compared_in_full() -> None:
    generator = random.Random(0)
    near = NearDuplicates(4, expected=20_000)
    for _ in range(20_000):
        near.keep(f"{generator.getrandbits(BITS):016x}")
    compared = sum(
        len(kept.get(key ^ flip, ()))
        for value in (generator.getrandbits(BITS) for _ in range(50))
        for band, key, kept in zip(near._bands, near._keys.of(value), near._kept, strict=True)
        for flip in band.flips
    )
    assert compared / 50 < 100  # all pairs: 20,000 each
