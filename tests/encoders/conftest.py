"""A tiny CLIP and small pictures for the tests of encoders."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from gigagan_core.encoders.clip_model import ClipArchitecture, ClipModel, Tower
from gigagan_core.encoders.open_clip_encoder import ClipEncoder, Preprocessing, load_encoder, save_encoder

TINY = ClipArchitecture(
    embed_dim=12,
    image_size=16,
    patch_size=8,
    vision=Tower(width=16, layers=2, heads=2),
    text=Tower(width=24, layers=3, heads=3),
    pool="avg",
    context_length=10,
)


def make_model(architecture: ClipArchitecture = TINY, seed: int = 0) -> ClipModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ClipModel(architecture)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks this small run faster on one thread, by far where the cores are shared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("encoder") / "tiny"
    save_encoder(path, make_model(), Preprocessing(), name="tiny", role="condition")
    return path


@pytest.fixture(scope="session")
def encoder(folder: Path) -> ClipEncoder:
    return load_encoder(folder)


@pytest.fixture
def images() -> torch.Tensor:
    """float32 [4, 3, 24, 24] in [-1, 1]."""
    return torch.rand(4, 3, 24, 24, generator=torch.Generator().manual_seed(1)) * 2 - 1
