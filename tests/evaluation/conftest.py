"""A small encoder and small pictures for the tests of evaluation."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from gigagan_core.evaluation.extractors.inception import quiet_torchscript


class PixelEncoder:
    """An encoder by the protocol, untrained and fixed: an image's features are projected pixels.

    A caption's features are those of the picture it was registered for, or noise keyed by the text.
    """

    context_length, width, embed_dim, image_size = 8, 4, 12, 8
    sha256 = "ab" * 32

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self._projection = torch.randn(3 * 8 * 8, 12, generator=generator) / 14
        self._captions: list[str] = []
        self.pictures: dict[str, torch.Tensor] = {}
        self.seen = 0

    def image_embed(self, images: torch.Tensor) -> torch.Tensor:
        self.seen += len(images)
        return F.adaptive_avg_pool2d(images, 8).flatten(1) @ self._projection

    def tokenize(self, captions: list[str]) -> torch.Tensor:
        self._captions += captions
        first = len(self._captions) - len(captions)
        return torch.arange(first, len(self._captions))[:, None]

    def text_embed(self, tokens: torch.Tensor) -> torch.Tensor:
        return torch.stack([self._text(self._captions[row]) for row in tokens[:, 0].tolist()])

    def _text(self, caption: str) -> torch.Tensor:
        if caption in self.pictures:
            return self.image_embed(self.pictures[caption][None].float() / 127.5 - 1)[0]
        key = int.from_bytes(hashlib.sha256(caption.encode()).digest()[:6], "big")
        return torch.randn(12, generator=torch.Generator().manual_seed(key))


@pytest.fixture(scope="module")
def encoder() -> PixelEncoder:
    return PixelEncoder()


@pytest.fixture(scope="session")
def drawings():
    """(count, size, seed) -> uint8 [count, 3, size, size]."""
    return _discs


def _discs(count: int, size: int, seed: int) -> torch.Tensor:
    """uint8 [N, 3, size, size]: coloured discs of random place and radius on white."""
    generator = torch.Generator().manual_seed(seed)
    x, y, radius = (torch.rand(3, count, 1, 1, generator=generator) * 0.5 + 0.25).unbind()
    colour = torch.rand(count, 3, 1, 1, generator=generator) * 200
    grid = (torch.arange(size) + 0.5) / size
    inside = ((grid[None, None] - x) ** 2 + (grid[None, :, None] - y) ** 2 < (radius / 2) ** 2)[:, None]
    return torch.where(inside, colour, torch.full_like(colour, 255.0)).to(torch.uint8)


@pytest.fixture(scope="session")
def scripted_inception(tmp_path_factory) -> Path:
    """A TorchScript file of the published Inception's form, with fixed random weights: its distance is no FID."""
    folder = tmp_path_factory.mktemp("inception")
    torch.manual_seed(0)
    path = folder / "inception-2015-12-05.pt"
    with quiet_torchscript():
        torch.jit.script(_Inception()).save(str(path))
    return path


class _Inception(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(3, 32, 32, stride=24), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(8)
        )
        self.output = torch.nn.Linear(2048, 20)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.output(self.layers(x).flatten(1)).softmax(1)


@pytest.fixture(scope="session")
def picture_folder(tmp_path_factory) -> Callable[..., Path]:
    """(count, size, seed, ending) -> a new folder of noisy discs 0000.png, ..."""

    def make(count: int, size: int = 48, seed: int = 0, ending: str = "png") -> Path:
        folder = tmp_path_factory.mktemp("pictures")
        for row, image in enumerate(_discs(count, size, seed)):
            noise = torch.randint(
                0, 40, image.shape, generator=torch.Generator().manual_seed(seed * 977 + row)
            )
            pixels = (image.int() - noise).clamp(0, 255).to(torch.uint8)
            Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(folder / f"{row:04}.{ending}")
        return folder

    return make
