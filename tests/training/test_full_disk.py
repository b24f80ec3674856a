"""A disk that takes no more while a checkpoint is written: one sentence, and the checkpoint before it stays."""

from __future__ import annotations

import errno
import resource
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from gigagan_core.config.training import BaseTrainingSettings
from gigagan_core.errors import GigaganError
from gigagan_core.training import launch_plain
from gigagan_core.training.checkpoint import CheckpointFolder, snapshot, write_checkpoint
from gigagan_core.training.worker import TrainingJob
from gigagan_core.training.world import World

from .conftest import DISCRIMINATOR, GENERATOR, base_settings, make_base


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("kibibytes", [0, 1, 10, 50])
def test_wherever_the_disk_ends_it_is_an_operating_systems_error(kibibytes: int, tmp_path) -> None:
    state, _ = make_base()
    saved = snapshot(state, World())
    with files_of_at_most(1024 * kibibytes), pytest.raises(OSError, match="File too large") as caught:
        write_checkpoint(tmp_path, saved, World(), seed=0)
    assert caught.value.errno == errno.EFBIG


def test_a_training_ends_with_one_sentence_and_keeps_the_checkpoint_before(inputs, tmp_path) -> None:
    def job(images: int) -> TrainingJob:
        training = base_settings(threads=1, total_images=images, checkpoint_every_images=16)
        settings = BaseTrainingSettings(
            generator=GENERATOR, discriminator=DISCRIMINATOR, training=training, sample_count=2
        )
        return TrainingJob(settings, ((str(inputs["data"].path), 1.0),), str(inputs["encoder"].path))

    kept = launch_plain.launch(job(16), tmp_path, lambda event: None)
    with (
        files_of_at_most(10_000),
        pytest.raises(GigaganError, match=r"File too large.*make room there") as said,
    ):
        launch_plain.launch(job(32), tmp_path, lambda event: None)
    assert "\n" not in str(said.value)
    assert CheckpointFolder(tmp_path / "checkpoints").all() == [kept]
