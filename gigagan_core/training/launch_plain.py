"""The launcher without a cluster: trains in this process."""

from __future__ import annotations

import contextlib
import json
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gigagan_core.errors import GigaganError
from gigagan_core.training.record import Event
from gigagan_core.training.rounds import give_up
from gigagan_core.training.worker import TrainingJob, train

if TYPE_CHECKING:
    from gigagan_core.training.checkpoint import CheckpointFolder


def launch(job: TrainingJob, folder: Path, on_event: Callable[[Event], None]) -> Path:
    """Train in this process and return the last checkpoint's folder.

    folder: where checkpoints lie, under ``checkpoints/``; training goes on from the newest one there.
    on_event: called with news as they come. After SIGTERM the state is saved first. Raises GigaganError.
    """
    import torch

    from gigagan_core.training.checkpoint import CheckpointFolder
    from gigagan_core.training.loop import NonFiniteError
    from gigagan_core.training.world import World

    schedule = job.settings.training.schedule
    checkpoints = CheckpointFolder(folder / "checkpoints", schedule.keep_checkpoints)
    threads = torch.get_num_threads()
    try:
        with LocalReporter(job, folder, checkpoints, on_event) as reporter, _notice_of_end(reporter.stop):
            train(job, World(), reporter)
    except NonFiniteError as error:
        raise GigaganError(give_up(error)) from error
    finally:
        torch.set_num_threads(threads)
    last = checkpoints.latest()
    assert last is not None, "the loop always ends with a checkpoint"
    return last


@contextlib.contextmanager
def _notice_of_end(stop: threading.Event) -> Iterator[None]:
    """Inside, SIGTERM sets `stop` and reaches the handler before it at the block's end; a second one does at once."""
    previous = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: Any) -> None:
        signal.signal(signal.SIGTERM, previous)
        if callable(previous):
            previous(number, frame)
        else:
            signal.raise_signal(number)

    def noticed(number: int, frame: Any) -> None:
        if stop.is_set():
            end(number, frame)
        stop.set()

    signal.signal(signal.SIGTERM, noticed)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
        if stop.is_set():
            end(signal.SIGTERM, None)


class LocalReporter:
    """Writes checkpoints in a thread of its own, and measures them in another, while training goes on."""

    def __init__(
        self,
        job: TrainingJob,
        folder: Path,
        checkpoints: CheckpointFolder,
        on_event: Callable[[Event], None],
    ):
        self.stop = threading.Event()
        self._job, self._folder = job, folder
        self._checkpoints, self._on_event = checkpoints, on_event
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._validator = ThreadPoolExecutor(1, thread_name_prefix="validation")
        self._writing: Future[None] | None = None
        self._validation: Future[None] | None = None

    def __enter__(self) -> LocalReporter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._writer.shutdown()
        self._validator.shutdown()
        if kind is None and self._validation is not None:
            self._validation.result()

    def started(self, images_seen: int) -> None:
        self._on_event(Event("started", images_seen))

    def metrics(self, images_seen: int, metrics: dict[str, float]) -> None:
        self._on_event(Event("metrics", images_seen, metrics=metrics))

    def sample(self, images_seen: int, png: bytes) -> None:
        self._on_event(Event("sample", images_seen, png=png))

    def rolled_back(self, images_seen: int, message: str, details: dict[str, Any]) -> None:
        self._on_event(Event("rolled_back", images_seen, message=message, details=json.dumps(details)))

    def checkpoint(self, images_seen: int, write: Callable[[Path], None] | None) -> None:
        assert write is not None
        self.settle()
        self._writing = self._writer.submit(self._keep, images_seen, write)

    def _keep(self, images_seen: int, write: Callable[[Path], None]) -> None:
        from gigagan_core.training.checkpoint import keep_milestone, link_checkpoint

        with self._checkpoints.new(images_seen) as partial:
            write(partial)
        every = self._job.settings.training.schedule.keep_every_images
        newest = self._checkpoints.latest()
        keep_milestone(newest, self._folder, images_seen, every)
        # Where one still runs, this checkpoint goes without: they must not pile up.
        if self._job.settings.validation_images and (self._validation is None or self._validation.done()):
            copy = link_checkpoint(newest, self._folder / "validating")
            self._validation = self._validator.submit(self._validate, copy)

    def _validate(self, checkpoint: Path) -> None:
        from gigagan_core.training.validation import validated

        self._on_event(validated(checkpoint, self._job))

    def settle(self) -> None:
        writing, self._writing = self._writing, None
        if writing is None:
            return
        try:
            writing.result()
        except OSError as error:
            raise GigaganError(
                f"a checkpoint could not be written below {self._folder} ({error.strerror or error}); make room "
                "there and give the same command again, it goes on from the checkpoint before"
            ) from error

    @contextlib.contextmanager
    def newest(self) -> Iterator[Path | None]:
        self.settle()
        yield self._checkpoints.latest()

    def should_save(self) -> bool:
        return False

    def should_stop(self) -> bool:
        return self.stop.is_set()
