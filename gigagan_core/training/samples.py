"""Grids of sample images drawn while training: the same prompts and seeds every time."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from gigagan_core.inference.generate import draw, enlarge, to_uint8
from gigagan_core.models.pyramid import resize
from gigagan_core.training.steps import to_unit_range
from gigagan_core.training.transport import to_bytes

if TYPE_CHECKING:
    from gigagan_core.encoders.protocol import Encoder
    from gigagan_core.training.loop import Batch

SEED = 0
CELL = 2  # pixels of margin between images


class BaseSampler:
    """One row a truncation psi, one column a prompt."""

    def __init__(self, encoder: Encoder, psis: tuple[float, ...], captions: tuple[str, ...] = ()):
        self._encoder, self._psis, self._captions = encoder, psis, list(captions)
        self._labels: list[int] | None = None

    def choose(self, batch: Batch) -> None:
        """Take the batch's captions as prompts, where none were given, and its labels."""
        self._captions = self._captions or list(batch.captions)
        self._labels = None if batch.labels is None else batch.labels.tolist()

    def draw(self, network: nn.Module) -> bytes:
        """The grid as a PNG."""
        prompts = self._labels if network.settings.conditioning == "class" else self._captions
        indices = torch.arange(len(prompts))
        # the loop looks after numbers that are none, and goes back; a grid must not end the training before it
        rows = [draw(network, self._encoder, prompts, indices, SEED, psi, strict=False) for psi in self._psis]
        return grid_png(rows)


class UpsamplerSampler:
    """Rows: the input enlarged bicubically, the upsampler's output, the real image."""

    def __init__(self, encoder: Encoder, low_size: int):
        self._encoder, self._low_size = encoder, low_size
        self._batch: Batch | None = None

    def choose(self, batch: Batch) -> None:
        """Take the batch's images."""
        self._batch = batch

    def draw(self, network: nn.Module) -> bytes:
        """The grid as a PNG."""
        assert self._batch is not None, "choose() comes first"
        real = to_unit_range(self._batch.images, torch.float32)
        low = to_uint8(resize(real, self._low_size))
        indices = torch.arange(len(real))
        prompts = self._batch.captions
        if network.settings.conditioning == "class":
            prompts = self._batch.labels.tolist()
        ours = enlarge(network, self._encoder, low, prompts, indices, SEED, 0.0, strict=False)
        bicubic = to_uint8(resize(low.float() / 127.5 - 1, real.shape[-1]))
        return grid_png([bicubic, ours, to_uint8(real)])


def grid_png(rows: list[Tensor]) -> bytes:
    """Rows of equally many images, each uint8 [N, 3, h, w], as one PNG."""
    count, _, height, width = rows[0].shape
    canvas = torch.full(
        (len(rows) * (height + CELL) - CELL, count * (width + CELL) - CELL, 3), 255, dtype=torch.uint8
    )
    for row, images in enumerate(rows):
        for column, image in enumerate(images):
            top, left = row * (height + CELL), column * (width + CELL)
            canvas[top : top + height, left : left + width] = image.permute(1, 2, 0)
    return png(canvas)


def png(image: Tensor) -> bytes:
    """uint8 [H, W, 3] as a PNG, without an imaging library, which a machine with torch alone lacks."""
    height, width, _ = image.shape
    lines = torch.zeros(height, 1 + 3 * width, dtype=torch.uint8)  # each begins with its filter: 0, none
    lines[:, 1:] = image.reshape(height, -1)
    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits a channel, RGB, not interlaced
    chunks = ((b"IHDR", size), (b"IDAT", zlib.compress(to_bytes(lines), 6)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, content) for name, content in chunks)


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
