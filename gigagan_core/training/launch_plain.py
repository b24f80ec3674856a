"""The launcher without a cluster: trains in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gigagan_core.errors import GigaganError
from gigagan_core.training.record import Event
from gigagan_core.training.worker import TrainingJob, train


def launch(job: TrainingJob, folder: Path, on_event: Callable[[Event], None]) -> Path:
    """Train in this process and return the last checkpoint's folder.

    folder: where checkpoints lie, under ``checkpoints/``; training goes on from the newest one there.
    on_event: called with news as they come. Raises GigaganError.
    """
    import torch

    from gigagan_core.training.checkpoint import CheckpointFolder
    from gigagan_core.training.loop import NonFiniteError
    from gigagan_core.training.world import World

    checkpoints = CheckpointFolder(folder / "checkpoints")
    reporter = _Reporter(checkpoints, on_event)
    threads = torch.get_num_threads()
    try:
        train(job, World(), reporter, checkpoints.latest())
    except NonFiniteError as error:
        raise GigaganError(
            f"{error}; lower the learning rate or raise r1.strength and train again"
        ) from error
    finally:
        torch.set_num_threads(threads)
    last = checkpoints.latest()
    assert last is not None, "the loop always ends with a checkpoint"
    return last


class _Reporter:
    def __init__(self, checkpoints, on_event: Callable[[Event], None]):
        self._checkpoints, self._on_event = checkpoints, on_event

    def started(self, images_seen: int) -> None:
        self._on_event(Event("started", images_seen))

    def metrics(self, images_seen: int, metrics: dict[str, float]) -> None:
        self._on_event(Event("metrics", images_seen, metrics=metrics))

    def sample(self, images_seen: int, png: bytes) -> None:
        self._on_event(Event("sample", images_seen, png=png))

    def checkpoint(self, images_seen: int, write: Callable[[Path], None] | None) -> None:
        assert write is not None
        with self._checkpoints.new(images_seen) as partial:
            write(partial)

    def should_stop(self) -> bool:
        return False
