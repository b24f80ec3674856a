"""The local backend's Ray."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from gigagan_core.stages.ray_session import RaySession


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short one: Ray's Unix sockets lie below it."""
    made = Path(tempfile.mkdtemp(dir="/tmp"))
    yield made
    shutil.rmtree(made)


def test_another_cluster_of_this_machine_is_not_joined(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`ray start` leaves its address in Ray's folder for whoever comes next, and it stays there after that cluster."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    (folder / "ray").mkdir()
    (folder / "ray" / "ray_current_cluster").write_text("127.0.0.1:1")

    session = RaySession(num_cpus=1)
    try:
        ray = session.ray()
        assert ray.cluster_resources()["CPU"] == 1
        assert ray.get(ray.remote(lambda: 2).remote()) == 2
    finally:
        session.close()
