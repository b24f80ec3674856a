"""Fifty steps in float64 give the stored losses again, whatever the number of threads.

After a change that is meant to change training, record the curves anew and say why in the commit:

    python -m tests.training.test_golden_curve
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from gigagan_core.training.loop import run_loop
from gigagan_core.training.settings import OptimiserSettings
from gigagan_core.training.world import World

from .conftest import Hooks, base_settings, batches, make_base, make_upsampler, upsampler_settings

STEPS = 50
TOLERANCE = 1e-8
CASES = {"base": (make_base, base_settings, 8), "upsampler": (make_upsampler, upsampler_settings, 16)}
# A rate at which rounding (1e-15 of every weight, say) has grown to 1e-11 after fifty steps, and not further.
OPTIMISER = OptimiserSettings(learning_rate=0.001)

Curve = list[dict[str, float]]


def curve(case: str, steps: int = STEPS, **losses: Any) -> Curve:
    """Every metric of every step. losses: weights to change."""
    make, settings, size = CASES[case]
    training = settings(precision="float64", total_images=8 * steps, metrics_every_steps=1)
    training = dataclasses.replace(
        training,
        generator=OPTIMISER,
        discriminator=OPTIMISER,
        losses=dataclasses.replace(training.losses, **losses),
    )
    state, recipe = make(training)
    run_loop(state, recipe, batches(size), training.schedule, Hooks(), World())
    return state.history


def stored(case: str) -> Curve:
    return json.loads(place(case).read_text())


def place(case: str) -> Path:
    return Path(__file__).parent / "golden" / f"{case}.json"


def largest_difference(ours: Curve, theirs: Curve) -> float:
    assert [row.keys() for row in ours] == [row.keys() for row in theirs]
    return max(abs(a[name] - b[name]) for a, b in zip(ours, theirs, strict=True) for name in a)


@pytest.mark.parametrize(("case", "threads"), [("base", 1), ("base", 2), ("upsampler", 2)])
def test_fifty_steps_give_the_stored_losses(case: str, threads: int) -> None:
    torch.set_num_threads(threads)
    assert largest_difference(curve(case), stored(case)) < TOLERANCE


@pytest.mark.parametrize("weight", ["matching", "contrastive", "intermediate_adversarial", "vision_aided"])
def test_a_loss_weight_changed_by_a_thousandth_is_noticed(weight: str) -> None:
    before = getattr(base_settings().losses, weight)
    changed = curve("base", steps=3, **{weight: 1.001 * before})
    assert largest_difference(changed, stored("base")[:3]) > 100 * TOLERANCE


def main() -> None:
    """Record the curves anew."""
    torch.set_num_threads(1)
    for case in CASES:
        place(case).parent.mkdir(exist_ok=True)
        place(case).write_text(json.dumps(curve(case), indent=0) + "\n")


if __name__ == "__main__":
    main()
