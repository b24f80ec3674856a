"""One `gigagan ui` for all tests here: a real Prefect server, on ports of its own choice."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from gigagan_core import servers


@dataclass(frozen=True)
class Ui:
    """A running `gigagan ui`: the folder of its records, and the addresses of its pages."""

    home: Path
    prefect: str
    mlflow: str


@pytest.fixture(scope="session")
def ui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ui]:
    """The servers of a `gigagan ui` that found its usual ports taken, and at the end obeys Ctrl-C."""
    home = tmp_path_factory.mktemp("home")
    variables = {"GIGAGAN_HOME": str(home), "PREFECT_HOME": str(home / "prefect")}
    with contextlib.ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        for port in (servers.PREFECT_PORT, servers.MLFLOW_PORT):
            taken = stack.enter_context(socket.socket())
            with contextlib.suppress(OSError):  # taken already, by another program
                taken.bind((servers.HOST, port))
                taken.listen()
        log = stack.enter_context(open(home / "ui.log", "wb"))
        process = subprocess.Popen(
            [sys.executable, "-c", "from gigagan_core.cli import main; main()", "ui"],
            env={**os.environ, **variables},
            stdout=log,
            stderr=log,
        )
        stack.callback(process.kill)
        patch.setenv("GIGAGAN_HOME", str(home))
        deadline = time.monotonic() + 240
        while (found := servers.running()) is None:
            assert process.poll() is None, (home / "ui.log").read_text()
            assert time.monotonic() < deadline, (home / "ui.log").read_text()
            time.sleep(0.3)
        yield Ui(home, found.prefect, found.mlflow)
        process.send_signal(signal.SIGINT)
        assert process.wait(40) == 0
        assert not servers.answers(f"{found.prefect}/api/health")
        assert not (home / "servers.json").exists()


@pytest.fixture
def home(ui: Ui, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home of those servers, for one test."""
    monkeypatch.setenv("GIGAGAN_HOME", str(ui.home))
    monkeypatch.setenv("PREFECT_HOME", str(ui.home / "prefect"))
    return ui.home


@pytest.fixture
def prefect_api(ui: Ui, home: Path) -> Iterator[str]:
    """Inside, flows of this process report to that server."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: f"{ui.prefect}/api"}):
        yield ui.prefect
