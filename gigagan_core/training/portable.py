"""The launcher for a machine with torch and the standard library alone: ``python -m gigagan_core.training.portable``.

Trains from a pack for so many minutes, leaves a result of few files, and goes on from it when told to. Steps, loop,
order and randomness are those of the other launchers, so the same settings and data give the same weights.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch

from gigagan_core.errors import GigaganError
from gigagan_core.training.checkpoint import read_state, write_checkpoint
from gigagan_core.training.loop import NonFiniteError, Recipe
from gigagan_core.training.pack import Pack, PackReader
from gigagan_core.training.piece import (
    Record,
    copy_result,
    has_result,
    read_result,
    unzip_record,
    write_result,
)
from gigagan_core.training.recipes import base_training, upsampler_training
from gigagan_core.training.rounds import give_up, train_rounds
from gigagan_core.training.samples import BaseSampler, UpsamplerSampler
from gigagan_core.training.state import TrainState
from gigagan_core.training.world import World

LINE_EVERY_SECONDS = 3.0
RESERVE_SECONDS = 10.0
"""At least so much is left for the last checkpoint when training stops because of the time."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """How far a piece goes. minutes: of wall time from the start. images: seen in all; None: to the end."""

    minutes: float
    images: int | None = None


def main(arguments: list[str] | None = None) -> int:
    """Train one piece; 0 where it ended as it should, 1 with one sentence on standard error where not."""
    started = time.monotonic()
    options = _options(arguments)
    try:
        limits = Limits(options.minutes, options.images)
        device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
        train_piece(options.pack, options.out, limits, device, options.resume, started)
    except GigaganError as error:
        print(f"portable training: {error}", file=sys.stderr, flush=True)
        return 1
    return 0


def train_piece(
    folder: Path,
    out: Path,
    limits: Limits,
    device: str,
    resume: Path | None = None,
    started: float | None = None,
) -> int:
    """Train from the pack in `folder` until a limit, and return the images seen.

    out: where the result goes. device: "cuda" or "cpu". resume: an earlier result, which may lie in `out`.
    started: `time.monotonic()` when the minutes began. After SIGTERM the state is saved first. Raises GigaganError.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise GigaganError("torch finds no GPU; give --device cpu")
    if resume is not None and not has_result(resume):
        raise GigaganError(f"{resume} holds no result to go on from; leave out --resume to begin")
    if has_result(out) and (resume is None or resume.resolve() != out.resolve()):
        raise GigaganError(f"{out} holds a training; give --resume {out} to go on with it, or another --out")
    pack = Pack.read(folder)
    out.mkdir(parents=True, exist_ok=True)
    if resume is not None:
        copy_result(resume, out)
    job, schedule = pack.job, pack.job.training.schedule
    if limits.images is not None:
        schedule = dataclasses.replace(schedule, total_images=min(limits.images, schedule.total_images))
    if schedule.threads:
        torch.set_num_threads(schedule.threads)
    pack.encoder.to(device)
    reader = partial(PackReader, pack, seed=schedule.seed)
    build = partial(_build, pack, device)
    clock = _Clock(time.monotonic() if started is None else started, limits.minutes)
    with PieceReporter(pack, out, clock, device) as reporter, _saved_on_sigterm(clock):
        try:
            train_rounds(build, reader, schedule, reporter, World(), job.sample_count)
        except NonFiniteError as error:
            raise GigaganError(give_up(error)) from error
        return reporter.finish()


def _build(pack: Pack, device: str) -> tuple[TrainState, Recipe, BaseSampler | UpsamplerSampler]:
    job = pack.job
    arguments = (job.network, job.discriminator, job.training, pack.encoder, device)
    if job.sample_psis is not None:
        sampler = BaseSampler(pack.encoder, job.sample_psis, job.sample_captions)
        return *base_training(*arguments), sampler
    return *upsampler_training(*arguments), UpsamplerSampler(pack.encoder, job.network.low_size)


class _Clock:
    """Says when a piece must end, so that what it made is saved in time."""

    def __init__(self, started: float, minutes: float):
        self.started, self.deadline = started, started + 60 * minutes
        self.saving = 0.0
        self.stopped = False
        self._asked: float | None = None

    def is_over(self) -> bool:
        """Whether to save and leave now; asked every few steps, and the next question may come as late."""
        now = time.monotonic()
        between = 0.0 if self._asked is None else now - self._asked
        self._asked = now
        return self.stopped or now + max(RESERVE_SECONDS, 2 * self.saving + 2 * between) > self.deadline


class PieceReporter:
    """The `rounds.Reporter` of one piece: one line every few seconds, results in few files.

    Results are written by a thread of its own while training goes on.
    """

    def __init__(self, pack: Pack, out: Path, clock: _Clock, device: str):
        self._pack, self._out, self._clock = pack, out, clock
        self._total = pack.job.training.schedule.total_images
        self._scratch = Path(tempfile.mkdtemp(prefix="gigagan-piece-"))
        self._record = Record(self._scratch / "record")
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="result")
        self._writing: Future[None] | None = None
        self._images, self._before, self._said = 0, 0.0, 0.0
        name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
        self._machine = {"device": name, "torch": torch.__version__, "threads": torch.get_num_threads()}

    def __enter__(self) -> PieceReporter:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.shutdown()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def started(self, images_seen: int) -> None:
        self._images = images_seen
        self._record.start_from(images_seen)
        minutes = (self._clock.deadline - time.monotonic()) / 60
        self._say(
            f"from {images_seen:,} of {self._total:,} images, on {self._machine['device']}, {minutes:.1f} min"
        )

    def metrics(self, images_seen: int, metrics: dict[str, float]) -> None:
        self._images = images_seen
        self._record.metrics(images_seen, metrics)
        if time.monotonic() - self._said < LINE_EVERY_SECONDS:
            return
        losses = [
            f"{name[0].upper()} {metrics[key]:.3f}"
            for name in ("generator", "discriminator")
            if (key := f"{name}/loss") in metrics
        ]
        left = (self._clock.deadline - time.monotonic()) / 60
        self._say(
            f"{images_seen:,} of {self._total:,} images, {metrics['images_per_second']:.1f} a second, loss "
            f"{', '.join(losses)}; {left:.1f} min left"
        )

    def sample(self, images_seen: int, png: bytes) -> None:
        self._record.sample(images_seen, png)

    def rolled_back(self, images_seen: int, message: str, details: dict[str, Any]) -> None:
        self._say(message)
        self._record.non_finite(details)

    def checkpoint(self, images_seen: int, write: Callable[[Path], None] | None) -> None:
        assert write is not None, "one worker"
        self.settle()
        self._images = images_seen
        self._writing = self._writer.submit(self._keep, write)

    def _keep(self, write: Callable[[Path], None]) -> None:
        began = time.monotonic()
        place = self._empty_folder()
        write(place)
        saved = read_state(place)
        with self._record.resting() as record:
            write_result(self._out, self._about(saved), saved, record)
        self._clock.saving = max(self._clock.saving, time.monotonic() - began)

    def _about(self, saved: dict[str, Any]) -> dict[str, Any]:
        made_of = {name: self._pack.index[name] for name in ("kind", "preset", "settings", "data", "encoder")}
        return {
            **made_of,
            "pack": self._pack.index["sha256"],
            "images_seen": saved["images_seen"],
            "total_images": self._total,
            "seconds": round(self._before + time.monotonic() - self._clock.started, 1),
            **self._machine,
        }

    def settle(self) -> None:
        writing, self._writing = self._writing, None
        if writing is None:
            return
        try:
            writing.result()
        except OSError as error:
            raise GigaganError(
                f"a result could not be written below {self._out} ({error.strerror or error}); make room there and "
                "go on from the result before"
            ) from error

    @contextlib.contextmanager
    def newest(self) -> Iterator[Path | None]:
        self.settle()
        if not has_result(self._out):
            yield None
            return
        index, saved, record = read_result(self._out)
        if index["pack"] != self._pack.index["sha256"]:
            raise GigaganError(
                f"{self._out} was trained from another pack; give the one that it was begun with"
            )
        if not self._record.begun:
            self._before = index["seconds"]
            unzip_record(record, self._record.folder)
        place = self._empty_folder()
        write_checkpoint(place, saved, World(), self._pack.job.training.schedule.seed)
        yield place

    def should_save(self) -> bool:
        return False

    def should_stop(self) -> bool:
        return self._clock.is_over()

    def finish(self) -> int:
        """The last line; returns the images seen."""
        minutes = (time.monotonic() - self._clock.started) / 60
        further = "" if self._images >= self._total else f"; give --resume {self._out} to go on"
        self._say(f"{self._images:,} of {self._total:,} images after {minutes:.1f} min{further}")
        return self._images

    def _empty_folder(self) -> Path:
        place = self._scratch / "checkpoint"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        return place

    def _say(self, line: str) -> None:
        self._said = time.monotonic()
        print(f"[{self._said - self._clock.started:6.1f} s] {line}", flush=True)


@contextlib.contextmanager
def _saved_on_sigterm(clock: _Clock) -> Iterator[None]:
    def stop(number: int, frame: Any) -> None:
        clock.stopped = True

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m gigagan_core.training.portable", description=__doc__)
    parser.add_argument("pack", type=Path, help="folder that `gigagan data pack` wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder for the result")
    parser.add_argument("--minutes", type=float, default=9.0, help="wall time of this piece (default 9)")
    parser.add_argument("--device", choices=("cuda", "cpu"), help="default: cuda where there is one")
    parser.add_argument("--resume", type=Path, metavar="OUT", help="go on from an earlier result")
    parser.add_argument("--images", type=int, help="stop at so many images seen in all")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
