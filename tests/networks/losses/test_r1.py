"""R1: its value, its second derivative through convolutions and attention, and what it leaves alone."""

import pytest
import torch

from gigagan_core.losses.r1 import r1_penalty
from gigagan_core.models import attention
from gigagan_core.models.pyramid import image_pyramid


@pytest.fixture
def pyramid():
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return image_pyramid(images, (16, 8, 4))


def test_value_is_the_squared_gradient_found_by_finite_differences(make_discriminator, make_text, pyramid):
    network, text = make_discriminator(torch.float64), make_text(2, dtype=torch.float64)

    @torch.no_grad()
    def total(images):
        return sum(p.logits.mean(dim=(1, 2, 3)) for p in network(images, text))

    squares = torch.zeros(2, dtype=torch.float64)
    step = 1e-5
    for level in (1, 2):  # the two small levels, pixel by pixel; the largest is left out below
        for place in range(pyramid[level][0].numel()):
            moved = [image.clone() for image in pyramid]
            moved[level].view(2, -1)[:, place] += step
            above = total(moved)
            moved[level].view(2, -1)[:, place] -= 2 * step
            squares += ((above - total(moved)) / (2 * step)).square()
    found = r1_penalty(network, pyramid, text, level_weights=(0.0, 1.0, 1.0))
    torch.testing.assert_close(found, squares.mean(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("few_keys", [0, 1000])
def test_second_derivative_equals_finite_differences_in_every_parameter(
    few_keys, make_discriminator, make_text, pyramid, monkeypatch
):
    monkeypatch.setattr(attention, "_FEW_KEYS", few_keys)
    network, text = make_discriminator(torch.float64), make_text(2, dtype=torch.float64)
    parameters = dict(network.named_parameters())
    # A bias before a leaky ReLU only moves kinks; those that reach the gradient smoothly are all here.
    gradients = torch.autograd.grad(
        r1_penalty(network, pyramid, text), list(parameters.values()), allow_unused=True
    )
    random = torch.Generator().manual_seed(1)
    direction = [torch.randn(p.shape, generator=random, dtype=p.dtype) for p in parameters.values()]
    wanted = sum((g * d).sum() for g, d in zip(gradients, direction) if g is not None)

    def moved(step):
        with torch.no_grad():
            for p, d in zip(parameters.values(), direction):
                p.add_(d, alpha=step)
        value = r1_penalty(network, pyramid, text).detach()
        with torch.no_grad():
            for p, d in zip(parameters.values(), direction):
                p.sub_(d, alpha=step)
        return value

    step = 1e-7
    torch.testing.assert_close((moved(step) - moved(-step)) / (2 * step), wanted, rtol=1e-4, atol=1e-6)


def test_every_attention_parameter_feels_the_penalty(make_discriminator, make_text, pyramid):
    network, text = make_discriminator(torch.float64), make_text(2, dtype=torch.float64)
    r1_penalty(network, pyramid, text).backward()
    attended, _ = attention.split_attention_parameters(network)
    silent = [n for n, p in attended if (p.grad is None or not p.grad.any()) and not n.endswith("bias")]
    assert not silent


def test_penalty_is_of_each_sample_for_itself(make_discriminator, make_text, pyramid):
    network, text = make_discriminator(torch.float64), make_text(2, dtype=torch.float64)
    alone = [
        r1_penalty(network, [i[n : n + 1] for i in pyramid], text.index(torch.tensor([n]))) for n in range(2)
    ]
    torch.testing.assert_close(r1_penalty(network, pyramid, text), sum(alone) / 2)


def test_images_are_left_without_gradient_and_autocast_is_overruled(make_discriminator, make_text, pyramid):
    network, text = make_discriminator(), make_text(2)
    pyramid = [image.float() for image in pyramid]
    with torch.autocast("cpu", torch.bfloat16):
        inside = r1_penalty(network, pyramid, text)
    torch.testing.assert_close(inside, r1_penalty(network, pyramid, text))
    inside.backward()
    assert all(image.grad is None and not image.requires_grad for image in pyramid)


def test_an_unconditional_discriminator_is_penalised_too(make_discriminator, pyramid):
    network = make_discriminator(torch.float64, conditioning="none")
    assert r1_penalty(network, pyramid) > 0


def test_the_penalty_is_the_same_where_the_network_recomputes_its_activations(make_discriminator, pyramid):
    # Attention over 256 keys runs in a fused kernel, which has no second derivative, unless it is told not to.
    network = make_discriminator(torch.float64, conditioning="none", attention_depths=(0, 0, 1))
    gradients = []
    for network.checkpoint_activations in (False, True):
        network.zero_grad()
        r1_penalty(network, pyramid).backward()
        gradients.append([p.grad.clone() for p in network.parameters() if p.grad is not None])
    assert network.checkpoint_activations, "the network's switch is its own again"
    torch.testing.assert_close(*gradients)


def test_a_level_counts_with_the_square_of_its_weight(make_discriminator, make_text, pyramid):
    network, text = make_discriminator(torch.float64), make_text(2, dtype=torch.float64)
    weights = [0.33] + [0.17] * (network.settings.levels - 1)
    alone = [
        r1_penalty(network, pyramid, text, [float(i == level) for i in range(len(weights))])
        for level in range(len(weights))
    ]
    expected = sum(weight**2 * penalty for weight, penalty in zip(weights, alone, strict=True))
    torch.testing.assert_close(r1_penalty(network, pyramid, text, weights), expected)
