"""Keyed randomness: the same for a sample whatever batch it sits in, and random all the same."""

import math

import pytest
import torch

from gigagan_core.models.randomness import (
    keyed_bits,
    keyed_derangement,
    keyed_normal,
    keyed_permutation,
    keyed_uniform,
)


@pytest.mark.parametrize("draw", [keyed_normal, keyed_uniform])
@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 5), (1, 17, 17)])
def test_a_sample_gets_the_same_numbers_however_the_batch_is_split(draw, shape):
    indices = torch.arange(1000, 1053)
    whole = draw(7, "latent", indices, shape, dtype=torch.float64)
    for size in (1, 2, 3, 8, 26):
        parts = [draw(7, "latent", part, shape, dtype=torch.float64) for part in indices.split(size)]
        assert torch.equal(torch.cat(parts), whole)
    shuffled = torch.randperm(len(indices), generator=torch.Generator().manual_seed(0))
    assert torch.equal(draw(7, "latent", indices[shuffled], shape, dtype=torch.float64), whole[shuffled])


def test_rows_with_seeds_of_their_own_get_what_each_gets_alone():
    seeds, indices = (7, -1, 7, 2**63), torch.tensor([0, 5, 1, 5])
    together = keyed_normal(seeds, "latent", indices, (3, 5))
    alone = [keyed_normal(seed, "latent", index[None], (3, 5)) for seed, index in zip(seeds, indices)]
    assert torch.equal(together, torch.cat(alone))
    assert keyed_normal((), "latent", torch.empty(0, dtype=torch.int64), (3,)).shape == (0, 3)
    with pytest.raises(ValueError, match="2 seeds for 4 samples"):
        keyed_bits((1, 2), "latent", indices, 1)


def test_a_draw_does_not_depend_on_the_number_of_threads():
    indices = torch.arange(4096)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = keyed_normal(0, "z", indices, (101,), dtype=torch.float64)
        torch.set_num_threads(3)
        assert torch.equal(keyed_normal(0, "z", indices, (101,), dtype=torch.float64), one)
    finally:
        torch.set_num_threads(before)


def test_normal_numbers_have_the_moments_and_tails_of_a_normal_distribution():
    x = keyed_normal(3, "latent", torch.arange(20_000), (50,), dtype=torch.float64).flatten()
    count = len(x)
    # Bounds are five standard errors.
    assert abs(x.mean()) < 5 / math.sqrt(count)
    assert abs(x.square().mean() - 1) < 5 * math.sqrt(2 / count)
    assert abs(x.pow(3).mean()) < 5 * math.sqrt(15 / count)
    assert abs(x.pow(4).mean() - 3) < 5 * math.sqrt(96 / count)
    normal = torch.distributions.Normal(0.0, 1.0)
    uniform, _ = normal.cdf(x).sort()
    grid = (torch.arange(count) + 0.5) / count
    assert (uniform - grid).abs().max() < 2.0 / math.sqrt(count)  # Kolmogorov-Smirnov, p about 0.0007


def test_uniform_numbers_fill_the_open_unit_interval():
    x = keyed_uniform(3, "flip", torch.arange(20_000), (20,), dtype=torch.float64).flatten()
    assert 0 < x.min() < 1e-4
    assert 1 - 1e-4 < x.max() < 1
    counts = torch.histc(x, 100, 0, 1)
    expected = len(x) / 100
    assert ((counts - expected).square() / expected).sum() < 160  # chi-squared, 99 degrees, p about 0.0001


def test_samples_places_purposes_and_seeds_are_uncorrelated():
    indices = torch.arange(20_000)
    draw = lambda seed, purpose, n: keyed_normal(seed, purpose, n, (4,), dtype=torch.float64)  # noqa: E731
    base = draw(0, "z", indices)
    for other in (
        draw(0, "z", indices + 1),
        draw(0, "noise", indices),
        draw(1, "z", indices),
        base.roll(1, 1),
    ):
        correlation = (base * other).mean()
        assert abs(correlation) < 5 / math.sqrt(base.numel())


def test_neighbouring_indices_flip_half_of_the_bits():
    bits = keyed_bits(0, "z", torch.arange(2000), 1)[:, 0]
    changed = bits[1:] ^ bits[:-1]
    ones = sum(((changed >> k) & 1).double().mean() for k in range(64))
    assert 31.5 < ones < 32.5


@pytest.mark.parametrize("index", [0, 2**40, 2**62])
def test_large_sample_indices_are_fine(index):
    x = keyed_normal(0, "z", torch.tensor([index, index + 1]), (8,))
    assert torch.isfinite(x).all()
    assert not torch.equal(x[0], x[1])


@pytest.mark.parametrize(("size", "block"), [(12, None), (12, 12), (12, 4), (12, 2), (2, None)])
def test_a_derangement_moves_everyone_and_stays_inside_its_block(size, block):
    for seed in range(20):
        partner = keyed_derangement(seed, "match", torch.arange(100, 100 + size), block)
        positions = torch.arange(size)
        assert torch.equal(partner.sort().values, positions)
        assert (partner != positions).all()
        width = block or size
        assert torch.equal(partner // width, positions // width)


def test_blocks_of_a_derangement_do_not_depend_on_who_holds_them():
    indices = torch.arange(64)
    whole = keyed_derangement(5, "match", indices, block=8)
    halves = [
        keyed_derangement(5, "match", half, block=8) + 32 * i for i, half in enumerate(indices.split(32))
    ]
    assert torch.equal(torch.cat(halves), whole)


def test_every_pair_is_equally_likely_to_meet():
    size, seeds = 5, 2000
    counts = torch.zeros(size, size)
    for seed in range(seeds):
        partner = keyed_derangement(seed, "match", torch.arange(size))
        counts[torch.arange(size), partner] += 1
    expected = seeds / (size - 1)
    off_diagonal = counts[~torch.eye(size, dtype=torch.bool)]
    assert (off_diagonal - expected).abs().max() < 5 * math.sqrt(expected)
    assert counts.diagonal().sum() == 0


def test_a_lone_sample_meets_itself():
    assert keyed_derangement(0, "match", torch.tensor([9])).tolist() == [0]


def test_a_permutation_is_one():
    order = keyed_permutation(0, "flip", torch.arange(10))
    assert torch.equal(order.sort().values, torch.arange(10))
    assert not torch.equal(order, torch.arange(10))


def test_wrong_indices_and_blocks_are_refused():
    with pytest.raises(ValueError, match="int64"):
        keyed_normal(0, "z", torch.arange(3).float(), (2,))
    with pytest.raises(ValueError, match="blocks of 4"):
        keyed_derangement(0, "match", torch.arange(6), block=4)
