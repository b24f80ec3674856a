"""Stages as jobs of a cluster: find the job again or submit it, follow it to its end, take what it made.

What is in the store is used without a job. A submitter that dies leaves its job running; the same call attaches to it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

from gigagan_core import console
from gigagan_core.backends.request import Progress, Request, progress_in, read_result, request_of
from gigagan_core.config.backend import BackendSettings, HeldSettings
from gigagan_core.errors import GigaganError
from gigagan_core.stages.base import NotMade, RunContext, StageCall, StageRecord
from gigagan_core.store.artifact import Artifact
from gigagan_core.store.store import Store
from gigagan_core.tracking.null import NullTracker
from gigagan_core.tracking.process import was_stopped, was_terminated

POLL_SECONDS = 1.0
# How long a finished job's last lines may take to arrive.
LAST_LINES_SECONDS = 10.0
LAST_LINES = 8
# How long a job that was told to stop may still be said to run.
STOPPING_SECONDS = 30.0
# How long a job that was removed may keep its name: pods get 30 s to end, and a busy operator some more.
GOING_SECONDS = 300.0
# Who asks without a name: the command line.
ANYBODY = "cli"
AnswerT = TypeVar("AnswerT")
# Lines that say why, before those that merely come last.
_TELLING = ("error", "exception", "killed", "out of memory", "no space")


class Unreachable(Exception):
    """The cluster does not answer; the job may well go on."""


@dataclass(frozen=True)
class JobState:
    """Where a job stands. reason: of a job that failed or waits, in the cluster's own words."""

    phase: Literal["waiting", "running", "succeeded", "failed", "stopped"]
    reason: str = ""

    @property
    def is_over(self) -> bool:
        """Whether it will not change any more."""
        return self.phase in ("succeeded", "failed", "stopped")


class Jobs(Protocol):
    """The jobs of one cluster. Every method raises `Unreachable` where the cluster does not answer."""

    name: str
    """For sentences, such as "Ray at http://ray-head:8265"."""

    store: str | None
    """The store's URI as a job sees it; None: the same."""

    patience: float
    """Seconds that the cluster may be out of reach."""

    def held(self, stage: str) -> HeldSettings | None:
        """What a job of this stage holds, where it is known beforehand."""

    def state(self, job: str) -> JobState | None:
        """None where there is no such job."""

    def submit(self, job: str, request: Request, store: str) -> bool:
        """Start it; False where there is a job of that name already."""

    def follow(self, job: str, tell: Callable[[str], None], done: threading.Event) -> None:
        """Tell every line that the job prints, from its first one, until it ends or `done` is set."""

    def stop(self, job: str) -> bool:
        """End it and free what it holds; returns when the cluster has taken the order. False where nothing runs."""

    def of(self, asker: str) -> list[str]:
        """The jobs of an asker that are not over."""


class RemoteBackend:
    """See `Backend`; `open_backend` explains the arguments."""

    def __init__(
        self,
        jobs: Jobs,
        settings: BackendSettings,
        asked_by: str | None,
        cancelled: Callable[[], bool] = lambda: True,
    ):
        self._jobs, self._settings = jobs, settings
        self._asked_by, self._cancelled = asked_by, cancelled

    def run(self, call: StageCall, context: RunContext) -> Artifact:
        """See `Backend.run`."""
        known = None if context.force else self._known(call, context)
        if known is not None:
            return known
        request = request_of(call, context)
        if request.held is None:
            request = request.model_copy(update={"held": self._jobs.held(request.stage)})
        try:
            return self._made_by_a_job(request, context)
        except _WasStopping as stopping:
            console.note(f"{request.stage}: {stopping} was told to stop before; another one takes its place")
            return self._made_by_a_job(request, context)

    def _made_by_a_job(self, request: Request, context: RunContext) -> Artifact:
        job, attached = self._attach_or_submit(request, context.store)
        started = time.monotonic()
        try:
            return self._to_the_end(
                job,
                request.stage,
                context,
                lambda: attached and time.monotonic() - started < STOPPING_SECONDS,
            )
        except BaseException as error:
            # Ctrl-C gives the work up. SIGTERM may come from a machine that goes away, and then a retry attaches.
            if was_stopped(error) and (not was_terminated() or self._cancelled()):
                self._give_up(job)
            raise

    def _known(self, call: StageCall, context: RunContext) -> Artifact | None:
        """The stage's artifact where every part of it is in the store already."""
        probe = dataclasses.replace(context, tracker=NullTracker(), history=[], only_cached=True)
        try:
            artifact = call.run(call.settings, call.inputs, probe, **call.options)
        except NotMade:
            return None
        self._record(probe.history, context)
        return artifact

    def _record(self, history: list[StageRecord], context: RunContext) -> None:
        for line in history:
            if line.cached:
                context.tracker.record_cached(line.label, line.artifact)
            context.history.append(line)

    def _attach_or_submit(self, request: Request, store: Store) -> tuple[str, bool]:
        """The id of a job that runs, waits, or has done this very work, and whether it was there; a failed one is
        followed by another."""
        number, first = 1, f"{self._asked_by or ANYBODY}-{request.stage}-{request.key}"
        while True:
            job = first if number == 1 else f"{first}-{number}"
            state = self._asked(lambda job=job: self._jobs.state(job))
            if state is None and (state := self._submit(job, request, store)) is None:
                console.note(f"{request.stage}: submitted to {self._jobs.name} as {job}")
                return job, False
            if not state.is_over or self._has_done(job, state, request, store):
                console.note(
                    f"{request.stage}: attached to {job} on {self._jobs.name}, which is {state.phase}"
                )
                return job, True
            number += 1

    def _has_done(self, job: str, state: JobState, request: Request, store: Store) -> bool:
        """Whether a job that is over has done this very work, and not the same work for an earlier command."""
        if request.force and self._asked_by is None:
            return False
        return state.phase == "succeeded" and read_result(store, job) is not None

    def _submit(self, job: str, request: Request, store: Store) -> JobState | None:
        """Start a job, once an earlier one of its name is gone; the state of another where somebody was faster."""
        begun, told = time.monotonic(), False
        while True:
            request.write(store, job)
            if self._asked(lambda: self._jobs.submit(job, request, self._jobs.store or store.uri)):
                return None
            if (state := self._asked(lambda: self._jobs.state(job))) is not None:
                return state
            if time.monotonic() - begun > GOING_SECONDS:
                raise GigaganError(
                    f"{request.stage}: {self._jobs.name} has been removing an earlier {job} for {GOING_SECONDS:.0f} s; "
                    "see what keeps it there, and give the same command again"
                )
            if not told:
                told = True
                console.note(f"{request.stage}: an earlier {job} is being removed; waiting until it is gone")
            time.sleep(POLL_SECONDS)

    def _to_the_end(
        self, job: str, stage: str, context: RunContext, may_be_stopping: Callable[[], bool]
    ) -> Artifact:
        lines: deque[str] = deque(maxlen=200)
        progress: deque[Progress] = deque()
        with self._followed(job, lines, progress):
            state = self._wait(job, stage, context, progress)
        _tell(progress, context)
        result = read_result(context.store, job)
        if state.phase == "stopped" and result is None and may_be_stopping():
            raise _WasStopping(job)
        if result is not None and result[1] is not None:
            raise GigaganError(f"{result[1]} (job {job} on {self._jobs.name})")
        if state.phase != "succeeded" or result is None or not result[0]:
            raise GigaganError(_failure(job, stage, self._jobs.name, state, lines))
        # What was cached for the job, it has recorded itself.
        context.history.extend(result[0])
        return result[0][-1].artifact

    def _wait(self, job: str, stage: str, context: RunContext, progress: deque[Progress]) -> JobState:
        said = ""
        while True:
            state = self._asked(lambda: self._jobs.state(job))
            _tell(progress, context)
            if state is None and read_result(context.store, job) is not None:  # done, and cleaned up already
                return JobState("succeeded")
            if state is None:
                raise GigaganError(
                    f"{stage}: job {job} is no longer known to {self._jobs.name}, which was started anew or cleaned "
                    "up; give the same command again, finished work is kept"
                )
            if state.is_over:
                return state
            if state.phase == "waiting" and state.reason not in ("", said):
                said = state.reason
                console.note(f"{stage}: {job} waits: {said}")
            time.sleep(POLL_SECONDS)

    @contextlib.contextmanager
    def _followed(self, job: str, lines: deque[str], progress: deque[Progress]) -> Iterator[None]:
        """While the block runs, the job's lines are heard here; the last ones at its end."""
        done = threading.Event()

        def tell(line: str) -> None:
            if (told := progress_in(line)) is not None:
                progress.append(told)
                return
            lines.append(line)
            console.relay(line)

        thread = threading.Thread(
            target=self._jobs.follow, args=(job, tell, done), name="job-lines", daemon=True
        )
        thread.start()
        try:
            yield
            thread.join(LAST_LINES_SECONDS)
        finally:
            done.set()
            thread.join(LAST_LINES_SECONDS)

    def _asked(self, ask: Callable[[], AnswerT]) -> AnswerT:
        """The cluster's answer, waited for while it is out of reach."""
        silent_since: float | None = None
        while True:
            try:
                return ask()
            except Unreachable as error:
                now = time.monotonic()
                if silent_since is None:
                    silent_since = now
                    console.warn(f"{self._jobs.name} does not answer ({error}); waiting for it")
                if now - silent_since > self._jobs.patience:
                    raise GigaganError(
                        f"{self._jobs.name} has not answered for {self._jobs.patience:.0f} s ({error}); a job that "
                        "runs goes on, and the same command attaches to it"
                    ) from None
                time.sleep(POLL_SECONDS)

    def _give_up(self, job: str) -> None:
        try:
            self._jobs.stop(job)
            console.note(f"stopped {job} on {self._jobs.name}")
        except Unreachable as error:
            console.warn(f"{self._jobs.name} could not be told to stop {job} ({error}); stop it by hand")


class _WasStopping(Exception):
    """A job that was attached to had its order to stop already; the message is its id."""


def stop_jobs(jobs: Jobs, asker: str) -> list[str]:
    """Stop every job of an asker; returns those that ran. Raises `Unreachable`."""
    return [job for job in jobs.of(asker) if jobs.stop(job)]


def _tell(progress: deque[Progress], context: RunContext) -> None:
    """From the thread that runs the stage: the record of a task belongs to it."""
    while progress:
        context.on_progress(*progress.popleft())


def _failure(job: str, stage: str, name: str, state: JobState, lines: deque[str]) -> str:
    """Why a job did not do its work, in one sentence: what its cluster says, and its own last lines."""
    said = [line.strip() for line in lines if line.strip()]
    telling = [line for line in said if any(word in line.lower() for word in _TELLING)]
    last = " | ".join(dict.fromkeys([*telling[-2:], *said[-LAST_LINES:]]))
    ended = "ended without a result" if state.phase == "succeeded" else f"{state.phase}"
    reason = f": {state.reason}" if state.reason else ""
    return f"{stage}: job {job} on {name} {ended}{reason}" + (f"; its last lines: {last}" if last else "")
