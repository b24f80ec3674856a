"""Truncation, crossover and interpolation: their ends are exact (invariant 2)."""

from __future__ import annotations

import pytest
import torch

from gigagan_core.models.editing import crossover, crossover_text, interpolate, interpolate_text


@pytest.fixture
def two(make_generator, make_text):
    """A generator, and codes and styles of two prompts."""
    torch.manual_seed(0)
    generator = make_generator()
    code = generator.encode(make_text(2))
    rows = [torch.tensor([row]) for row in (0, 1)]
    codes = [code.index(row) for row in rows]
    return generator, codes, [generator.map(torch.randn(1, 6), each) for each in codes]


def test_the_ends_of_a_crossover_are_the_pure_prompts(two) -> None:
    generator, (first, second), (w_first, w_second) = two
    layers = generator.num_layers

    def mixed(layer: int) -> torch.Tensor:
        w = crossover(w_first, w_second, layer, layers)
        return generator.synthesise(w, crossover_text(first, second, layer, layers))[0]

    assert torch.equal(mixed(layers), generator.synthesise(w_first, first)[0])
    assert torch.equal(mixed(0), generator.synthesise(w_second, second)[0])
    pure = (generator.synthesise(w_first, first)[0], generator.synthesise(w_second, second)[0])
    assert not any(torch.equal(mixed(layers // 2), each) for each in pure)


def test_a_crossover_leaves_what_is_coarser_alone(two) -> None:
    generator, (first, second), (w_first, w_second) = two
    layers = generator.num_layers
    coarse = generator.stages[0].num_layers
    w = crossover(w_first, w_second, coarse, layers)
    mixed = generator.synthesise(w, crossover_text(first, second, coarse, layers))
    assert torch.equal(mixed[-1], generator.synthesise(w_first, first)[-1])


def test_words_alone_can_be_crossed_over(two) -> None:
    generator, (first, second), (w, _) = two
    layers = generator.num_layers
    mixed = generator.synthesise(w, crossover_text(first, second, 1, layers))[0]
    assert not torch.equal(mixed, generator.synthesise(w, first)[0])
    with pytest.raises(ValueError, match="one a layer"):
        generator.synthesise(w, [first, second])


@pytest.mark.parametrize("layer", [-1, 99])
def test_a_layer_that_is_not_there_is_refused(two, layer: int) -> None:
    _, (first, second), (w_first, w_second) = two
    with pytest.raises(ValueError, match="from 0 to 5"):
        crossover(w_first, w_second, layer, 5)
    with pytest.raises(ValueError, match="from 0 to 5"):
        crossover_text(first, second, layer, 5)


def test_the_ends_of_an_interpolation_are_exact(two) -> None:
    generator, (first, second), (w_first, w_second) = two
    for t, code, w in ((0.0, first, w_first), (1.0, second, w_second)):
        between = interpolate_text(first, second, t)
        image = generator.synthesise(interpolate(w_first, w_second, t), between)[0]
        assert torch.equal(image, generator.synthesise(w, code)[0])
    halfway = interpolate_text(first, second, 0.5)
    torch.testing.assert_close(halfway.t_global, (first.t_global + second.t_global) / 2)
    assert torch.equal(halfway.mask, first.mask | second.mask)


def test_truncation_towards_the_prompts_own_mean_has_exact_ends(two) -> None:
    generator, (first, second), (w, _) = two
    mean = generator.prompt_mean(first, samples=16)
    assert torch.equal(generator.truncate(w, 1.0, mean), w)
    assert torch.equal(generator.truncate(w, 0.0, mean), mean)
    torch.testing.assert_close(generator.truncate(w, 0.5, mean), (w + mean) / 2)
    assert not torch.equal(mean, generator.prompt_mean(second, samples=16))


def test_a_prompts_mean_is_over_a_fixed_set_of_latents_and_does_not_depend_on_its_neighbours(two) -> None:
    generator, (first, second), _ = two
    both = type(first)(*(torch.cat(parts) for parts in zip(first, second)))
    means = generator.prompt_mean(both, samples=16)
    assert torch.equal(means[:1], generator.prompt_mean(first, samples=16))
    assert torch.equal(means[1:], generator.prompt_mean(second, samples=16))
