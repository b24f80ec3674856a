"""Where a picture comes from: its latent and its noise, by (seed, index) alone, and how far it is truncated.

An image with the key (seed, index) has the same latent in whatever batch it is made. Per-pixel noise is one field for
all images, so that with psi = 0 a prompt has exactly one image, whatever the seed.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from numbers import Number
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gigagan_core.errors import GigaganError
from gigagan_core.models.randomness import keyed_normal
from gigagan_core.models.synthesis import Noise
from gigagan_core.models.text import TextCode

LATENT = "inference/z"
LOW_NOISE = "inference/low"
_FIELDS = 64


class Keys(NamedTuple):
    """What keys the latents of N images."""

    seeds: tuple[int, ...]
    indices: tuple[int, ...]


def keys_of(count: int, seed: int | Sequence[int], index: int | Sequence[int] | None = None) -> Keys:
    """The keys of `count` images.

    seed: one for all, then image i has the key (seed, i); or one an image, then each has (its seed, 0), as it would
    alone. index: in place of i or 0. Raises GigaganError where the lengths differ.
    """
    seeds = each(seed, count, "seeds")
    if index is None:
        index = range(count) if _is_one(seed) else 0
    return Keys(tuple(seeds), tuple(each(index, count, "indices")))


def each(value, count: int, what: str) -> list:
    """One value for all, or one an image -> a list of `count`; raises GigaganError where there are more or fewer.

    Numbers of numpy and torch are numbers too.
    """
    if _is_one(value):
        return [_plain(value)] * count
    values = [_plain(one) for one in value]
    if len(values) != count:
        raise GigaganError(f"{len(values)} {what} were given for {count} images; give one, or one an image")
    return values


def _is_one(value) -> bool:
    return (
        value is None
        or isinstance(value, str)
        or getattr(value, "ndim", None) == 0
        or isinstance(value, Number)
    )


def _plain(value):
    """A number of numpy or torch as Python's; anything else as it is."""
    return value.item() if hasattr(value, "item") else value


def draw_z(keys: Keys, z_dim: int, device: torch.device | str) -> Tensor:
    """float32 [N, z_dim] ~ N(0, 1); row i depends on its key only."""
    indices = torch.tensor(keys.indices, dtype=torch.int64, device=device)
    return keyed_normal(keys.seeds, LATENT, indices, (z_dim,))


def fixed_noise(device: torch.device | str) -> Noise:
    """noise(layer, resolution) -> [1, 1, resolution, resolution]: the same field for every image."""
    return functools.partial(_field, torch.device(device))


@functools.lru_cache(_FIELDS)
def _field(device: torch.device, layer: int, resolution: int) -> Tensor:
    only = torch.zeros(1, dtype=torch.int64, device=device)
    return keyed_normal(0, f"noise/{layer}", only, (1, resolution, resolution))


def truncate_each(
    network: nn.Module,
    w: Tensor,
    code: TextCode | None,
    truncation: Sequence[float],
    prompt_truncation: Sequence[float],
) -> Tensor:
    """w [N, w_dim], each drawn towards its prompt's own mean first and towards the mean of all prompts then (R).

    1 changes nothing, 0 leaves the mean alone; N values each. code: of the N prompts.
    """
    rows = []
    for i, (psi, prompt_psi) in enumerate(zip(truncation, prompt_truncation, strict=True)):
        row = w[i : i + 1]
        if prompt_psi != 1.0:
            of_row = None if code is None else code.index(torch.tensor([i], device=w.device))
            row = network.truncate(row, prompt_psi, network.prompt_mean(of_row))
        rows.append(network.truncate(row, psi))
    return torch.cat(rows) if rows else w
