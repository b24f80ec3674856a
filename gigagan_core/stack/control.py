"""Starting, finding and ending a stack from another process."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from gigagan_core import environment, servers
from gigagan_core.errors import GigaganError
from gigagan_core.stack import processes
from gigagan_core.stack.folder import StackFolder, StackState
from gigagan_core.stack.services import exports, services
from gigagan_core.stack.supervisor import START_SECONDS, STOP_SECONDS

POLL_SECONDS = 0.3


def up(folder: StackFolder, root: Path, tell: Callable[[str], None]) -> tuple[StackState, bool]:
    """The stack of `folder` with every service serving, and whether it was started here rather than found.

    root: the checkout that it runs flows from. tell: takes a line for the person who waits. Raises GigaganError where
    a program is missing, or a service does not come up; then nothing stays behind.
    """
    folder.create()
    with _one_at_a_time(folder):
        found = folder.running()
        if found is not None:
            return _wait(folder, tell), False
        _sweep(folder)
        state = StackState("", str(root), folder.ports())
        services(folder, state.ports, root)  # a missing program is said before anything starts
        folder.write(state)
        try:
            _start(folder, root)
            state = _wait(folder, tell)
            tell("deploying prefect.yaml")
            servers.deploy(exports(folder, state.ports, root), root)
        except BaseException:
            _end(folder)
            raise
        return state, True


def down(folder: StackFolder) -> bool:
    """End the stack and all that it has started; whether there was anything to end."""
    if not folder.path.is_dir():
        return False
    with _one_at_a_time(folder):
        return _end(folder)


def _start(folder: StackFolder, root: Path) -> None:
    with open(folder.log("supervisor"), "ab") as log:
        subprocess.Popen(
            [sys.executable, "-m", "gigagan_core.stack.supervisor", str(folder.path)],
            cwd=root,
            env={**os.environ, "GIGAGAN_HOME": str(environment.home()), processes.MARK: str(folder.path)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _wait(folder: StackFolder, tell: Callable[[str], None]) -> StackState:
    """Until every service serves, saying of each when it does."""
    deadline, told = time.monotonic() + 2 * START_SECONDS, set()
    while True:
        state = folder.running()
        for name, each in state.services.items() if state else ():
            if each.state == "failed":
                raise GigaganError(
                    f"{name} {each.reason}; see {folder.log(name)}: {_last_line(folder.log(name))}"
                )
            if each.state == "healthy" and name not in told:
                told.add(name)
                tell(f"{name} serves ({each.seconds:.0f} s)")
        if state is not None and state.healthy:
            return state
        if time.monotonic() > deadline:
            raise GigaganError(
                f"the stack of {folder.path} did not come up within {2 * START_SECONDS:.0f} s; see {folder.logs}"
            )
        if state is None and not processes.marked(folder.path):
            log = folder.log("supervisor")
            raise GigaganError(f"the stack's supervisor has ended; see {log}: {_last_line(log)}")
        time.sleep(POLL_SECONDS)


def _end(folder: StackFolder) -> bool:
    state = folder.running()
    if state is not None:
        pid = int(state.process.split(":")[1])
        with contextlib.suppress(psutil.NoSuchProcess):
            supervisor = psutil.Process(pid)
            supervisor.send_signal(signal.SIGTERM)
            with contextlib.suppress(psutil.TimeoutExpired):
                supervisor.wait(4 * STOP_SECONDS)
    swept = _sweep(folder)
    return state is not None or swept


def _sweep(folder: StackFolder) -> bool:
    """End what a supervisor that was killed has left; whether there was anything."""
    left = processes.marked(folder.path)
    processes.end(left, STOP_SECONDS)
    shutil.rmtree(folder.ray, ignore_errors=True)
    return bool(left)


@contextlib.contextmanager
def _one_at_a_time(folder: StackFolder) -> Iterator[None]:
    with open(folder.path / "lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _last_line(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace").split("\n")
    except OSError:
        return "nothing"
    return next((line.strip() for line in reversed(lines) if line.strip()), "nothing")[:400]
