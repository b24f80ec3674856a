"""The mapping network: what of its inputs reaches w."""

import torch

from gigagan_core.models.mapping import MappingNetwork


def make(**options):
    torch.manual_seed(0)
    return MappingNetwork(6, 8, 10, depth=2, lr_multiplier=0.01, **options)


def test_lengths_of_latent_and_sentence_do_not_reach_w():
    network, z, sentence = make(), torch.randn(3, 6), torch.randn(3, 8)
    torch.testing.assert_close(network(5 * z, sentence), network(z, sentence))
    torch.testing.assert_close(network(z, 5 * sentence), network(z, sentence))
    assert not torch.allclose(network(-z, sentence), network(z, sentence))
    assert not torch.allclose(network(z, -sentence), network(z, sentence))


def test_the_learning_rate_multiplier_leaves_the_first_output_alone_and_shrinks_gradients():
    z, sentence = torch.randn(3, 6), torch.randn(3, 8)
    torch.manual_seed(0)
    fast = MappingNetwork(6, 8, 10, depth=2, lr_multiplier=1.0)
    slow = make()
    torch.testing.assert_close(slow(z, sentence), fast(z, sentence), rtol=1e-4, atol=1e-5)
    for network in (fast, slow):
        network(z, sentence).square().sum().backward()
    ratio = slow.layers[0].weight.grad.norm() / fast.layers[0].weight.grad.norm()
    torch.testing.assert_close(ratio, torch.tensor(0.01), rtol=1e-3, atol=0.0)


def test_w_stays_in_fp32_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        w = make(text_projection=4)(torch.randn(3, 6), torch.randn(3, 8).bfloat16())
    assert w.dtype == torch.float32
