"""A home that two small pipeline runs have filled, made once: what a person has after a first day."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def _pipeline(home: Path, *arguments: str) -> None:
    environment = {**os.environ, "GIGAGAN_HOME": str(home), "PREFECT_HOME": str(home / "prefect")}
    command = ["from gigagan_core.cli import main; main()", "pipeline", "--preset", "tiny", *arguments]
    done = subprocess.run(
        [sys.executable, "-c", *command],
        env=environment,
        cwd=home.parent,
        capture_output=True,
        text=True,
        timeout=540,
    )
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The second run differs in one setting of the evaluation and uses all else again."""
    home = tmp_path_factory.mktemp("notebooks") / "home"
    _pipeline(home)
    _pipeline(home, "--set", "evaluate.psi=0.7")
    return home
