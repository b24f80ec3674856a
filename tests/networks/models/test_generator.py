"""The base generator: its pyramid, its style codes, and truncation."""

import dataclasses

import pytest
import torch

from gigagan_core.models.generator import Generator
from gigagan_core.models.settings import demo_generator
from gigagan_core.models.synthesis import keyed_noise
from gigagan_core.models.text import TextFeatures


@pytest.fixture
def latents():
    return torch.randn(3, 6, generator=torch.Generator().manual_seed(5))


def test_the_pyramid_runs_from_high_to_low_with_every_resolution(make_generator, make_text, latents):
    pyramid = make_generator()(latents, make_text())
    assert [tuple(image.shape) for image in pyramid] == [(3, 3, 16, 16), (3, 3, 8, 8), (3, 3, 4, 4)]
    assert all(torch.isfinite(image).all() for image in pyramid)


def test_a_sample_does_not_depend_on_its_batch(make_generator, make_text):
    generator, text = make_generator(torch.float64), make_text(dtype=torch.float64)
    latents = torch.randn(3, 6, dtype=torch.float64)
    whole = generator(latents, text)[0]
    for n in range(3):
        alone = generator(latents[n : n + 1], text.index(torch.tensor([n])))[0]
        torch.testing.assert_close(alone, whole[n : n + 1], rtol=1e-10, atol=1e-10)


def test_padding_tokens_never_change_an_image(make_generator, make_text, latents):
    generator, text = make_generator(), make_text()
    garbage = text._replace(features=text.features.masked_fill(~text.mask[..., None], 1e5))
    for ours, theirs in zip(generator(latents, garbage), generator(latents, text)):
        assert torch.equal(ours, theirs)


def test_caption_and_latent_both_change_the_image(make_generator, make_text, latents):
    generator, text = make_generator(), make_text()
    image = generator(latents, text)[0]
    assert not torch.allclose(generator(latents, make_text(seed=9))[0], image)
    assert not torch.allclose(generator(latents + 1, text)[0], image)


def test_words_reach_the_image_by_cross_attention_alone(make_generator, make_text):
    generator, text = make_generator(), make_text()
    code = generator.encode(text)
    w = torch.randn(3, 10)
    other = code._replace(t_local=code.t_local + 1)
    assert not torch.allclose(generator.synthesise(w, other)[0], generator.synthesise(w, code)[0])
    blind = make_generator(cross_attention=False)
    assert torch.equal(blind.synthesise(w, other)[0], blind.synthesise(w, code)[0])


def test_one_code_for_all_layers_equals_the_same_code_given_to_each(make_generator, make_text):
    generator, code = make_generator(), None
    code = generator.encode(make_text())
    w = torch.randn(3, 10)
    layered = w[:, None].repeat(1, generator.num_layers, 1)
    for ours, theirs in zip(generator.synthesise(layered, code), generator.synthesise(w, code)):
        assert torch.equal(ours, theirs)


def test_a_fine_layer_leaves_coarse_images_alone(make_generator, make_text):
    generator = make_generator()
    code = generator.encode(make_text())
    layered = torch.randn(3, generator.num_layers, 10)
    changed = layered.clone()
    changed[:, -1] += 1
    before, after = generator.synthesise(layered, code), generator.synthesise(changed, code)
    assert not torch.allclose(after[0], before[0])
    assert torch.equal(after[1], before[1])
    assert torch.equal(after[2], before[2])


def test_a_wrong_number_of_layers_is_refused(make_generator, make_text):
    generator = make_generator()
    with pytest.raises(ValueError, match="w must be"):
        generator.synthesise(torch.randn(3, 2, 10), generator.encode(make_text()))


def test_psi_one_is_exactly_the_identity_and_psi_zero_gives_one_image_per_prompt(make_generator, make_text):
    generator = make_generator()
    text = make_text(size=1)
    code = generator.encode(text)
    w = torch.cat([generator.map(torch.randn(1, 6), code) for _ in range(4)])
    generator.update_w_mean(w, decay=0.5)
    assert torch.equal(generator.truncate(w, 1.0), w)
    rows = torch.zeros(4, dtype=torch.int64)
    images = generator.synthesise(generator.truncate(w, 0.0), code.index(rows))[0]
    for image in images[1:]:
        torch.testing.assert_close(image, images[0], rtol=1e-5, atol=1e-6)
    assert torch.equal(generator.truncate(w, 0.0)[0], generator.w_mean)
    half = generator.truncate(w, 0.5)
    torch.testing.assert_close(half, (w + generator.w_mean) / 2)


def test_truncation_takes_layered_codes(make_generator):
    generator = make_generator()
    generator.update_w_mean(torch.randn(8, 10), decay=0.5)
    w = torch.randn(2, generator.num_layers, 10)
    assert generator.truncate(w, 0.0).shape == w.shape
    assert torch.equal(generator.truncate(w, 1.0), w)


def test_the_running_mean_of_w_moves_by_one_minus_decay_and_is_saved(make_generator):
    generator = make_generator()
    w = torch.randn(5, 10)
    generator.update_w_mean(w, decay=0.9)
    torch.testing.assert_close(generator.w_mean, 0.1 * w.mean(dim=0))
    assert "w_mean" in generator.state_dict()


def test_noise_is_keyed_by_sample_and_silent_until_its_strength_is_learned(
    make_generator, make_text, latents
):
    generator, text = make_generator(), make_text()
    noise = keyed_noise(0, torch.arange(3))
    quiet = generator(latents, text, noise)[0]
    assert torch.equal(quiet, generator(latents, text)[0])
    with torch.no_grad():
        for name, parameter in generator.named_parameters():
            if name.endswith("noise_strength"):
                parameter.fill_(0.5)
    loud = generator(latents, text, noise)[0]
    assert not torch.allclose(loud, quiet)
    last = generator(latents[2:], text.index(torch.tensor([2])), keyed_noise(0, torch.tensor([2])))[0]
    torch.testing.assert_close(last, loud[2:], rtol=1e-4, atol=1e-4)


SWITCHES = {
    "no text": {"conditioning": "none"},
    "classes": {"conditioning": "class", "classes": 3, "cross_attention": False},
    "w as wide as the features": {"w_dim": 8},
    "one kernel": {"kernels": (1, 1, 1)},
    "no attention": {"attention_depths": (0, 0, 0)},
    "attention per block": {"attention_per": "block", "attention_depths": (1, 1, 0)},
    "single scale": {"multi_scale": False},
    "rgb per resolution": {"rgb_per": "resolution"},
    "no residual": {"residual": "none"},
    "identity residual": {"residual": "identity"},
    "one convolution a block": {"convs_per_block": 1},
    "no w token": {"w_token": False},
    "no feed-forward after words": {"cross_attention_mlp": False},
    "wide attention": {"attention_width": 1.5},
    "upsample first": {"upsample_first": True},
    "no noise": {"noise": False},
    "projected sentence": {"mapping_text_dim": 4},
    "no transformer": {"text_depth": 0},
}


@pytest.mark.parametrize("name", SWITCHES)
def test_every_switch_gives_a_network_that_runs_and_learns(name, make_generator, make_condition, latents):
    generator = make_generator(**SWITCHES[name])
    pyramid = generator(latents, make_condition(generator), keyed_noise(0, torch.arange(3)))
    assert len(pyramid) == (3 if generator.settings.multi_scale else 1)
    assert pyramid[0].shape == (3, 3, 16, 16)
    sum(image.square().mean() for image in pyramid).backward()
    idle = [name for name, p in generator.named_parameters() if p.grad is None]
    assert not idle


def test_recomputed_activations_give_the_same_gradients(make_generator, make_text, latents):
    gradients = []
    for recompute in (False, True):
        generator = make_generator(torch.float64)
        generator.checkpoint_activations = recompute
        images = generator(latents.double(), make_text(dtype=torch.float64), keyed_noise(0, torch.arange(3)))
        sum(image.square().mean() for image in images).backward()
        gradients.append({name: p.grad for name, p in generator.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-12, atol=1e-12)


def test_recomputing_keeps_fewer_activations(make_generator, make_text, latents):
    def kept(recompute: bool) -> int:
        sizes = []
        generator = make_generator()
        generator.checkpoint_activations = recompute
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            generator(latents, make_text())
        return sum(sizes)

    assert kept(True) < 0.5 * kept(False)


def test_nothing_is_downcast_in_float64(make_generator, make_text):
    generator = make_generator(torch.float64)
    latents, text = torch.randn(3, 6, dtype=torch.float64), make_text(dtype=torch.float64)
    single = make_generator(torch.float64).float()
    exact = generator(latents, text, keyed_noise(0, torch.arange(3)))
    rough = single(latents.float(), text._replace(features=text.features.float()))
    for image, near in zip(exact, rough):
        assert image.dtype == torch.float64
        difference = (image - near).abs().max().item()
        assert 0 < difference < 1e-3
    w = generator.map(latents, generator.encode(text))
    assert w.dtype == torch.float64


def test_the_demo_generator_is_small_and_runs_at_its_size():
    torch.manual_seed(0)
    settings = demo_generator(text_dim=16)
    generator = Generator(settings)
    assert sum(p.numel() for p in generator.parameters()) < 2_000_000
    text = TextFeatures(torch.randn(2, 5, 16), torch.tensor([4, 2]), torch.ones(2, 5, dtype=torch.bool))
    assert generator(torch.randn(2, settings.z_dim), text)[0].shape == (2, 3, 32, 32)
    assert generator.settings == type(settings)(**dataclasses.asdict(settings))
