"""What a worker finds out before the first step, and where it starts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from gigagan_core.config.training import BaseTrainingSettings
from gigagan_core.errors import GigaganError
from gigagan_core.models.settings import DiscriminatorSettings
from gigagan_core.training import launch_plain
from gigagan_core.training.checkpoint import export_bundle, read_state
from gigagan_core.training.recipes import initial_network
from gigagan_core.training.record import Event
from gigagan_core.training.worker import TrainingJob

from .conftest import DISCRIMINATOR, GENERATOR, base_settings


def job_of(discriminator: DiscriminatorSettings, inputs: dict[str, Any], **schedule: Any) -> TrainingJob:
    settings = BaseTrainingSettings(
        generator=GENERATOR,
        discriminator=discriminator,
        training=base_settings(threads=1, **schedule),
        sample_count=2,
    )
    return TrainingJob(settings, ((str(inputs["data"].path), 1.0),), str(inputs["encoder"].path))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"vision_width": 24}, r"vision encoder's features are 16 wide; set discriminator\.vision_width=16"),
        ({"vision_layers": (1, 5)}, r"blocks \[1, 5\] are wanted, of 1 in its image tower"),
    ],
)
def test_heads_that_cannot_read_the_encoder_are_refused(
    changes: dict[str, Any], sentence: str, inputs, tmp_path
) -> None:
    job = job_of(replace(DISCRIMINATOR, **changes), inputs)
    news: list[Event] = []
    with pytest.raises(GigaganError, match=sentence):
        launch_plain.launch(job, tmp_path, news.append)
    assert news == []


def test_the_average_of_a_warm_start_goes_on_from_the_model_given(inputs, tmp_path) -> None:
    first = initial_network(GENERATOR, seed=7)
    config = {"kind": "base", "image_size": 8, "encoder_sha256": "", "seed": 7}
    export_bundle(tmp_path / "start", first, config, "# card")
    job = replace(job_of(DISCRIMINATOR, inputs, total_images=8), init_from=str(tmp_path / "start"))
    state = read_state(launch_plain.launch(job, tmp_path / "run", lambda event: None))
    moved = 0.0
    for name, start in first.named_parameters():
        trained = state["networks"]["generator"][name]
        torch.testing.assert_close(state["ema"][name], 0.9 * start.detach() + 0.1 * trained, msg=name)
        moved = max(moved, (trained - start).abs().max().item())
    assert moved > 1e-3
