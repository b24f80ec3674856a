"""A rehearsal ends as the training would: with a step, or with the sentence that says why not."""

from __future__ import annotations

import dataclasses

import pytest

from gigagan_core.config.plan import PlanSettings
from gigagan_core.errors import GigaganError
from gigagan_core.planning.rehearsal import rehearse
from tests.planning.conftest import FROZEN, SETTINGS, settings_with

ASSUMED = PlanSettings()
SMALL = PlanSettings(gpu_memory=0.001)


@pytest.mark.parametrize("parallelism", ["replicated", "sharded"])
def test_a_step_is_made_by_each_of_the_workers(parallelism: str) -> None:
    settings = settings_with(
        f"training.schedule.parallelism={parallelism}", "training.schedule.micro_batch_size=4"
    )
    found = rehearse(settings, FROZEN, 2, ASSUMED)
    assert found["samples_a_gpu"] == 8
    assert found["parallelism"] == parallelism
    assert {"r1", "discriminator", "generator", "update"} <= set(found["peak_by_phase"])
    assert ("reduce_scatter_base" in found["traffic_bytes"].get("discriminator", {})) == (
        parallelism == "sharded"
    )


def test_a_gpu_that_is_too_small_is_one_sentence() -> None:
    with pytest.raises(
        GigaganError, match=r"8 samples, 8 at once, takes .* on each of 2 GPUs at its fullest \("
    ) as refusal:
        rehearse(SETTINGS, FROZEN, 2, SMALL)
    assert "\n" not in str(refusal.value)
    assert "parallelism=sharded" in str(refusal.value)


def test_an_encoder_of_another_width_is_refused() -> None:
    text = dataclasses.replace(FROZEN.encoder.text, width=32)
    other = dataclasses.replace(FROZEN, encoder=dataclasses.replace(FROZEN.encoder, text=text))
    with pytest.raises(GigaganError, match="text_dim is 16, but the encoder's token features are 32 wide"):
        rehearse(SETTINGS, other, 2, ASSUMED)


def test_a_vision_encoder_of_another_width_is_refused() -> None:
    with pytest.raises(GigaganError, match=r"set discriminator\.vision_width=16"):
        rehearse(settings_with("discriminator.vision_width=24"), FROZEN, 2, ASSUMED)


def test_blocks_that_the_image_tower_lacks_are_refused() -> None:
    with pytest.raises(GigaganError, match=r"blocks \[1, 5\] are wanted, of 1"):
        rehearse(settings_with("discriminator.vision_layers=[1,5]"), FROZEN, 2, ASSUMED)


def test_a_batch_that_does_not_split_is_refused() -> None:
    with pytest.raises(GigaganError, match="does not split over 3 workers"):
        rehearse(SETTINGS, FROZEN, 3, ASSUMED)
