"""Services that are small scripts: started in order, started again, given up, and ended without remains."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from gigagan_core.stack import control, processes
from gigagan_core.stack.folder import StackFolder, StackState

# A service writes its name into `order`, and serves as soon as it has made a file of its own.
SUPERVISOR = """
import json, os, pathlib, sys, time
from gigagan_core.stack import supervisor
from gigagan_core.stack.folder import StackFolder, StackState
from gigagan_core.stack.processes import MARK
from gigagan_core.stack.services import Service

folder = StackFolder(pathlib.Path(sys.argv[1]))
wanted = []
for name, after, bound_to, script, *leaves in json.loads(sys.argv[2]):
    mark = folder.path / f"{name}.up"
    begin = f"open({str(folder.path / 'order')!r}, 'a').write('{name}\\\\n'); open({str(mark)!r}, 'w').close();"
    wanted.append(Service(name, [sys.executable, "-c", f"import os, subprocess, sys, time\\n{begin}\\n{script}"],
        {**os.environ, MARK: str(folder.path)},
        lambda started, mark=mark: mark.exists() and mark.stat().st_mtime > started - 1,
        after=tuple(after), bound_to=bound_to, leaves=bool(leaves)))
supervisor.FIRST_WAIT_SECONDS = 0.05
supervisor.REAP_SECONDS = supervisor.TICK_SECONDS = 0.05
supervisor.DEATHS = 3
supervisor.Supervisor(folder, StackState("", "/", {}), wanted).run()
"""
FOR_EVER = "time.sleep(600)"


class Stack:
    def __init__(self, folder: StackFolder, process: subprocess.Popen[bytes]):
        self.folder, self.process = folder, process

    def wait(self, until: Callable[[StackState], bool], seconds: float = 20.0) -> StackState:
        deadline = time.monotonic() + seconds
        while (state := self.folder.running()) is None or not until(state):
            assert self.process.poll() is None, "the supervisor ended"
            assert time.monotonic() < deadline, state
            time.sleep(0.05)
        return state

    def order(self) -> list[str]:
        return (self.folder.path / "order").read_text().split()

    def pid(self, name: str) -> int:
        pid = self.folder.read().services[name].pid
        assert pid is not None
        return pid


Start = Callable[..., Stack]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    folder = StackFolder(tmp_path / "stack")
    folder.create()
    started: list[subprocess.Popen[bytes]] = []

    def run(*wanted: tuple[str, tuple[str, ...], str | None, str]) -> Stack:
        command = [sys.executable, "-c", SUPERVISOR, str(folder.path), json.dumps(wanted)]
        environment = {**os.environ, processes.MARK: str(folder.path)}
        started.append(subprocess.Popen(command, env=environment, start_new_session=True))
        return Stack(folder, started[-1])

    yield run
    for process in started:
        process.kill()
        process.wait()
    processes.kill(processes.marked(folder.path))


def test_services_start_after_what_they_need_and_end_before_it(start: Start) -> None:
    stack = start(
        ("page", ("server",), None, FOR_EVER),
        ("server", ("database",), None, FOR_EVER),
        ("database", (), None, FOR_EVER),
    )
    stack.wait(lambda state: state.services["database"].state == "starting")
    assert stack.folder.read().services["page"].state == "waiting"
    assert stack.wait(lambda state: state.healthy)
    assert stack.order() == ["database", "server", "page"]
    pids = [stack.pid(name) for name in ("page", "server", "database")]
    stack.process.send_signal(signal.SIGTERM)
    assert stack.process.wait(20) == 0
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert {each.state for each in stack.folder.read().services.values()} == {"stopped"}


def test_a_killed_service_starts_again_and_what_is_bound_to_it_too(start: Start) -> None:
    stack = start(
        ("head", (), None, FOR_EVER),
        ("node", ("head",), "head", FOR_EVER),
        ("other", ("head",), None, FOR_EVER),
    )
    stack.wait(lambda state: state.healthy)
    before = {name: stack.pid(name) for name in ("head", "node", "other")}
    os.kill(before["head"], signal.SIGKILL)
    stack.wait(lambda state: state.healthy and state.services["node"].restarts == 1)
    after = {name: stack.pid(name) for name in before}
    assert stack.folder.read().services["head"].restarts == 1
    assert (after["head"] != before["head"], after["node"] != before["node"]) == (True, True)
    assert after["other"] == before["other"]
    assert not psutil.pid_exists(before["node"])


def test_a_service_that_keeps_ending_is_given_up_and_says_why(start: Start) -> None:
    stack = start(("broken", (), None, "sys.exit(7)"), ("well", (), None, FOR_EVER))
    state = stack.wait(lambda state: state.services["broken"].state == "failed")
    assert state.services["broken"].reason == "ended with code 7"
    stack.wait(lambda state: state.services["well"].state == "healthy")
    assert stack.order().count("broken") == 3


@pytest.mark.parametrize("leaves", [False, True])
def test_what_a_killed_service_had_started_ends_with_it_or_is_adopted(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, leaves: bool
) -> None:
    """A server's helpers would hold its port; a worker's flow run goes on, until the stack ends."""
    noted = tmp_path / "child"
    monkeypatch.setenv("NOTED", str(noted))
    child = "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])"
    note = "open(os.environ['NOTED'], 'a').write(f'{child.pid}\\n')"
    more = ("leaves",) if leaves else ()
    stack = start(("worker", (), None, f"{child}; {note}; {FOR_EVER}", *more))
    stack.wait(lambda state: state.healthy and noted.exists() and noted.read_text().endswith("\n"))
    first = int(noted.read_text())
    os.kill(stack.pid("worker"), signal.SIGKILL)
    stack.wait(lambda state: state.healthy and state.services["worker"].restarts == 1)
    assert psutil.pid_exists(first) == leaves
    if leaves:
        assert psutil.Process(first).ppid() == stack.process.pid
        os.kill(first, signal.SIGKILL)
        gone(first)  # not a zombie either
    stack.process.send_signal(signal.SIGTERM)
    assert stack.process.wait(20) == 0
    assert processes.marked(stack.folder.path) == []


def gone(pid: int) -> None:
    """Wait until no process has this number."""
    deadline = time.monotonic() + 10
    while psutil.pid_exists(pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_killed_supervisor_takes_its_services_along_and_down_finds_nothing_running(start: Start) -> None:
    stack = start(("server", (), None, FOR_EVER))
    stack.wait(lambda state: state.healthy)
    server = stack.pid("server")
    stack.process.kill()
    stack.process.wait()
    assert stack.folder.running() is None
    gone(server)


def test_down_ends_a_stack_and_says_whether_there_was_one(start: Start) -> None:
    stack = start(("server", (), None, FOR_EVER))
    stack.wait(lambda state: state.healthy)
    server = stack.pid("server")
    assert control.down(stack.folder) is True
    assert not psutil.pid_exists(server)
    assert control.down(stack.folder) is False


def test_down_ends_what_a_killed_supervisor_could_not_take_along(start: Start) -> None:
    own_session = (
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True)"
    )
    stack = start(("server", (), None, f"{own_session}\n{FOR_EVER}"))
    stack.wait(lambda state: state.healthy)
    while len(processes.marked(stack.folder.path)) < 3:
        time.sleep(0.05)
    stack.process.kill()
    stack.process.wait()
    assert control.down(stack.folder) is True
    assert processes.marked(stack.folder.path) == []
