"""What a worker finds out before the first step."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from gigagan_core.config.training import BaseTrainingSettings
from gigagan_core.errors import GigaganError
from gigagan_core.training import launch_plain
from gigagan_core.training.record import Event
from gigagan_core.training.worker import TrainingJob

from .conftest import DISCRIMINATOR, GENERATOR, base_settings


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
    settings = BaseTrainingSettings(
        generator=GENERATOR,
        discriminator=dataclasses.replace(DISCRIMINATOR, **changes),
        training=base_settings(threads=1),
        sample_count=2,
    )
    job = TrainingJob(settings, ((str(inputs["data"].path), 1.0),), str(inputs["encoder"].path))
    news: list[Event] = []
    with pytest.raises(GigaganError, match=sentence):
        launch_plain.launch(job, tmp_path, news.append)
    assert news == []
