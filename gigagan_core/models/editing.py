"""Mixing of style codes and text codes: crossover at a layer, interpolation. Ends are exact (paper, section 4.5)."""

from __future__ import annotations

import torch
from torch import Tensor

from gigagan_core.models.text import TextCode


def crossover(first: Tensor, second: Tensor, layer: int, num_layers: int) -> Tensor:
    """Style codes [N, w_dim] twice -> [N, num_layers, w_dim]: `first` below `layer`, `second` from there on.

    layer: 0 (all of it is `second`) to num_layers (all of it is `first`); coarse layers come first.
    """
    _check_layer(layer, num_layers)
    below = torch.arange(num_layers, device=first.device)[:, None] < layer
    return torch.where(below, first[:, None], second[:, None])


def crossover_text(first: TextCode, second: TextCode, layer: int, num_layers: int) -> list[TextCode]:
    """Text codes -> one a layer, in the same way: layout from one prompt, texture from another."""
    _check_layer(layer, num_layers)
    return [first] * layer + [second] * (num_layers - layer)


def interpolate(first: Tensor, second: Tensor, t: float) -> Tensor:
    """(1 - t) first + t second; t = 0 and t = 1 give them exactly."""
    return torch.lerp(first, second, t)


def interpolate_text(first: TextCode, second: TextCode, t: float) -> TextCode:
    """Text codes in between; t = 0 and t = 1 give them exactly. Between, the words of either are words."""
    if t in (0.0, 1.0):
        return second if t else first
    return TextCode(
        interpolate(first.t_local, second.t_local, t),
        interpolate(first.t_global, second.t_global, t),
        first.mask | second.mask,
    )


def _check_layer(layer: int, num_layers: int) -> None:
    if not 0 <= layer <= num_layers:
        raise ValueError(f"the crossover layer must be from 0 to {num_layers}, not {layer}")
