"""Every kind of training can be planned and rehearsed: classes (no contrastive loss), upsamplers, the L1 control."""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

import pytest

from gigagan_core.config.base import with_overrides
from gigagan_core.config.plan import PlanSettings
from gigagan_core.config.training import BaseTrainingSettings, UpsamplerTrainingSettings
from gigagan_core.planning.counting import Counted, count
from gigagan_core.planning.plan import plan
from gigagan_core.planning.profile import PREPARE, R1, TrainingSettings
from gigagan_core.planning.rehearsal import rehearse
from tests.planning.conftest import FROZEN, SETTINGS
from tests.training.conftest import LARGE_DISCRIMINATOR, UPSAMPLER, upsampler_settings

ASSUMED = PlanSettings()


# What tells the kinds apart is not in these, and every operation takes its time to be counted.
PLAIN = {"attention_depths": (0, 0)}
PLAIN_GENERATOR = {"mapping_depth": 1, "noise": False}
SHALLOW = {"levels": 1, "predictor_depth": 1, "vision_layers": ()}


def by_class() -> BaseTrainingSettings:
    """Conditioned on labels, as the ImageNet presets are."""
    classes = {"conditioning": "class", "classes": 3, **PLAIN}
    losses = {"contrastive": 0.0, "vision_aided": 0.0, "level_weights": (1.0,)}
    return BaseTrainingSettings(
        generator=dataclasses.replace(SETTINGS.generator, **classes, **PLAIN_GENERATOR),
        discriminator=dataclasses.replace(SETTINGS.discriminator, **classes, **SHALLOW),
        training=with_losses(SETTINGS.training, **losses),
    )


def upsampler(objective: str = "gan") -> UpsamplerTrainingSettings:
    training = upsampler_settings(objective, batch_size=16, total_images=1600)
    return UpsamplerTrainingSettings(
        upsampler=dataclasses.replace(UPSAMPLER, **PLAIN_GENERATOR),
        discriminator=dataclasses.replace(LARGE_DISCRIMINATOR, **SHALLOW, attention_depths=(0, 0, 0)),
        training=with_losses(training, lpips=0.0, level_weights=(1.0,)),
    )


def with_losses(training: Any, **losses: Any) -> Any:
    return dataclasses.replace(training, losses=dataclasses.replace(training.losses, **losses))


KINDS = {"by class": by_class, "upsampler": upsampler, "L1 control": lambda: upsampler("l1")}
GATHERING = {"upsampler"}
"""Those whose contrastive loss compares the samples of all workers; the control's is set, and not used."""


@cache
def counted(kind: str) -> Counted:
    return count(KINDS[kind](), FROZEN, largest=8)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_planned(kind: str) -> None:
    settings: TrainingSettings = KINDS[kind]()
    # What decides whether micro-batches cost a second pass of the generator
    assert (counted(kind).embeds_bytes > 0) == (kind in GATHERING)
    one, two = plan(settings, counted(kind), (1, 2), ASSUMED)["plans"]
    assert one["replicated"]["time"]["hours"] > 0
    for layout in ("replicated", "sharded"):
        found = two[layout]
        assert found["fits"]
        assert found["time"]["cost"] > 0
        # of what the contrastive loss compares; weights of a sharded network are counted by another name
        assert ("allgather" in found["time"]["traffic_bytes"]) == (kind in GATHERING)
    discriminates = kind != "L1 control"
    assert (R1 in one["replicated"]["with_checkpointing"]["peak_by_phase"]) == discriminates
    assert two["sharded"]["with_checkpointing"]["peak_by_phase"][PREPARE] > 0


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_rehearsed(kind: str) -> None:
    settings = with_overrides(KINDS[kind](), ["training.schedule.parallelism=sharded"])
    found = rehearse(settings, FROZEN, 2, ASSUMED)
    assert found["peak"] > sum(found["states"].values())
