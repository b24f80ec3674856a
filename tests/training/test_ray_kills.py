"""Two workers under Ray Train, one of them killed: training ends with the bits that an undisturbed run has."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from gigagan_core.config.training import BaseTrainingSettings
from gigagan_core.training import launch_ray
from gigagan_core.training.checkpoint import read_state
from gigagan_core.training.record import Event
from gigagan_core.training.worker import TrainingJob

from .conftest import DISCRIMINATOR, GENERATOR, base_settings

IMAGES, EVERY = 96, 16
QUICK_SEEDS, SEEDS = range(2), range(2, 10)


@pytest.fixture(scope="module")
def cluster() -> Iterator[ModuleType]:
    """A Ray of its own, whose workers take their time to write a checkpoint: long enough to be killed meanwhile."""
    import ray

    def slow_worker(config: dict[str, Any]) -> None:
        from gigagan_core.training import checkpoint, launch_ray

        sync = checkpoint._sync

        def slow(path: Path) -> None:
            time.sleep(0.3)
            sync(path)

        checkpoint._sync = slow
        launch_ray._train_worker(config)  # in the worker's process the real one

    ray.shutdown()
    ray.init(
        "local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=128 * 2**20
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch_ray, "_train_worker", slow_worker)
        yield ray
    ray.shutdown()


def train(
    cluster: ModuleType,
    inputs,
    folder: Path,
    on_event: Callable[[Event], None] = lambda event: None,
    validation_images: int = 0,
) -> dict[str, torch.Tensor]:
    """Every tensor of the last checkpoint, by name, and the learning curve's values."""
    job = TrainingJob(
        settings=BaseTrainingSettings(
            generator=GENERATOR,
            discriminator=DISCRIMINATOR,
            training=base_settings(
                threads=1,
                total_images=IMAGES,
                checkpoint_every_images=EVERY,
                sample_every_images=0,
            ),
            workers=2,
            max_restarts=5,
            sample_count=2,
            validation_images=validation_images,
        ),
        data=((str(inputs["data"].path), 1.0),),
        encoder=str(inputs["encoder"].path),
    )
    state = read_state(launch_ray.launch(job, folder, on_event, cluster, workers=2))
    assert state["images_seen"] == IMAGES
    return dict(_tensors("", state))


def _tensors(path: str, tree) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(tree, torch.Tensor):
        yield path, tree
    elif isinstance(tree, dict):
        for name, value in tree.items():
            yield from _tensors(f"{path}.{name}", value)
    elif isinstance(tree, list):
        for number, value in enumerate(tree):
            yield from _tensors(f"{path}.{number}", value)
    elif isinstance(tree, (int, float)):
        yield path, torch.tensor(tree, dtype=torch.float64)


@pytest.fixture(scope="module")
def validated() -> dict[int, dict[str, float]]:
    """What the undisturbed run's checkpoints were found to be worth, by images seen."""
    return {}


@pytest.fixture(scope="module")
def undisturbed(cluster, inputs, validated, tmp_path_factory) -> dict[str, torch.Tensor]:
    def see(event: Event) -> None:
        if event.kind == "validated":
            validated[event.images_seen] = event.metrics

    return train(cluster, inputs, tmp_path_factory.mktemp("undisturbed"), see, validation_images=8)


@pytest.mark.slow
def test_ray_measures_every_checkpoint_beside_training(undisturbed, validated) -> None:
    assert sorted(validated) == list(range(EVERY, IMAGES + 1, EVERY))
    for figures in validated.values():
        assert set(figures) == {"validation/fd_tiny_8_8", "validation/clip-score_tiny_8_8"}


def workers() -> list:
    """The processes that train."""
    import psutil

    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "RayTrainWorker" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return sorted(found, key=lambda process: process.pid)


class Killer:
    """Kills one of the workers: while a checkpoint is written (even seeds), or at a random moment (odd ones)."""

    def __init__(self, seed: int, run: Path):
        self._random, self._run = random.Random(seed), run
        self._in_checkpoint = seed % 2 == 0
        self._started = threading.Event()
        self.killed: list[str] = []

    def see(self, event: Event) -> None:
        """Training has begun."""
        if event.kind == "started" and not self._started.is_set():
            self._started.set()
            threading.Thread(target=self._kill, daemon=True).start()

    def _kill(self) -> None:
        if self._in_checkpoint:
            moment = self._wait_for_writing(self._random.randrange(1, IMAGES // EVERY))
        else:
            delay = self._random.uniform(0.0, 4.0)
            time.sleep(delay)
            moment = f"{delay:.1f} s after the start"
        found = workers()
        if found:
            rank = self._random.randrange(len(found))
            found[rank].kill()
            self.killed.append(f"process {rank}, {moment}")

    def _wait_for_writing(self, number: int) -> str:
        deadline, seen = time.monotonic() + 300, set()
        while time.monotonic() < deadline:
            folders = set(self._run.glob("ray/train/checkpoint_*"))
            seen |= folders
            if len(seen) >= number and any(not (folder / "checkpoint.json").exists() for folder in folders):
                return f"while checkpoint {len(seen)} was written"
            time.sleep(0.005)
        return "too late"


def kill_and_compare(seed: int, cluster, inputs, undisturbed, folder: Path) -> None:
    killer = Killer(seed, folder)
    ended = train(cluster, inputs, folder, killer.see)
    print(f"seed {seed}: killed {killer.killed}")
    assert killer.killed
    assert "too late" not in killer.killed[0]
    assert ended.keys() == undisturbed.keys()
    for name, value in undisturbed.items():
        assert torch.equal(ended[name], value), name


@pytest.mark.parametrize("seed", QUICK_SEEDS)
def test_a_killed_worker_changes_nothing(seed: int, cluster, inputs, undisturbed, tmp_path) -> None:
    kill_and_compare(seed, cluster, inputs, undisturbed, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_a_worker_killed_at_many_moments_changes_nothing(
    seed: int, cluster, inputs, undisturbed, tmp_path
) -> None:
    kill_and_compare(seed, cluster, inputs, undisturbed, tmp_path)
