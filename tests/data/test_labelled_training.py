"""A class-conditional network and its data: what does not fit is told before training starts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from gigagan_core.config.training import BaseTrainingSettings
from gigagan_core.errors import GigaganError
from gigagan_core.models.settings import DiscriminatorSettings, GeneratorSettings
from gigagan_core.training.worker import TrainingJob, train
from gigagan_core.training.world import World

CLASSES = {"conditioning": "class", "classes": 3, "image_size": 16}
SIZES = {"blocks": (1, 1, 1), "attention_depths": (0, 0, 0)}


def start(folder: Path) -> None:
    settings = BaseTrainingSettings(
        generator=GeneratorSettings(**CLASSES, **SIZES, kernels=(1, 1, 1)),
        discriminator=DiscriminatorSettings(**CLASSES, **SIZES, levels=1),
        training={"losses": {"level_weights": None, "contrastive": 0.0}},
    )
    job = TrainingJob(settings, data=((str(folder), 1.0),), encoder="no encoder is read")
    train(job, World(), reporter=None)


def label(folder: Path, labels: list[int | None]) -> Path:
    path = folder / "00000.parquet"
    pq.write_table(pq.read_table(path).append_column("label", [labels]), path)
    return folder


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (None, r"conditioned on classes, and 3 of 3 samples of .*set have no integer `label`; give data"),
        ([0, None, 2], "1 of 3 samples"),
        ([0, 3, 2], "have the label 3 and the network knows 3 classes; set classes to 4 or more"),
    ],
)
def test_labels_that_do_not_fit_are_one_sentence(
    make_shard_set: Callable[..., Path], labels: list[int | None] | None, sentence: str
) -> None:
    folder = make_shard_set((3,))
    with pytest.raises(GigaganError, match=sentence):
        start(label(folder, labels) if labels else folder)
