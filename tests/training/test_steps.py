"""Each step is a plain function: callable alone, and touching only what it says."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from gigagan_core.training import steps
from gigagan_core.training.loop import train_step
from gigagan_core.training.recipes import initial_network
from gigagan_core.training.steps import BaseModels, UpsamplerModels
from gigagan_core.training.world import World

from .conftest import (
    DISCRIMINATOR,
    GENERATOR,
    LARGE_DISCRIMINATOR,
    UPSAMPLER,
    base_settings,
    batches,
    distance,
    make_base,
    make_encoder,
    make_upsampler,
    upsampler_settings,
    weights,
)


@pytest.fixture
def base():
    models = BaseModels(initial_network(GENERATOR, 0), initial_network(DISCRIMINATOR, 0), make_encoder())
    batch = next(batches(8))
    captions = steps.read_captions(models.encoder, batch.captions, batch.indices, 0, 4, torch.float32)
    return models, steps.prepare_base(models, batch.images, captions, batch.indices)


@pytest.fixture
def large():
    models = UpsamplerModels(
        initial_network(UPSAMPLER, 0), initial_network(LARGE_DISCRIMINATOR, 0), make_encoder(), distance
    )
    batch = next(batches(16))
    captions = steps.read_captions(models.encoder, batch.captions, batch.indices, 0, 4, torch.float32)
    settings = upsampler_settings()
    return models, steps.prepare_upsampler(models, batch.images, captions, batch.indices, settings)


def with_losses(settings, **changes):
    return dataclasses.replace(settings, losses=dataclasses.replace(settings.losses, **changes))


def test_the_discriminator_step_sends_no_gradient_into_the_generator(base) -> None:
    models, batch = base
    loss, metrics = steps.discriminator_step(models, batch, base_settings())
    loss.backward()
    assert all(parameter.grad is None for parameter in models.generator.parameters())
    reached = [parameter.grad is not None for parameter in models.discriminator.parameters()]
    assert all(reached)
    assert metrics["discriminator/valid_pair_share"] > 0


def test_the_generator_step_reaches_every_weight_of_the_generator(base) -> None:
    models, batch = base
    loss, _ = steps.generator_step(models, batch, base_settings())
    loss.backward()
    without = {name for name, parameter in models.generator.named_parameters() if parameter.grad is None}
    assert without == set()


def test_each_base_loss_is_in_the_sum_with_its_weight(base) -> None:
    models, batch = base
    plain = with_losses(base_settings(), matching=0.0, contrastive=0.0, vision_aided=0.0)
    every = with_losses(base_settings(), matching=2.0, contrastive=3.0, vision_aided=5.0)
    alone, _ = steps.generator_step(models, batch, plain)
    together, metrics = steps.generator_step(models, batch, every)
    expected = alone + 2.0 * metrics["generator/matching"] + 3.0 * metrics["generator/contrastive"]
    torch.testing.assert_close(together, expected + 5.0 * metrics["generator/vision_aided"])
    alone, _ = steps.discriminator_step(models, batch, plain)
    together, metrics = steps.discriminator_step(
        models, batch, with_losses(plain, matching=2.0, vision_aided=5.0)
    )
    expected = alone + 2.0 * metrics["discriminator/matching"] + 5.0 * metrics["discriminator/vision_aided"]
    torch.testing.assert_close(together, expected)
    torch.testing.assert_close(metrics["discriminator/loss"], together.detach())


def test_matching_is_in_the_losses_of_both_networks(base) -> None:
    models, batch = base
    for step in (steps.discriminator_step, steps.generator_step):
        off, _ = step(models, batch, with_losses(base_settings(), matching=0.0))
        on, _ = step(models, batch, base_settings())
        assert on > off


def test_matching_in_the_discriminator_alone_is_a_switch(base) -> None:
    models, batch = base
    only = with_losses(base_settings(), matching_in="discriminator")
    off = with_losses(base_settings(), matching=0.0)
    torch.testing.assert_close(
        steps.generator_step(models, batch, only)[0], steps.generator_step(models, batch, off)[0]
    )
    assert steps.discriminator_step(models, batch, only)[0] > steps.discriminator_step(models, batch, off)[0]


def test_vision_aided_heads_read_the_named_encoder_and_leave_it_as_it_is(base) -> None:
    models, batch = base
    other = make_encoder()
    other.model.visual.conv1.weight.data.mul_(-1.0)
    alone = with_losses(base_settings(), matching=0.0, contrastive=0.0)
    same, _ = steps.generator_step(models, batch, alone)
    loss, _ = steps.generator_step(dataclasses.replace(models, vision_encoder=other), batch, alone)
    assert not torch.equal(loss, same)
    loss.backward()
    assert all(parameter.grad is None for parameter in other.parameters())


def test_the_frozen_encoder_sees_the_generated_images_once_a_step(base, monkeypatch) -> None:
    models, batch = base
    passes = []
    original = type(models.encoder.model.visual).forward
    monkeypatch.setattr(
        type(models.encoder.model.visual),
        "forward",
        lambda self, *given: passes.append(len(given[0])) or original(self, *given),
    )
    steps.generator_step(models, batch, base_settings())
    assert passes == [8]


def test_class_labels_take_the_place_of_captions() -> None:
    classes = {"conditioning": "class", "classes": 5}
    models = BaseModels(
        initial_network(dataclasses.replace(GENERATOR, **classes, cross_attention=False), 0),
        initial_network(
            dataclasses.replace(DISCRIMINATOR, **classes, predictor="projection", vision_layers=()), 0
        ),
        encoder=None,
    )
    batch, labels = next(batches(8)), torch.tensor([0, 1, 2, 3, 4, 0, 1, 1])
    captions = steps.read_labels(labels, batch.indices, 0, 4)
    ready = steps.prepare_base(models, batch.images, captions, batch.indices)
    settings = with_losses(base_settings(), contrastive=0.0, vision_aided=0.0)
    for network, step in (
        (models.discriminator, steps.discriminator_step),
        (models.generator, steps.generator_step),
    ):
        loss, _ = step(models, ready, settings)
        loss.backward(inputs=list(network.parameters()))
        rows = network.condition_encoder.vectors.grad.abs().sum(dim=1)
        assert (rows > 0).all(), "every class of the batch learns"
    assert torch.equal(captions.valid, labels != labels[captions.partner])


def test_r1_is_scaled_by_half_its_strength_and_its_interval(base) -> None:
    models, batch = base
    settings = base_settings()
    loss, metrics = steps.r1_step(models, batch, settings)
    torch.testing.assert_close(loss.detach(), metrics["discriminator/r1"] * 0.5 * 1.0 * 3)
    assert metrics["discriminator/r1"] > 0


def test_the_frozen_encoder_reads_the_captions_once_a_step(monkeypatch) -> None:
    state, recipe = make_base()
    calls = {"text_tokens": 0, "text_embed": 0}
    for name in calls:
        original = getattr(type(make_encoder()), name)

        def counted(self, *given, name=name, original=original):
            calls[name] += 1
            return original(self, *given)

        monkeypatch.setattr(type(make_encoder()), name, counted)
    train_step(state, recipe, next(batches(8)), World())
    assert calls == {"text_tokens": 1, "text_embed": 1}


def test_the_encoder_stays_as_it_is_through_training() -> None:
    encoder = make_encoder()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    from gigagan_core.training.recipes import base_training

    state, recipe = base_training(GENERATOR, DISCRIMINATOR, base_settings(), encoder)
    train_step(state, recipe, next(batches(8)), World())
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert all(parameter.grad is None for parameter in encoder.parameters())


def test_the_upsamplers_input_is_the_shrunken_image_plus_noise_within_the_stated_strength(large) -> None:
    models, batch = large
    difference = (batch.low - batch.clean_low).flatten(1).std(dim=1)
    assert batch.low.shape[-1] == 8
    assert (difference > 0).all()
    assert (difference < 1.3 * upsampler_settings().losses.noise).all()
    quiet = with_losses(upsampler_settings(), noise=0.0)
    again = steps.prepare_upsampler(models, batch.real[0], batch.captions, batch.indices, quiet)
    assert torch.equal(again.low, again.clean_low)


def test_each_upsampler_loss_is_in_the_sum_with_its_weight(large) -> None:
    models, batch = large
    names = ("contrastive", "lpips", "feature_distance", "l1", "consistency")
    plain = with_losses(upsampler_settings(), matching=0.0, **dict.fromkeys(names, 0.0))
    alone, _ = steps.upsampler_generator_step(models, batch, plain)
    for name in names:
        loss, metrics = steps.upsampler_generator_step(models, batch, with_losses(plain, **{name: 2.0}))
        torch.testing.assert_close(loss, alone + 2.0 * metrics[f"generator/{name}"])
        assert metrics[f"generator/{name}"] > 0


def test_the_control_minimises_absolute_error_and_nothing_else(large) -> None:
    models, batch = large
    loss, metrics = steps.l1_step(models, batch, upsampler_settings("l1"))
    fake = steps.upsample_pyramid(models, batch, 0, "generator")[0]
    torch.testing.assert_close(loss, (fake - batch.real[0]).abs().mean())
    assert set(metrics) == {"generator/loss"}


def test_the_control_has_no_discriminator_to_train() -> None:
    state, recipe = make_upsampler(upsampler_settings("l1"))
    assert set(state.networks) == {"generator"}
    before = {name: value.clone() for name, value in weights(state).items()}
    train_step(state, recipe, next(batches(16)), World())
    assert any(not torch.equal(value, before[name]) for name, value in weights(state).items())


def test_discriminator_and_generator_meet_different_latents(base) -> None:
    models, batch = base
    first = steps.generate_pyramid(models, batch, 0, "discriminator")[0]
    second = steps.generate_pyramid(models, batch, 0, "generator")[0]
    assert not torch.equal(first, second)
    assert torch.equal(first, steps.generate_pyramid(models, batch, 0, "discriminator")[0])


def test_the_mean_of_w_moves_towards_the_batch(base) -> None:
    models, batch = base
    assert torch.equal(models.generator.w_mean, torch.zeros_like(models.generator.w_mean))
    steps.track_w_mean(models, [batch], base_settings(w_mean_decay=0.0))
    mean = models.generator.w_mean.clone()
    assert mean.abs().sum() > 0
    steps.track_w_mean(models, [batch], base_settings(w_mean_decay=0.5))
    torch.testing.assert_close(models.generator.w_mean, mean)


@pytest.mark.parametrize("objective", ["gan", "l1"])
def test_an_upsampler_learns_a_mean_of_w_to_truncate_towards(objective: str) -> None:
    state, recipe = make_upsampler(upsampler_settings(objective, w_mean_decay=0.0))
    train_step(state, recipe, next(batches(16)), World())
    (batch,) = recipe.prepare(next(batches(16)))
    z = steps._latents(state.generator, batch, 0, "generator")
    w = state.generator.map(z, state.generator.encode(batch.captions.condition))
    assert state.generator.w_mean.any()
    torch.testing.assert_close(state.generator.w_mean, w.mean(dim=0))
    assert torch.equal(state.ema.w_mean, state.generator.w_mean)
