"""From a recipe to what the synthesis network is given: a style code and words for every layer of every picture."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from gigagan_core.errors import GigaganError
from gigagan_core.inference.conditions import Prompt
from gigagan_core.inference.latents import Keys, draw_z, truncate_each
from gigagan_core.inference.recipes import (
    Arithmetic,
    Interpolation,
    Point,
    PromptMixing,
    Recipe,
    StyleMixing,
    SwappingMatrix,
    Walk,
)
from gigagan_core.models.editing import crossover, crossover_text, interpolate_text
from gigagan_core.models.synthesis import Codes, layer_words
from gigagan_core.models.text import TextCode


class Styles(NamedTuple):
    """What `synthesise` takes for N pictures: w [N, w_dim] or [N, layers, w_dim]; one text code, or one a layer."""

    w: Tensor
    code: Codes

    def index(self, rows: Tensor) -> Styles:
        """The pictures `rows` (int64 [M])."""
        rows, code = rows.to(self.w.device), self.code
        if isinstance(code, TextCode):
            code = code.index(rows)
        elif code is not None:
            # Layers often share a code, which is then indexed once.
            found = {id(each): None if each is None else each.index(rows) for each in code}
            code = [found[id(each)] for each in code]
        return Styles(self.w[rows], code)


class Sheet(NamedTuple):
    """Pictures in rows and columns, row by row."""

    styles: Styles
    rows: int
    columns: int


class Source(Protocol):
    """What recipes ask of a pipeline."""

    network: nn.Module

    def encode(self, prompts: Sequence[Prompt]) -> TextCode | None:
        """N prompts as the network sees them."""
        ...

    def styles(self, points: Sequence[Point]) -> Styles:
        """w [N, w_dim] and text codes of N points."""
        ...


@torch.no_grad()
def lay_out(recipe: Recipe, source: Source) -> Sheet:
    """The pictures of a recipe. Raises GigaganError for layers or prompts that the model does not have."""
    return _MAKERS[type(recipe)](recipe, source)


def check_layers(network: nn.Module, layers: Sequence[int]) -> None:
    """Raise GigaganError for a layer that the network lacks; its number of layers is a place to cut at too."""
    for layer in layers:
        if not 0 <= layer <= network.num_layers:
            raise GigaganError(
                f"the model has no layer {layer}; its layers are cut at 0 (coarse) to {network.num_layers} (fine)"
            )


# ---- between prompts --------------------------------------------------------------------------------


def _interpolation(recipe: Interpolation, source: Source) -> Sheet:
    code = _worded(source, recipe.prompts)
    corners = [code.index(torch.tensor([i], device=code.mask.device)) for i in range(len(recipe.prompts))]
    cells = []
    for row in range(recipe.rows):
        down = row / (recipe.rows - 1) if recipe.rows > 1 else 0.0
        for column in range(recipe.columns):
            across = recipe.shares[column] if recipe.shares else column / (recipe.columns - 1)
            cell = interpolate_text(corners[0], corners[1], across)
            if len(corners) == 4:
                cell = interpolate_text(cell, interpolate_text(corners[2], corners[3], across), down)
            cells.append(cell)
    z = _latent(source, recipe.seed, [recipe.index]).expand(len(cells), -1)
    return Sheet(_mapped(source, z, _join(cells), recipe), recipe.rows, recipe.columns)


def _walk(recipe: Walk, source: Source) -> Sheet:
    stops = _latent(source, recipe.seed, range(recipe.stops))
    prompts = [recipe.prompts[i % len(recipe.prompts)] for i in range(recipe.stops)]
    code = source.encode(prompts)
    frames, words = [], []
    for at, t in _way(recipe):
        ends = [torch.tensor([i % recipe.stops], device=stops.device) for i in (at, at + 1)]
        frames.append(slerp(stops[ends[0]], stops[ends[1]], t))
        if code is not None:
            words.append(interpolate_text(code.index(ends[0]), code.index(ends[1]), t))
    styles = _mapped(source, torch.cat(frames), _join(words) if words else None, recipe)
    return Sheet(styles, 1, len(frames))


def _way(recipe: Walk) -> list[tuple[int, float]]:
    """(stop, share of the way to the next one) of every frame."""
    segments = recipe.stops if recipe.closed else recipe.stops - 1
    way = [(at, step / recipe.steps) for at in range(segments) for step in range(recipe.steps)]
    return way if recipe.closed else [*way, (segments - 1, 1.0)]


def slerp(first: Tensor, second: Tensor, t: float) -> Tensor:
    """[N, z_dim] along the great circle between two latents; t = 0 and t = 1 give them exactly (White 2016).

    A straight line would pass through latents shorter than the network has seen.
    """
    if t in (0.0, 1.0):
        return second if t else first
    cosine = torch.nn.functional.cosine_similarity(first, second, dim=-1)[:, None].clamp(-1, 1)
    angle = torch.acos(cosine)
    if bool((angle.sin() < 1e-4).any()):  # nearly one direction, or opposite ones: no circle is told
        return torch.lerp(first, second, t)
    return (torch.sin((1 - t) * angle) * first + torch.sin(t * angle) * second) / torch.sin(angle)


def _mapped(source: Source, z: Tensor, code: TextCode | None, recipe: Interpolation | Walk) -> Styles:
    network, count = source.network, len(z)
    psis = [recipe.truncation] * count, [recipe.prompt_truncation] * count
    return Styles(truncate_each(network, network.map(z, code), code, *psis), code)


# ---- across layers ----------------------------------------------------------------------------------


def _prompt_mixing(recipe: PromptMixing, source: Source) -> Sheet:
    network = source.network
    check_layers(network, recipe.layers)
    first, second = source.styles(recipe.first), source.styles(recipe.second)
    if first.code is None and recipe.words == "both":
        raise GigaganError("the model takes no prompt, so there is none to mix; mix styles instead")
    cells = []
    for row in range(len(recipe.first)):
        one, other = (each.index(torch.tensor([row])) for each in (first, second))
        for layer in recipe.layers:
            w = crossover(one.w, other.w, layer, network.num_layers)
            words: Codes = one.code
            if recipe.words == "both":
                words = crossover_text(one.code, other.code, layer, network.num_layers)
            cells.append(Styles(w, words))
    return Sheet(_stack(cells), len(recipe.first), len(recipe.layers))


def _style_mixing(recipe: StyleMixing, source: Source) -> Sheet:
    return _matrix(recipe, [recipe.layers], source)


def _swapping_matrix(recipe: SwappingMatrix, source: Source) -> Sheet:
    ends = (0, *recipe.cuts, source.network.num_layers)
    return _matrix(recipe, list(pairwise(ends)), source)


def _matrix(recipe: StyleMixing | SwappingMatrix, ranges: list[tuple[int, int]], source: Source) -> Sheet:
    network = source.network
    sources, styles = source.styles(recipe.sources), source.styles(recipe.styles)
    cells = []
    for start, end in ranges:
        inside = _inside(network, (start, end))
        for row in range(len(recipe.sources)):
            own = sources.index(torch.tensor([row]))
            for column in range(len(recipe.styles)):
                other = styles.index(torch.tensor([column]))
                w = torch.where(inside[:, None], other.w[:, None], own.w[:, None])
                words: Codes = own.code
                if recipe.words == "style" and own.code is not None:
                    words = [other.code if taken else own.code for taken in inside.tolist()]
                cells.append(Styles(w, words))
    return Sheet(_stack(cells), len(ranges) * len(recipe.sources), len(recipe.styles))


def _arithmetic(recipe: Arithmetic, source: Source) -> Sheet:
    network = source.network
    inside = _inside(network, recipe.layers or (0, network.num_layers))
    direction = source.styles(recipe.plus).w.mean(dim=0) - source.styles(recipe.minus).w.mean(dim=0)
    base = source.styles(recipe.base)
    cells = []
    for row in range(len(recipe.base)):
        own = base.index(torch.tensor([row]))
        for amount in recipe.amounts:
            cells.append(Styles(own.w[:, None] + inside[:, None] * (amount * direction), own.code))
    return Sheet(_stack(cells), len(recipe.base), len(recipe.amounts))


def _inside(network: nn.Module, layers: tuple[int, int]) -> Tensor:
    """bool [num_layers]: True from the first to before the second."""
    check_layers(network, layers)
    start, end = layers
    if start >= end:
        raise GigaganError(f"layers {start} to {end} hold none; give a first layer below the last")
    numbers = torch.arange(network.num_layers, device=next(network.parameters()).device)
    return (numbers >= start) & (numbers < end)


# ---- parts ------------------------------------------------------------------------------------------


def _worded(source: Source, prompts: Sequence[Prompt]) -> TextCode:
    code = source.encode(prompts)
    if code is None:
        raise GigaganError(
            "the model takes no prompt, so there is none to interpolate; walk its latents instead"
        )
    return code


def _latent(source: Source, seed: int, indices: Sequence[int]) -> Tensor:
    keys = Keys((seed,) * len(indices), tuple(indices))
    return draw_z(keys, source.network.settings.z_dim, next(source.network.parameters()).device)


def _join(codes: list[TextCode]) -> TextCode:
    return TextCode(*(torch.cat(parts) for parts in zip(*codes)))


def join(parts: Sequence[Styles], num_layers: int) -> Styles:
    """Pictures of any kinds (a style code or a text code for all layers, or one a layer) as one batch, in order."""
    if len({part.w.dim() for part in parts}) > 1:
        parts = [Styles(_by_layer(part.w, num_layers), part.code) for part in parts]
    return _stack(parts)


def _by_layer(w: Tensor, num_layers: int) -> Tensor:
    return w if w.dim() == 3 else w[:, None].expand(-1, num_layers, -1)


def _stack(cells: Sequence[Styles]) -> Styles:
    """Pictures with style codes of one kind, and one text code or one a layer, as one batch."""
    w = torch.cat([cell.w for cell in cells])
    if all(cell.code is None for cell in cells):
        return Styles(w, None)
    if all(isinstance(cell.code, TextCode) for cell in cells):
        return Styles(w, _join([cell.code for cell in cells]))
    by_layer = zip(*(layer_words(cell.code, w.shape[1]) for cell in cells))
    return Styles(w, [_join(list(codes)) for codes in by_layer])


_MAKERS = {
    Interpolation: _interpolation,
    Walk: _walk,
    PromptMixing: _prompt_mixing,
    StyleMixing: _style_mixing,
    SwappingMatrix: _swapping_matrix,
    Arithmetic: _arithmetic,
}
