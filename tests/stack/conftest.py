"""One stack for the tests of a module, in a folder of its own, with nothing left behind."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from gigagan_core.stack import processes

from .running import Platform, wait_for


@pytest.fixture(scope="session")
def platform() -> Iterator[Platform]:
    """A stack that is up, with every deployment of prefect.yaml; at the end it goes, and leaves nothing.

    Where `GIGAGAN_TEST_STACK` names the home of a stack, that one is used and left as it is.
    """
    given = os.environ.get("GIGAGAN_TEST_STACK")
    home = Path(given or tempfile.mkdtemp(prefix="gigagan-stack-"))
    home.mkdir(exist_ok=True)
    home.chmod(0o711)  # PostgreSQL's own user must get through
    platform = Platform(home)
    try:
        done = platform.gigagan("stack", "up")
        assert done.returncode == 0, done.stderr + logs(home)
        yield platform
        if given is None:
            goes_without_remains(platform)
    finally:
        if given is None:
            platform.gigagan("stack", "down")
            shutil.rmtree(home, ignore_errors=True)


def goes_without_remains(platform: Platform) -> None:
    """`gigagan stack down` ends every process, frees every port, removes Ray's folder."""
    ports = platform.folder.read().ports
    assert platform.gigagan("stack", "down").returncode == 0
    assert processes.marked(platform.folder.path) == []
    assert not platform.folder.ray.exists()
    listening = {each.laddr.port for each in psutil.net_connections("tcp") if each.status == "LISTEN"}
    assert listening.isdisjoint(ports.values())
    assert platform.gigagan("stack", "status").returncode == 1


def logs(home: Path) -> str:
    """The end of every service's log, for a failure's message."""
    found = sorted((home / "stack" / "logs").glob("*.log"))
    return "\n".join(f"---- {path.name}\n{path.read_text(errors='replace')[-3000:]}" for path in found)


@pytest.fixture
def whole(platform: Platform) -> Iterator[Platform]:
    """The stack with every service serving, before a test and after it."""
    platform.wait_until_whole()
    yield platform
    platform.wait_until_whole()
    wait_for("no zombie", lambda: not zombies(platform), seconds=30)


def zombies(platform: Platform) -> list[psutil.Process]:
    return [each for each in platform.processes() if each.status() == psutil.STATUS_ZOMBIE]


@dataclass(frozen=True)
class PipelineRuns:
    """The smallest pipeline, asked for twice at once. watched: by the command of the README; output: what it said."""

    watched: str
    other: str
    output: str
    seconds: float

    def mlflow_runs(self, platform: Platform) -> list[dict[str, Any]]:
        """What the two recorded: the stack may hold runs of other tests."""
        both = (self.watched, self.other)
        return [run for run in platform.mlflow_runs() if run["tags"].get("prefect.flow_run_id") in both]


@pytest.fixture(scope="session")
def pipeline_runs(platform: Platform) -> PipelineRuns:
    """`prefect deployment run pipeline/tiny --watch`, while a second run of the same deployment waits its turns."""
    platform.wait_until_whole()
    other = platform.start("pipeline/tiny")
    started = time.monotonic()
    command = ("deployment", "run", "pipeline/tiny", "--watch", "--watch-interval", "2")
    done = platform.shell(sys.executable, "-m", "prefect", *command)
    seconds = time.monotonic() - started
    assert done.returncode == 0, f"{done.stdout}{done.stderr}\n{platform.log_of(other)}{logs(platform.home)}"
    deployment = platform.prefect(f"flow_runs/{other}")["deployment_id"]
    of_both = {run["id"] for run in platform.flow_runs() if run["deployment_id"] == deployment}
    (watched,) = of_both - {other}
    assert platform.wait(other) == "COMPLETED", platform.log_of(other)
    return PipelineRuns(watched, other, done.stdout, seconds)
