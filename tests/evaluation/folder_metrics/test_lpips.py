"""LPIPS of many pairs: one network a process, on its device, in batches that keep the order."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from gigagan_core.evaluation import shard_pass
from gigagan_core.evaluation.bootstrap import bootstrap_mean

from .conftest import FEW


class Scripted:
    """In the place of LPIPS: the mean absolute difference. Notes where it was loaded and what it was given."""

    def __init__(self) -> None:
        self.loaded: list[tuple[str, str]] = []
        self.given: list[tuple[int, str]] = []

    def load(self, place: str, device: str):
        self.loaded.append((place, device))
        return self

    def __call__(self, fake: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        self.given.append((len(fake), fake.device.type))
        if fake.device.type == "meta":
            return torch.zeros(len(fake), 1, 1, 1)
        return (fake - real).abs().mean(dim=(1, 2, 3), keepdim=True)


@pytest.fixture
def scripted(monkeypatch) -> Scripted:
    network = Scripted()
    monkeypatch.setattr(shard_pass, "load_lpips", network.load)
    return network


def test_the_network_is_loaded_once_and_given_batches_on_its_device(compare, scripted, monkeypatch, tmp_path):
    monkeypatch.setattr(shard_pass, "device", lambda: "meta")
    place = f"alex:{tmp_path / 'none.pth'}"
    compare(metrics=("lpips",), lpips=place, shard_size=20)
    assert scripted.loaded == [(place, "meta")]
    assert scripted.given == [(20, "meta"), (20, "meta")]


def test_large_pairs_come_in_smaller_batches(compare, scripted, monkeypatch, tmp_path):
    monkeypatch.setattr(shard_pass, "_LPIPS_PIXELS", 3 * 48 * 48)
    compare(metrics=("lpips",), lpips=f"alex:{tmp_path / 'none.pth'}", shard_size=20)
    assert [count for count, _ in scripted.given] == 2 * [3, 3, 3, 3, 3, 3, 2]


def test_pairs_of_several_sizes_keep_their_order(compare, scripted, tmp_path):
    generator, known = np.random.default_rng(0), []
    for row in range(24):
        side = (40, 48, 48, 64)[row % 4]
        images = generator.integers(0, 40 + 9 * row, (2, side, side, 3)).astype(np.uint8)
        known.append(np.abs(images[0] / 127.5 - images[1] / 127.5).mean())
        for folder, image in zip(("real", "fake"), images, strict=True):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(image).save(tmp_path / folder / f"{row:02}.png")
    (figure,) = compare(
        real=tmp_path / "real",
        fake=tmp_path / "fake",
        metrics=("lpips",),
        lpips=f"alex:{tmp_path / 'none.pth'}",
    ).figures
    expected = bootstrap_mean(torch.tensor(known), resamples=FEW.resamples, seed=FEW.seed)
    assert figure.value == pytest.approx(np.mean(known), rel=1e-5)
    # which images a resample draws depends on their order
    assert (figure.interval.low, figure.interval.high) == pytest.approx(
        (expected.low, expected.high), rel=1e-5
    )
