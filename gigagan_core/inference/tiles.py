"""Tiles of a picture: where they lie, and how their results are blended so that no seam is left.

Every tile's weight is a product of one window along y and one along x. Windows are zero near the tile's inner borders,
where padding has spoilt the result, rise smoothly over the overlap, and sum to one at every pixel: a partition of
unity.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from gigagan_core.models.randomness import keyed_normal
from gigagan_core.models.synthesis import Noise

_MARGIN = 1 / 8
"""Share of the overlap, at either end, in which a tile has no say."""


@dataclass(frozen=True)
class Axis:
    """Tiles along one axis.

    length: of the picture. padded: what the tiles cover. tile: their side. starts: of each. All in input pixels.
    """

    length: int
    padded: int
    tile: int
    starts: tuple[int, ...]

    def windows(self, scale: int) -> Tensor:
        """float32 [tiles, tile * scale]: each tile's weight at its output pixels; they sum to one everywhere."""
        side = self.tile * scale
        raw = torch.ones(len(self.starts), side, dtype=torch.float64)
        place = torch.arange(side, dtype=torch.float64) + 0.5
        for i, start in enumerate(self.starts):
            if i:
                raw[i] *= _rise(place, (self.starts[i - 1] + self.tile - start) * scale)
            if i + 1 < len(self.starts):
                overlap = (start + self.tile - self.starts[i + 1]) * scale
                raw[i] *= _rise(place, overlap).flip(0)
        total = torch.zeros(self.padded * scale, dtype=torch.float64)
        for start, window in zip(self.starts, raw):
            total[start * scale : start * scale + side] += window
        for i, start in enumerate(self.starts):
            raw[i] /= total[start * scale : start * scale + side]
        return raw.float()


def _rise(place: Tensor, overlap: int) -> Tensor:
    """From 0 to 1 over an overlap, level at both ends (smootherstep)."""
    margin = overlap * _MARGIN
    t = ((place - margin) / (overlap - 2 * margin)).clamp(0, 1)
    return t**3 * (t * (6 * t - 15) + 10)


def axis(length: int, tile: int, overlap: int, stride: int) -> Axis:
    """Tiles of side `tile` that cover `length` pixels, starting at multiples of `stride`, overlapping at least so far.

    tile, overlap: multiples of stride, overlap at most half the tile.
    """
    padded = max(tile, -(-length // stride) * stride)
    starts = [*range(0, padded - tile, tile - overlap), padded - tile]
    return Axis(length, padded, tile, tuple(starts))


def mirrored(image: Tensor, height: int, width: int) -> Tensor:
    """[..., H, W] continued to [..., height, width] by mirroring at its lower and right borders, as often as needed."""
    return image[..., _mirror(image.shape[-2], height), :][..., _mirror(image.shape[-1], width)]


def _mirror(length: int, padded: int) -> Tensor:
    at = torch.arange(padded) % (2 * length)
    return torch.where(at < length, at, 2 * length - 1 - at)


def tile_noise(places: list[tuple[int, int]], tile: int, stride: int, device: torch.device | str) -> Noise:
    """Per-pixel noise that belongs to the picture, not to the tile: where tiles overlap they meet the same numbers.

    places: (top, left) of N tiles in input pixels, multiples of stride. The field is drawn in cells, one a pixel of
    the bottleneck.
    """
    cells = tile // stride
    rows = torch.stack(
        [
            (torch.arange(cells)[:, None] + top // stride) * (1 << 24) + torch.arange(cells) + left // stride
            for top, left in places
        ]
    ).to(device)
    return functools.partial(_cells, rows)


def _cells(rows: Tensor, layer: int, resolution: int) -> Tensor:
    count, cells, _ = rows.shape
    side = resolution // cells
    drawn = keyed_normal(0, f"noise/{layer}", rows.flatten(), (side, side))
    grid = drawn.view(count, cells, cells, side, side).transpose(2, 3)
    return grid.reshape(count, 1, resolution, resolution)
