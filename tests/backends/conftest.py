"""A store, a tiny stage that jobs can import, and quick polling."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gigagan_core.backends import remote
from gigagan_core.stages.base import RunContext

# A job imports the stage by its module's name, and so must this process: see `tiny_stage`.
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "POLL_SECONDS", 0.02)


@pytest.fixture
def context(tmp_path: Path) -> Iterator[RunContext]:
    with RunContext.open(str(tmp_path / "store")) as context:
        yield context
