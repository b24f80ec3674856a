"""The loop: what is called when, what stops it, and that resuming changes nothing."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from gigagan_core.training import state as state_module
from gigagan_core.training.loop import NonFiniteError, Term, run_loop, train_step
from gigagan_core.training.optimisation import adamw, ema_decay, set_learning_rate, update_ema
from gigagan_core.training.recipes import initial_network
from gigagan_core.training.settings import EmaSettings, OptimiserSettings
from gigagan_core.training.world import World

from .conftest import (
    GENERATOR,
    Hooks,
    base_settings,
    batches,
    make_base,
    make_upsampler,
    upsampler_settings,
    weights,
)

CASES = {"base": (make_base, base_settings, 8), "upsampler": (make_upsampler, upsampler_settings, 16)}


def train(make, settings, size, stop_after=None, saved=None):
    state, recipe = make(settings)
    if saved is not None:
        state.load_state_dict(saved)
    hooks = Hooks(stop_after)
    source = batches(size, start_image=state.images_seen)
    run_loop(state, recipe, source, settings.schedule, hooks, World())
    return state, hooks


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("stop_after", [0, 1])
def test_training_stopped_and_resumed_ends_with_the_same_bits(case: str, stop_after: int, tmp_path) -> None:
    make, settings, size = CASES[case]
    whole, _ = train(make, settings(), size)
    # R1 is due every third step and metrics are read every second, so the stops fall between them.
    _, hooks = train(make, settings(), size, stop_after=stop_after)
    images_seen, saved = hooks.checkpoints[-1]
    assert 0 < images_seen < whole.images_seen
    torch.save(saved, tmp_path / "state.pt")
    resumed, _ = train(make, settings(), size, saved=torch.load(tmp_path / "state.pt", weights_only=True))
    assert resumed.images_seen == whole.images_seen
    assert resumed.step == whole.step
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(resumed)[name]), name
    assert [row["images"] for row in resumed.history] == [row["images"] for row in whole.history]
    for ours, theirs in zip(resumed.history, whole.history, strict=True):
        assert ours == theirs


def test_a_long_history_is_thinned_and_a_resumed_one_alike(monkeypatch) -> None:
    monkeypatch.setattr(state_module, "HISTORY_ROWS", 4)
    settings = base_settings(metrics_every_steps=1, total_images=72, diagnostics_every_steps=0)
    whole, hooks = train(make_base, settings, 8)
    assert [images for images, _ in hooks.metrics] == list(range(8, 73, 8)), "every row was told"
    # 5 rows to 3 at 40 images, and again at 56 and at 72
    assert [row["images"] for row in whole.history] == [8, 56, 72]
    _, hooks = train(make_base, settings, 8, stop_after=4)
    resumed, _ = train(make_base, settings, 8, saved=hooks.checkpoints[-1][1])
    assert resumed.history == whole.history


def test_resuming_without_the_optimisers_moments_would_be_noticed() -> None:
    whole, _ = train(make_base, base_settings(), 8)
    _, hooks = train(make_base, base_settings(), 8, stop_after=1)
    saved = hooks.checkpoints[-1][1]
    for optimizer in saved["optimizers"].values():
        optimizer["state"] = {}
    resumed, _ = train(make_base, base_settings(), 8, saved=saved)
    assert any(not torch.equal(value, weights(resumed)[name]) for name, value in weights(whole).items())


def test_hooks_are_called_at_their_images() -> None:
    settings = base_settings(total_images=48, checkpoint_every_images=16, sample_every_images=24)
    state, hooks = train(make_base, settings, 8)
    assert state.images_seen == 48
    assert [images for images, _ in hooks.metrics] == [16, 32, 48]
    assert [images for images, _ in hooks.checkpoints] == [16, 32, 48]
    assert hooks.samples == [0, 24, 48]
    shares = {"data_wait_share", "samples_share", "checkpoint_stall_share"}
    assert {"images_per_second", "flops_per_second_per_device", "generator/loss", *shares} <= set(
        hooks.metrics[0][1]
    )
    assert all(0 <= metrics[share] <= 1 for _, metrics in hooks.metrics for share in shares)
    # What varies from run to run stays out of the state, which is compared bit for bit.
    assert "images_per_second" not in state.history[0]


def test_a_notice_that_a_machine_goes_saves_out_of_turn_and_training_goes_on() -> None:
    class Noticed(Hooks):
        asked = 0

        def should_save(self) -> bool:
            self.asked += 1
            return self.asked == 2

    settings = base_settings(total_images=48, checkpoint_every_images=1000)
    state, recipe = make_base(settings)
    hooks = Noticed()
    run_loop(state, recipe, batches(8), settings.schedule, hooks, World())
    assert [images for images, _ in hooks.checkpoints] == [32, 48]


def test_a_finished_run_given_again_only_saves() -> None:
    state, hooks = train(make_base, base_settings(), 8)
    again, hooks = train(make_base, base_settings(), 8, saved=state.state_dict())
    assert hooks.checkpoints == []
    assert again.step == state.step


@pytest.mark.parametrize("where", ["discriminator", "generator"])
def test_a_loss_that_is_not_finite_stops_before_the_update(where: str) -> None:
    state, recipe = make_base()
    update = next(update for update in recipe.updates if update.network == where)
    term = update.terms[-1]

    def broken(step):
        loss, metrics = term.function(step)
        return loss * float("nan"), metrics

    spoiled = dataclasses.replace(update, terms=(*update.terms[:-1], Term(term.name, broken)))
    recipe = dataclasses.replace(recipe, updates=(spoiled,))
    before = {name: value.clone() for name, value in weights(state).items()}
    with pytest.raises(NonFiniteError, match=rf"step 0 .*loss {where} is nan.*no update.*key0 key1") as error:
        train_step(state, recipe, next(batches(8)), World())
    assert "key7" in str(error.value)
    assert all(torch.equal(value, before[name]) for name, value in weights(state).items())
    assert not state.optimizers[where].state


def test_a_gradient_that_is_not_finite_stops_too() -> None:
    state, recipe = make_base()
    update = recipe.updates[0]

    def steep(step):
        loss, metrics = update.terms[0].function(step)
        zero = loss - loss.detach()
        # sqrt at 0: the loss stays finite, its derivative does not
        return loss.detach() + zero.sqrt(), metrics

    recipe = dataclasses.replace(
        recipe, updates=(dataclasses.replace(update, terms=(Term("discriminator", steep),)),)
    )
    with pytest.raises(NonFiniteError, match="gradient of discriminator is not finite"):
        train_step(state, recipe, next(batches(8)), World())


@pytest.mark.parametrize("case", CASES)
def test_two_hundred_bf16_steps_on_noise_stay_finite(case: str) -> None:
    """The loop looks at every gradient: one that is not finite raises."""
    make, settings, size = CASES[case]
    training = settings(precision="bfloat16", total_images=200 * 8)
    state, recipe = make(training)
    run_loop(state, recipe, batches(size), training.schedule, Hooks(), World())
    assert state.step == 200
    assert all(torch.isfinite(value).all() for value in weights(state).values())
    assert all(np.isfinite(value) for row in state.history for value in row.values())


def test_an_update_moves_its_own_network_alone() -> None:
    state, recipe = make_base()
    only = dataclasses.replace(recipe, updates=recipe.updates[:1])
    before = {name: value.clone() for name, value in state.generator.named_parameters()}
    train_step(state, only, next(batches(8)), World())
    assert all(torch.equal(value, before[name]) for name, value in state.generator.named_parameters())


def test_warm_up_is_a_function_of_the_images_seen() -> None:
    settings = OptimiserSettings(learning_rate=1.0, warm_up_images=100)
    optimizer = adamw(torch.nn.Linear(2, 2), settings)
    for images, rate in ((0, 0.01), (49, 0.5), (99, 1.0), (5000, 1.0)):
        set_learning_rate(optimizer, settings, images)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(rate)


def test_attention_is_decayed_more_than_the_rest() -> None:
    optimizer = adamw(initial_network(GENERATOR, 0), OptimiserSettings())
    assert sorted(group["weight_decay"] for group in optimizer.param_groups) == [1e-5, 0.01]


def test_the_average_follows_its_decay_and_forgets_the_start_by_its_ramp() -> None:
    network = torch.nn.Linear(1, 1, bias=False)
    average = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(network.weight, 1.0)
    torch.nn.init.constant_(average.weight, 0.0)
    update_ema(average, network, 0.9)
    assert average.weight.item() == pytest.approx(0.1)
    assert ema_decay(EmaSettings(decay=0.9999, ramp=0.0), 32, 64) == 0.9999
    assert ema_decay(EmaSettings(decay=0.9999, ramp=0.05), 32, 6400) == pytest.approx(0.5 ** (32 / 320))
    assert ema_decay(EmaSettings(decay=0.9999, ramp=0.05), 32, 10**9) == 0.9999


def test_initial_weights_are_a_function_of_settings_and_seed() -> None:
    torch.manual_seed(123)
    expected = torch.rand(1)
    torch.manual_seed(123)
    first = initial_network(GENERATOR, 7).state_dict()
    assert torch.equal(torch.rand(1), expected)  # the global random state is left alone
    assert all(
        torch.equal(value, first[name]) for name, value in initial_network(GENERATOR, 7).state_dict().items()
    )
    other = initial_network(GENERATOR, 8).state_dict()
    assert any(not torch.equal(value, first[name]) for name, value in other.items())
