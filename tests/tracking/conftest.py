"""An empty MLflow database a test: creating one takes 10 s, so it is made once and copied."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from gigagan_core.tracking.connection import Connection


@pytest.fixture(autouse=True)
def _default_sigterm() -> Iterator[None]:
    """As in a process that begins: Ray, in an earlier test of this one, leaves a handler that ends it."""
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    Connection(f"sqlite:///{path}").client.search_experiments()
    return path


@pytest.fixture
def tracking_uri(empty_database: Path, tmp_path: Path) -> str:
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"
