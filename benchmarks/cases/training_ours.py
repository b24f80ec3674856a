"""Our side of `bench_training.py`: the training loop as a launcher runs it, from shards to checkpoints."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.cases.models_ours import DISCRIMINATOR, GENERATOR
from benchmarks.side_by_side import answer
from gigagan_core.config.training import BaseTrainingSettings
from gigagan_core.encoders.clip_model import ClipArchitecture, ClipModel, Tower
from gigagan_core.encoders.open_clip_encoder import Preprocessing, save_encoder
from gigagan_core.training.launch_plain import launch
from gigagan_core.training.record import Event
from gigagan_core.training.settings import BaseLossSettings, BaseTraining, ScheduleSettings
from gigagan_core.training.worker import TrainingJob

METRICS_EVERY = 4


class Training:
    """`steps` steps a run: reading, both updates, R1 every 16 steps, the average, metrics, one checkpoint.

    A run goes on from the checkpoint of the run before: making the networks and reading it are counted, against us.
    """

    calls = 1
    parameters: int | None = None

    def __init__(self, options: dict[str, Any]):
        self._folder, self._steps = Path(tempfile.mkdtemp()), options["steps"]
        self._batch, self._done = options["batch"], 0
        self._job = TrainingJob(
            settings=self._settings(0), data=((options["shards"], 1.0),), encoder=str(self._encoder())
        )
        self._shares: list[dict[str, float]] = []

    def _settings(self, total: int) -> BaseTrainingSettings:
        return BaseTrainingSettings(
            generator=GENERATOR,
            discriminator=DISCRIMINATOR,
            training=BaseTraining(
                schedule=ScheduleSettings(
                    batch_size=self._batch,
                    total_images=max(total, 1),
                    metrics_every_steps=METRICS_EVERY,
                    # in the middle of a run, so that it is written beside steps
                    checkpoint_every_images=self._steps * self._batch // 2,
                    sample_every_images=0,
                    diagnostics_every_steps=0,
                ),
                losses=BaseLossSettings(matching=0.0, contrastive=0.0),
            ),
            launcher="plain",
            sample_count=1,
        )

    def _encoder(self) -> Path:
        """Never asked: the networks are unconditional."""
        folder = self._folder / "encoder"
        folder.mkdir()
        tower = Tower(width=16, layers=2, heads=2)
        architecture = ClipArchitecture(
            embed_dim=8, image_size=8, patch_size=4, vision=tower, text=tower, pool="avg", context_length=8
        )
        save_encoder(folder, ClipModel(architecture), Preprocessing(), name="tiny", role="condition")
        return folder

    def warm_up(self) -> None:
        self._train(METRICS_EVERY)
        self._shares.clear()

    def run(self) -> None:
        self._train(self._steps)

    def _train(self, steps: int) -> None:
        self._done += steps * self._batch
        job = dataclasses.replace(self._job, settings=self._settings(self._done))
        launch(job, self._folder, self._see)

    def _see(self, event: Event) -> None:
        if event.kind == "metrics":
            self._shares.append(event.metrics)

    def facts(self) -> dict[str, float]:
        """Means over the runs, of the loop's own figures."""
        names = ("images_per_second", "data_wait_share", "checkpoint_stall_share")
        return {name: sum(row[name] for row in self._shares) / len(self._shares) for name in names}


if __name__ == "__main__":
    answer({"training": Training}, {"torch": torch.__version__})
