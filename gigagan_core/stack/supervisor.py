"""The process that keeps a stack's services running: starts them in order, starts again what ends, ends them all.

    python -m gigagan_core.stack.supervisor FOLDER

It takes ports and checkout from the folder's state and writes what becomes of each service back into it. SIGTERM ends
the stack, what depends on others first. Killed itself, it takes the services with it (`servers.dying_with_parent`),
and the next `gigagan stack up` or `down` ends what may be left.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import psutil

from gigagan_core.servers import dying_with_parent
from gigagan_core.stack import processes
from gigagan_core.stack.folder import ServiceState, StackFolder, StackState
from gigagan_core.stack.services import Service, services
from gigagan_core.tracking.process import owner

TICK_SECONDS = 0.2
# A busy machine needs its time for a first start, which migrates a database.
START_SECONDS = 180.0
LOOK_AGAIN_SECONDS = 5.0
REAP_SECONDS = 2.0
# After its first death a service starts at once, then it waits twice as long each time; so many within so long end it.
FIRST_WAIT_SECONDS, DEATHS, DEATHS_WITHIN_SECONDS = 0.5, 6, 300.0
# PostgreSQL writes a checkpoint, a flow run closes its records.
STOP_SECONDS = 30.0
_PR_SET_CHILD_SUBREAPER = 36


class Supervised:
    """One service and its process. All methods are called by the supervisor's main thread."""

    def __init__(self, service: Service, log: Path, threads: ThreadPoolExecutor):
        self.service, self.shown = service, ServiceState(url=service.url)
        self._log, self._threads = log, threads
        self._process: subprocess.Popen[bytes] | None = None
        self._job: Future[bool] | None = None
        self._doing: Callable[[], None] = self._wait
        self._not_before = self._next_look = 0.0
        self._started = self._started_at = 0.0
        self._deaths: list[float] = []

    @property
    def pid(self) -> int | None:
        """The process, while it lives."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def tick(self, ready: Callable[[str], bool]) -> bool:
        """One step; ready: whether a service may be relied on. Returns whether its process has just ended."""
        if self._process is not None and self._process.poll() is not None:
            self._died(f"ended with code {self._process.returncode}")
            return True
        if self._doing != self._wait or all(ready(name) for name in self.service.after):
            self._doing()
        return False

    def start_again(self, reason: str) -> None:
        """End the process, if there is one, so that it starts anew."""
        if self.pid is not None:
            self._died(reason)

    # ---- what it is doing ---------------------------------------------------------------------------

    def _wait(self) -> None:
        if time.monotonic() < self._not_before:
            return
        self.shown.state = "starting"
        self._started_at = time.monotonic()
        self._job = self._threads.submit(self._prepare)
        self._doing = self._start

    def _prepare(self) -> bool:
        self.service.prepare()
        return True

    def _start(self) -> None:
        if not self._done():
            return
        self._started = time.time()
        with open(self._log, "ab") as output:
            self._process = subprocess.Popen(
                dying_with_parent(self.service.command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(self.service.variables),
                start_new_session=True,
            )
        self.shown.pid = self._process.pid
        self._look()
        self._doing = self._come_up

    def _look(self) -> None:
        self._job = self._threads.submit(self._serves)

    def _serves(self) -> bool:
        try:
            return self.service.serves(self._started)
        except Exception as error:  # psycopg2, urllib: each has its own kinds
            self.shown.reason = f"{type(error).__name__}: {error}"
            return False

    def _come_up(self) -> None:
        if self._done():
            self._job = self._threads.submit(self._finish)
            self._doing = self._complete
        elif time.monotonic() - self._started_at > START_SECONDS:
            self._died(f"did not serve within {START_SECONDS:.0f} s")
        elif self._job is None:
            self._look()

    def _finish(self) -> bool:
        self.service.finish()
        return True

    def _complete(self) -> None:
        if self._done():
            self.shown.state, self.shown.reason = "healthy", None
            self.shown.seconds = round(time.monotonic() - self._started_at, 1)
            self._say(f"healthy after {self.shown.seconds} s, process {self.shown.pid}")
            self._next_look = time.monotonic() + LOOK_AGAIN_SECONDS
            self._doing = self._watch

    def _watch(self) -> None:
        if self._job is None:
            if time.monotonic() >= self._next_look:
                self._look()
        elif self._job.done():
            self.shown.state = "healthy" if self._done() else "silent"
            self._next_look = time.monotonic() + LOOK_AGAIN_SECONDS

    # ---- inside -------------------------------------------------------------------------------------

    def _done(self) -> bool:
        """Whether the job has ended with True; one that raised counts as a death."""
        if self._job is None or not self._job.done():
            return False
        job, self._job = self._job, None
        error = job.exception()
        if error is not None:
            self._died(f"{type(error).__name__}: {error}")
            return False
        return bool(job.result())

    def _died(self, reason: str) -> None:
        now = time.monotonic()
        if self.pid is not None or not self.service.leaves:
            self.end(signal.SIGKILL)
        self._process, self._job = None, None
        self._deaths = [*(moment for moment in self._deaths if now - moment < DEATHS_WITHIN_SECONDS), now]
        wait = FIRST_WAIT_SECONDS * 2 ** (len(self._deaths) - 1)
        self._not_before, self._doing = now + wait, self._wait
        self.shown.state, self.shown.pid, self.shown.reason = "waiting", None, reason
        self.shown.restarts += 1
        if len(self._deaths) >= DEATHS:
            self.shown.state, self._doing = "failed", lambda: None
            self._say(f"{reason}; given up after {DEATHS} times, see {self._log}")
        else:
            self._say(f"{reason}; starts again in {wait:.1f} s")

    def end(self, stop: int) -> None:
        """Signal the process and what it started; SIGKILL waits until they are gone."""
        if self._process is None:
            return
        if stop == signal.SIGKILL:
            processes.kill(processes.family(self._process.pid))
            self._process.wait()
        else:
            self._say(f"stopping, process {self._process.pid}")
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, stop)

    def stopped(self) -> None:
        """It has ended for good."""
        self.shown.state, self.shown.pid = "stopped", None

    def _say(self, what: str) -> None:
        say(f"{self.service.name}: {what}")


class Supervisor:
    """All services of a folder."""

    def __init__(self, folder: StackFolder, state: StackState, wanted: list[Service]):
        self._folder = folder
        self._threads = ThreadPoolExecutor(len(wanted))
        self._all = {
            service.name: Supervised(service, folder.log(service.name), self._threads) for service in wanted
        }
        shown = {name: each.shown for name, each in self._all.items()}
        self._state = StackState(owner(), state.root, state.ports, shown)
        self._reaper = processes.Reaper()
        self._reaped, self._written = 0.0, ""
        self._stopping = False

    def run(self) -> None:
        """Until SIGTERM or Ctrl-C."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        # What a killed worker leaves behind becomes our child, so that it is seen, ended and never a zombie.
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
        try:
            while not self._stopping:
                self._tick()
                time.sleep(TICK_SECONDS)
        finally:
            self._end_all()
            self._write()

    def _stop(self, _number: int, _frame: object) -> None:
        self._stopping = True

    def _tick(self) -> None:
        for name, each in self._all.items():
            if each.tick(lambda other: self._all[other].shown.state in ("healthy", "silent")):
                for bound in self._all.values():
                    if bound.service.bound_to == name:
                        bound.start_again(f"{name} has ended")
        if time.monotonic() - self._reaped > REAP_SECONDS:
            self._reaped = time.monotonic()
            self._reaper.reap()
        self._write()

    def _end_all(self) -> None:
        """What depends on others first; then whatever is left, of flow runs above all."""
        left = dict(self._all)
        while left:
            needed = {name for each in left.values() for name in each.service.after}
            wave = {name: each for name, each in left.items() if name not in needed}
            for each in wave.values():
                each.end(each.service.stop_signal)
            deadline = time.monotonic() + STOP_SECONDS
            while any(each.pid for each in wave.values()) and time.monotonic() < deadline:
                time.sleep(TICK_SECONDS)
            if "worker" in wave:  # flow runs close their records while the servers still answer
                processes.end(self._strays(), STOP_SECONDS)
            for each in wave.values():
                each.end(signal.SIGKILL)
                each.stopped()
            self._write()
            left = {name: each for name, each in left.items() if name not in wave}
        processes.end(psutil.Process().children(recursive=True), STOP_SECONDS)
        self._threads.shutdown(cancel_futures=True)

    def _strays(self) -> list[psutil.Process]:
        """Descendants of ours that belong to no service: flow runs that have lost their worker."""
        known = {
            process.pid for each in self._all.values() if each.pid for process in processes.family(each.pid)
        }
        return [each for each in psutil.Process().children(recursive=True) if each.pid not in known]

    def _write(self) -> None:
        shown = repr(self._state)
        if shown != self._written:
            self._written = shown
            self._folder.write(self._state)


def say(line: str) -> None:
    """A line with its time, for the supervisor's log."""
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S.%f}"[:-3], line, flush=True)


def main() -> None:
    """Run the stack of the folder that the command line names."""
    folder = StackFolder(Path(sys.argv[1]))
    state = folder.read()
    if state is None:
        raise SystemExit(f"{folder.state_file} says nothing; start a stack with `gigagan stack up`")
    Supervisor(folder, state, services(folder, state.ports, Path(state.root))).run()


if __name__ == "__main__":
    main()
