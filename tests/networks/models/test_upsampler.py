"""The upsampler: sizes, skips, conditioning, and its residual form."""

import pytest
import torch
import torch.nn.functional as F

from gigagan_core.models.pyramid import image_pyramid, resize
from gigagan_core.models.synthesis import keyed_noise


@pytest.fixture
def low():
    return torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture
def latents():
    return torch.randn(3, 6, generator=torch.Generator().manual_seed(5))


def test_it_returns_a_pyramid_from_high_to_low(make_upsampler, make_text, low, latents):
    pyramid = make_upsampler()(low, latents, make_text())
    assert [image.shape[-1] for image in pyramid] == [16, 8, 4]
    pyramid = make_upsampler(lowest_rgb=8)(low, latents, make_text())
    assert [image.shape[-1] for image in pyramid] == [16, 8]


@pytest.mark.parametrize(
    "changes",
    [
        {"skip": "add"},
        {"skip": "concatenate"},
        {"conditioning": "none"},
        {"conditioning": "class", "classes": 3, "cross_attention": False},
        {"upsample_first": True, "noise": False},
        {"attention_depths": (0, 0, 0), "encoder_attention_depths": (0,)},
    ],
)
def test_every_switch_gives_a_network_that_runs_and_learns(
    changes, make_upsampler, make_condition, low, latents
):
    network = make_upsampler(**changes)
    pyramid = network(low, latents, make_condition(network), keyed_noise(0, torch.arange(3)))
    sum(image.square().mean() for image in pyramid).backward()
    assert not [name for name, p in network.named_parameters() if p.grad is None]


def test_before_training_the_residual_form_is_bicubic_resizing(make_upsampler, make_text, low, latents):
    high, same, *_ = make_upsampler(residual_output=True, lowest_rgb=8)(low, latents, make_text())
    torch.testing.assert_close(same, low)
    # antialias makes it PIL's bicubic, which an evaluation compares with.
    bicubic = F.interpolate(low, size=(16, 16), mode="bicubic", antialias=True)
    torch.testing.assert_close(high, bicubic, rtol=1e-4, atol=1e-5)


def test_input_caption_and_latent_all_change_the_output(make_upsampler, make_text, low, latents):
    network, text = make_upsampler(), make_text()
    image = network(low, latents, text)[0]
    assert not torch.allclose(network(-low, latents, text)[0], image)
    assert not torch.allclose(network(low, latents + 1, text)[0], image)
    assert not torch.allclose(network(low, latents, make_text(seed=9))[0], image)


def test_a_wrong_input_size_is_refused(make_upsampler, make_text, latents):
    with pytest.raises(ValueError, match="takes 8 px"):
        make_upsampler()(torch.zeros(3, 3, 16, 16), latents, make_text())


def test_codes_can_be_given_by_layer(make_upsampler, make_text, low):
    network = make_upsampler()
    code, w = network.encode(make_text()), torch.randn(3, 10)
    layered = w[:, None].repeat(1, network.num_layers, 1)
    assert torch.equal(network.synthesise(low, layered, code)[0], network.synthesise(low, w, code)[0])


def test_a_real_pyramid_keeps_the_mean_of_every_region():
    images = torch.rand(2, 3, 16, 16)
    pyramid = image_pyramid(images, (16, 8, 4))
    assert [level.shape[-1] for level in pyramid] == [16, 8, 4]
    assert pyramid[0] is images
    torch.testing.assert_close(pyramid[2][0, 0, 0, 0], images[0, 0, :4, :4].mean())
    with pytest.raises(ValueError, match="starts at 8"):
        image_pyramid(images, (8, 4))
    with pytest.raises(ValueError, match="half"):
        image_pyramid(images, (16, 4))


def test_resizing_to_the_same_size_is_the_identity():
    images = torch.rand(1, 3, 8, 8)
    assert resize(images, 8) is images
