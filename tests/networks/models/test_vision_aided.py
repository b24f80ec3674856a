"""Vision-aided heads: fixed projections, learned convolutions, one prediction a feature map."""

from __future__ import annotations

import pytest
import torch

from gigagan_core.losses.adversarial import discriminator_loss, generator_loss
from gigagan_core.models.vision_aided import VisionAidedHeads

WIDTH = 5


def make_maps(dtype: torch.dtype = torch.float64, seed: int = 0) -> list[torch.Tensor]:
    torch.manual_seed(seed)
    return [torch.randn(2, WIDTH, 3, 3, dtype=dtype) for _ in range(2)]


def make_heads(code_width: int = 4) -> VisionAidedHeads:
    torch.manual_seed(1)
    return VisionAidedHeads(2, WIDTH, 3, code_width).double()


def test_each_map_gives_logits_of_its_own() -> None:
    heads, maps, code = make_heads(), make_maps(), torch.randn(2, 4, dtype=torch.float64)
    before = heads(maps, code)
    after = heads([maps[0], maps[1] + torch.randn_like(maps[1])], code)
    assert [x.shape for x in before] == [(2, 1, 3, 3)] * 2
    assert torch.equal(before[0], after[0])
    assert not torch.allclose(before[1], after[1])
    with pytest.raises(ValueError, match="1 feature maps were given for 2 heads"):
        heads(maps[:1], code)


def test_the_caption_modulates_every_head() -> None:
    heads, maps = make_heads(), make_maps()
    first, second = (heads(maps, torch.randn(2, 4, dtype=torch.float64)) for _ in range(2))
    assert not any(torch.allclose(a, b) for a, b in zip(first, second))
    assert all(torch.isfinite(x).all() for x in make_heads(0)(maps, None))


def test_projections_are_fixed_and_saved_and_the_rest_learns() -> None:
    heads = make_heads()
    sum(x.square().mean() for x in heads(make_maps(), torch.randn(2, 4, dtype=torch.float64))).backward()
    assert all(
        p.grad is not None and p.grad.abs().sum() > 0 for n, p in heads.named_parameters() if "bias" not in n
    )
    assert not any("projection" in name for name, _ in heads.named_parameters())
    assert sum("projection" in name for name in heads.state_dict()) == 2


def test_gradients_of_both_losses_equal_finite_differences(make_discriminator, make_text) -> None:
    network = make_discriminator(torch.float64, vision_layers=(1, 2), vision_width=WIDTH, vision_channels=3)
    t_D = network.encode(make_text(2, dtype=torch.float64)).detach()
    real, fake = make_maps(seed=2), [x.requires_grad_() for x in make_maps(seed=3)]

    def loss(*maps: torch.Tensor) -> torch.Tensor:
        on_fake = network.predict_vision(maps, t_D)
        return generator_loss(on_fake) + discriminator_loss(network.predict_vision(real, t_D), on_fake)

    assert torch.autograd.gradcheck(loss, tuple(fake))
