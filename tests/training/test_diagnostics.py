"""Entropies of kernels and attention, and the distance of the average."""

from __future__ import annotations

import math

import pytest
import torch

from gigagan_core.models.adaptive_conv import AdaptiveConv2d
from gigagan_core.models.attention import CrossAttention, L2SelfAttention, l2_attention, split_heads
from gigagan_core.training.diagnostics import entropies, relative_distance, relative_entropy
from gigagan_core.training.loop import train_step
from gigagan_core.training.world import World

from .conftest import base_settings, batches, make_base, make_upsampler, upsampler_settings


def test_equal_weights_are_1_and_a_single_choice_is_0() -> None:
    count = torch.tensor(4)
    assert relative_entropy(torch.full((3, 4), 0.25), count) == pytest.approx(1.0)
    assert relative_entropy(torch.tensor([[0.0, 1.0, 0.0, 0.0]]), count) == 0.0
    halves = relative_entropy(torch.tensor([[0.5, 0.5, 0.0, 0.0]]), count)
    assert halves == pytest.approx(math.log(2) / math.log(4))
    assert relative_entropy(torch.ones(2, 1), torch.tensor(1)) == 0.0


def test_attention_written_out_gives_what_the_fast_kernels_give() -> None:
    torch.manual_seed(0)
    x, w = torch.randn(2, 5, 8), torch.randn(2, 6)
    attention = L2SelfAttention(8, 8, 4, w_dim=6)
    tokens = attention._with_token(x, w)
    key, value = (split_heads(layer(tokens), 4) for layer in (attention.query_key, attention.value))
    expected = l2_attention(key[:, :, :5], key, value)
    torch.testing.assert_close(attention.weights(x, w) @ value, expected, atol=1e-5, rtol=1e-5)
    words, mask = torch.randn(2, 3, 6), torch.tensor([[True, True, False], [True, True, True]])
    cross = CrossAttention(8, 8, 4, 6)
    query, key, value = (
        split_heads(layer(of), 4)
        for layer, of in ((cross.query, cross.norm(x)), (cross.key, words), (cross.value, words))
    )
    expected = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask[:, None, None]
    )
    torch.testing.assert_close(cross.weights(x, words, mask) @ value, expected, atol=1e-5, rtol=1e-5)
    assert (cross.weights(x, words, mask)[0, ..., 2] == 0).all()


def test_a_selection_that_prefers_one_kernel_has_a_low_entropy() -> None:
    conv = AdaptiveConv2d(4, 4, 3, kernels=4)
    x, w = torch.randn(2, 4, 8, 8), torch.randn(2, 3)
    torch.nn.init.zeros_(conv.selection.weight)
    found = entropies(conv, lambda: conv(x, w), "generator")
    assert found == {"entropy/generator/kernels/": pytest.approx(1.0)}
    with torch.no_grad():
        conv.selection.bias[0] = 1e4
    assert entropies(conv, lambda: conv(x, w), "generator")["entropy/generator/kernels/"] < 1e-6
    assert not conv._forward_pre_hooks


@pytest.mark.parametrize(
    ("make", "settings", "size"), [(make_base, base_settings, 8), (make_upsampler, upsampler_settings, 16)]
)
def test_every_choosing_layer_is_in_the_metrics_when_it_is_due(make, settings, size: int) -> None:
    state, recipe = make(settings(diagnostics_every_steps=2))
    source = batches(size)
    metrics = train_step(state, recipe, next(source), World())
    expected = set()
    for name, network in state.networks.items():
        for path, module in network.named_modules():
            if isinstance(module, AdaptiveConv2d) and module.selection is not None:
                expected.add(f"entropy/{name}/kernels/{path}")
            if isinstance(module, L2SelfAttention):
                expected.add(f"entropy/{name}/self_attention/{path}")
            if isinstance(module, CrossAttention):
                expected.add(f"entropy/{name}/cross_attention/{path}")
    found = {name for name in metrics if name.startswith("entropy/")}
    assert found == expected
    assert any("kernels" in name for name in found)
    assert all(0 <= metrics[name] <= 1 + 1e-6 for name in found)
    assert "ema_distance" in metrics
    assert "ema_distance" not in train_step(state, recipe, next(source), World())


def test_the_distance_of_the_average_is_relative() -> None:
    average, network = torch.nn.Linear(2, 1, bias=False), torch.nn.Linear(2, 1, bias=False)
    torch.nn.init.constant_(network.weight, 2.0)
    torch.nn.init.constant_(average.weight, 1.0)
    assert relative_distance(average, network) == pytest.approx(0.5)
