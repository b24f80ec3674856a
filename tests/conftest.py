"""Every test runs in a home of its own: the artifacts and records of the checkout are never touched."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Callable
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

# They take minutes: begun last, one would go on alone when the other processes have nothing left.
_LONGEST = ("test_ray_kills.py", "test_pipeline_end_to_end.py", "test_sharding.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first."""
    items.sort(key=lambda item: item.path.name not in _LONGEST)


@pytest.fixture(autouse=True)
def _own_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIGAGAN_HOME", str(_HOME))


@pytest.fixture(scope="session")
def save_tiny_encoder() -> Callable[..., None]:
    """(folder, name, role, seed) -> writes an untrained encoder: pictures of 8 px, captions of 8 tokens, width 16."""
    return _save_tiny_encoder


def _save_tiny_encoder(folder: Path, name: str = "tiny", role: str = "condition", seed: int = 0) -> None:
    import torch

    from gigagan_core.encoders.clip_model import ClipArchitecture, ClipModel, Tower
    from gigagan_core.encoders.open_clip_encoder import Preprocessing, save_encoder

    architecture = ClipArchitecture(
        embed_dim=8,
        image_size=8,
        patch_size=4,
        vision=Tower(width=16, layers=1, heads=2),
        text=Tower(width=16, layers=2, heads=2),
        pool="avg",
        context_length=8,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        save_encoder(folder, ClipModel(architecture), Preprocessing(), name=name, role=role)


def pytest_sessionfinish() -> None:
    shutil.rmtree(_HOME, ignore_errors=True)
