"""`gigagan` in a home of its own: as a process, or quicker in this one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from gigagan_core.cli.app import app

Gigagan = Callable[..., subprocess.CompletedProcess[str]]
MAIN = "from gigagan_core.cli import main; main()"


@pytest.fixture
def gigagan(tmp_path: Path) -> Gigagan:
    """Run the command with these arguments; `code` replaces it by other Python."""

    def run(*arguments: str, code: str = MAIN, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code, *arguments],
            env={**os.environ, "GIGAGAN_HOME": str(tmp_path / "home"), **variables},
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run the command in this process: a second faster, good enough where file descriptors do not matter."""
    monkeypatch.setenv("GIGAGAN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, list(arguments), prog_name="gigagan")

    return run
