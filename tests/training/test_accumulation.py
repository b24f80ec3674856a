"""A batch in micro-batches makes the step that the whole batch makes."""

from __future__ import annotations

import contextlib
import dataclasses
from functools import partial

import pytest
import torch
from pydantic import ValidationError

from gigagan_core.config.training import BaseTrainingSettings, UpsamplerTrainingSettings
from gigagan_core.training import steps
from gigagan_core.training.loop import run_loop
from gigagan_core.training.world import World

from .conftest import (
    DISCRIMINATOR,
    GENERATOR,
    LARGE_DISCRIMINATOR,
    UPSAMPLER,
    Hooks,
    base_settings,
    batches,
    make_base,
    make_upsampler,
    upsampler_settings,
    weights,
)

CASES = {
    "base": (make_base, base_settings, 8),
    "upsampler": (make_upsampler, upsampler_settings, 16),
    "control": (make_upsampler, partial(upsampler_settings, "l1"), 16),
}


def train(case: str, micro: int):
    make, settings, size = CASES[case]
    training = settings(precision="float64", total_images=32, micro_batch_size=micro)
    state, recipe = make(training)
    run_loop(state, recipe, batches(size), training.schedule, Hooks(), World())
    return state


def assert_same(ours, theirs) -> None:
    for name, value in weights(theirs).items():
        torch.testing.assert_close(weights(ours)[name], value, rtol=0, atol=1e-9, msg=name)
    for mine, whole in zip(ours.history, theirs.history, strict=True):
        # Entropies are looked at on the first micro-batch only.
        for name in (name for name in whole if not name.startswith("entropy/")):
            assert mine[name] == pytest.approx(whole[name], abs=1e-9), name


@pytest.mark.parametrize("case", CASES)
def test_accumulated_gradients_are_those_of_the_whole_batch(case: str) -> None:
    assert_same(train(case, micro=4), train(case, micro=0))


def test_negatives_of_other_micro_batches_left_out_would_be_noticed(monkeypatch) -> None:
    monkeypatch.setattr(steps, "meet_peers", lambda models, micros, settings: micros)
    with pytest.raises(AssertionError):
        assert_same(train("base", micro=4), train("base", micro=0))


@pytest.mark.parametrize(
    ("schedule", "losses", "sentence"),
    [
        ({"micro_batch_size": 3}, {}, "micro_batch_size is 3, which does not divide a worker's batch of 8"),
        ({"micro_batch_size": 2}, {}, "matching_block is 4, which does not divide micro_batch_size of 2"),
        ({"micro_batch_size": 4}, {"matching_block": 0}, "set matching_block to 4 or a divisor"),
        (
            {"micro_batch_size": 1},
            {"matching": 0.0, "matching_block": 0},
            "minibatch_std_group is 2, which does not divide micro_batch_size of 1",
        ),
    ],
)
def test_a_micro_batch_that_would_change_the_result_is_refused(schedule, losses, sentence) -> None:
    refuse(1, schedule, losses, sentence)


@pytest.mark.parametrize(
    ("workers", "losses", "sentence"),
    [
        (3, {}, "a batch of 8 does not split over 3 workers"),
        (16, {}, "a batch of 8 does not split over 16 workers"),
        (
            2,
            {"matching_block": 0},
            "workers is 2 and matching_block 0, .* set matching_block to 4 or a divisor",
        ),
        (
            8,
            {"matching_block": 0, "matching": 0.0},
            "minibatch_std_group is 2, which does not divide a worker's",
        ),
        (4, {}, "matching_block is 4, which does not divide a worker's batch of 2"),
    ],
)
def test_a_number_of_workers_that_would_change_the_result_is_refused(workers, losses, sentence) -> None:
    refuse(workers, {}, losses, sentence)


@pytest.mark.parametrize("objective", ["gan", "l1"])
def test_a_control_that_exchanges_no_captions_needs_no_block(objective: str) -> None:
    training = upsampler_settings(objective)
    losses = dataclasses.replace(training.losses, matching_block=0)
    training = dataclasses.replace(training, losses=losses)
    refused = pytest.raises(ValidationError, match="set matching_block to 4 or a divisor")
    with refused if objective == "gan" else contextlib.nullcontext():
        UpsamplerTrainingSettings(
            upsampler=UPSAMPLER, discriminator=LARGE_DISCRIMINATOR, training=training, workers=2
        )


def refuse(workers: int, schedule: dict, losses: dict, sentence: str) -> None:
    training = base_settings(**schedule)
    training = dataclasses.replace(training, losses=dataclasses.replace(training.losses, **losses))
    with pytest.raises(ValidationError, match=sentence):
        BaseTrainingSettings(
            generator=GENERATOR, discriminator=DISCRIMINATOR, training=training, workers=workers
        )
