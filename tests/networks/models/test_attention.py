"""L2 self-attention against its definition, and attention under masks."""

import math

import pytest
import torch

from gigagan_core.models import attention
from gigagan_core.models.attention import (
    AttentionBlock,
    CrossAttention,
    L2SelfAttention,
    double_backward_safe,
    l2_attention,
    split_attention_parameters,
)


def explicit(query, key, value):
    distance = (query[..., :, None, :] - key[..., None, :, :]).square().sum(dim=-1)
    return (-distance / math.sqrt(8 * query.shape[-1])).softmax(dim=-1) @ value


@pytest.mark.parametrize("few_keys", [0, 1000])
@pytest.mark.parametrize("keys", [9, 10])
def test_l2_attention_equals_its_definition_in_value_and_gradient(few_keys, keys, monkeypatch):
    monkeypatch.setattr(attention, "_FEW_KEYS", few_keys)
    torch.manual_seed(0)
    query = torch.randn(2, 3, 9, 5, dtype=torch.float64, requires_grad=True)
    key = torch.randn(2, 3, keys, 5, dtype=torch.float64, requires_grad=True)
    value = torch.randn(2, 3, keys, 5, dtype=torch.float64, requires_grad=True)
    wanted, found = explicit(query, key, value), l2_attention(query, key, value)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)
    direction = torch.randn_like(wanted)
    for ours, theirs in zip(
        torch.autograd.grad(found, (query, key, value), direction),
        torch.autograd.grad(wanted, (query, key, value), direction),
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_gradients_of_self_attention_equal_finite_differences():
    torch.manual_seed(0)
    module = L2SelfAttention(8, 8, 4, w_dim=5).double()
    x = torch.randn(2, 4, 8, dtype=torch.float64, requires_grad=True)
    w = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(module, (x, w))


@pytest.mark.parametrize("few_keys", [0, 1000])
def test_self_attention_can_be_differentiated_twice(few_keys, monkeypatch):
    monkeypatch.setattr(attention, "_FEW_KEYS", few_keys)
    torch.manual_seed(0)
    module = L2SelfAttention(4, 4, 4).double()
    x = torch.randn(1, 3, 4, dtype=torch.float64, requires_grad=True)
    with double_backward_safe():
        assert torch.autograd.gradgradcheck(module, (x,))


def test_logits_have_about_unit_variance_at_initialisation():
    torch.manual_seed(0)
    seen = {}

    def spy(query, key, value):
        seen["logits"] = -torch.cdist(query, key).square() / math.sqrt(8 * query.shape[-1])
        return value[:, :, : query.shape[2]]

    module = L2SelfAttention(128, 128, 64, w_dim=16)
    original, attention.l2_attention = attention.l2_attention, spy
    try:
        module(torch.randn(8, 64, 128), torch.randn(8, 16))
    finally:
        attention.l2_attention = original
    logits = seen["logits"]
    off_diagonal = logits[..., : logits.shape[2]][..., ~torch.eye(logits.shape[2], dtype=torch.bool)]
    assert 0.6 < off_diagonal.var().item() < 1.6


def test_the_style_code_reaches_self_attention_as_one_more_token():
    torch.manual_seed(0)
    module = L2SelfAttention(8, 8, 4, w_dim=5)
    x = torch.randn(2, 6, 8)
    first, second = module(x, torch.randn(2, 5)), module(x, torch.randn(2, 5))
    assert first.shape == x.shape
    assert not torch.allclose(first, second)


def test_masked_words_have_no_effect_on_cross_attention():
    torch.manual_seed(0)
    module = CrossAttention(8, 8, 4, 6)
    x, words = torch.randn(2, 5, 8), torch.randn(2, 4, 6)
    mask = torch.tensor([[True, True, False, False], [True, False, False, False]])
    wanted = module(x, words.masked_fill(~mask[..., None], 0.0), mask)
    assert torch.equal(module(x, words.masked_fill(~mask[..., None], 1e4), mask), wanted)


def test_attention_parameters_are_told_from_the_rest(make_generator, make_discriminator):
    for network in (make_generator(), make_discriminator()):
        attended, others = split_attention_parameters(network)
        assert len(attended) + len(others) == len(list(network.parameters()))
        assert attended
        assert all(".attention." in name for name, _ in attended)
        assert not any(".attention." in name for name, _ in others)


def test_an_attention_block_starts_near_the_identity():
    torch.manual_seed(0)
    block = AttentionBlock(32, 16, gain=0.3)
    x = torch.randn(4, 32, 8, 8)
    y = block(x)
    assert 0.05 < ((y - x).std() / x.std()).item() < 0.6
