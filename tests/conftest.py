"""Every test runs in a home of its own: the artifacts and records of the checkout are never touched."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest

# Set before any test module imports prefect, ray or mlflow, which read the environment at import.
_HOME = Path(tempfile.mkdtemp(prefix="gigagan-tests-"))
for _name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI", "GIGAGAN_STORE", "RAY_ADDRESS", "MLFLOW_RUN_ID"):
    os.environ.pop(_name, None)
os.environ["GIGAGAN_HOME"] = str(_HOME)
os.environ["PREFECT_HOME"] = str(_HOME / "prefect")

from gigagan_core import environment  # noqa: E402

environment.set_defaults()
# A shell's background job is started with Ctrl-C ignored, and so would be every process that a test interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _own_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIGAGAN_HOME", str(_HOME))


def pytest_sessionfinish() -> None:
    shutil.rmtree(_HOME, ignore_errors=True)
