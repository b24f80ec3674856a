"""Editing as recipes: what is mixed, interpolated or walked through, at which layers, saved and replayed as JSON.

Layers are the adaptive convolutions of the synthesis network, from coarse (0) to fine.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from gigagan_core.config.base import Settings
from gigagan_core.errors import GigaganError

SCHEMA = 1
PromptField = str | int | None
Psi = Annotated[float, Field(ge=-2.0, le=2.0)]
Index = Annotated[int, Field(ge=0, lt=2**63)]
Layers = tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]]
"""[first, last): coarse layers come first; whether the model has them is seen when the recipe is applied."""


class Point(Settings):
    """One picture: what the same arguments of `GigaGANPipeline` make.

    prompt: caption, class label or nothing. (seed, index) key the latent. truncation: towards the mean of all prompts;
    prompt_truncation: towards the prompt's own; 1 changes nothing.
    """

    prompt: PromptField = None
    seed: int = 0
    index: Index = 0
    truncation: Psi = 1.0
    prompt_truncation: Psi = 1.0


class Interpolation(Settings):
    """Prompts in between: two at the ends of a row, or four at the corners of a grid; one latent for all.

    prompts: left, right; or upper left, upper right, lower left, lower right. The corners of the grid are exactly the
    pure prompts. shares: of the right-hand prompt in each column; None: evenly from 0 to 1. The other fields are those
    of every picture, as in `Point`.
    """

    kind: Literal["interpolation"] = "interpolation"
    prompts: tuple[str | int, ...]
    rows: Annotated[int, Field(ge=1, le=256)] = 5
    columns: Annotated[int, Field(ge=1, le=4096)] = 5
    shares: tuple[Annotated[float, Field(ge=0.0, le=1.0)], ...] | None = None
    seed: int = 0
    index: Index = 0
    truncation: Psi = 1.0
    prompt_truncation: Psi = 1.0

    @model_validator(mode="after")
    def _check(self) -> Interpolation:
        if len(self.prompts) not in (2, 4):
            raise ValueError(f"prompts must be 2 or 4, not {len(self.prompts)}")
        if (self.rows == 1) != (len(self.prompts) == 2):
            raise ValueError("two prompts make one row (rows=1), four make at least two")
        if self.shares is None and self.columns < 2:
            raise ValueError("columns must be 2 or more, or shares given")
        if self.shares is not None and len(self.shares) != self.columns:
            raise ValueError(f"shares must be one a column ({self.columns}), not {len(self.shares)}")
        return self


class PromptMixing(Settings):
    """Layout from one prompt, texture from another: `second` from a crossover layer on, its words and its style.

    first, second: a pair a row. layers: one crossover layer a column; 0 is `second` alone, the number of layers
    `first` alone. words: "first" mixes the styles alone, and the words stay.
    """

    kind: Literal["prompt-mixing"] = "prompt-mixing"
    first: Annotated[tuple[Point, ...], Field(min_length=1)]
    second: Annotated[tuple[Point, ...], Field(min_length=1)]
    layers: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]
    words: Literal["both", "first"] = "both"

    @model_validator(mode="after")
    def _check(self) -> PromptMixing:
        if len(self.first) != len(self.second):
            raise ValueError("first and second must be equally many")
        return self


class StyleMixing(Settings):
    """Sources as rows, styles as columns: at `layers` the style code of the column, elsewhere that of the row.

    By z: the points have the same prompt and other seeds. By prompt: other prompts. words: whose words the layers
    attend to; "style" at the mixed layers only.
    """

    kind: Literal["style-mixing"] = "style-mixing"
    sources: Annotated[tuple[Point, ...], Field(min_length=1)]
    styles: Annotated[tuple[Point, ...], Field(min_length=1)]
    layers: Layers
    words: Literal["source", "style"] = "source"


class SwappingMatrix(Settings):
    """Style mixing at every range of layers from coarse to fine, one below the other.

    cuts: where the ranges meet; (3, 6) of 9 layers makes coarse 0 to 3, middle 3 to 6, fine 6 to 9.
    """

    kind: Literal["swapping-matrix"] = "swapping-matrix"
    sources: Annotated[tuple[Point, ...], Field(min_length=1)]
    styles: Annotated[tuple[Point, ...], Field(min_length=1)]
    cuts: tuple[Annotated[int, Field(ge=1)], ...]
    words: Literal["source", "style"] = "source"

    @model_validator(mode="after")
    def _check(self) -> SwappingMatrix:
        if sorted(set(self.cuts)) != list(self.cuts):
            raise ValueError(f"cuts must rise, not {self.cuts}")
        return self


class Arithmetic(Settings):
    """w + amount (mean of plus - mean of minus), at `layers` (all where None), one column an amount; base's words."""

    kind: Literal["arithmetic"] = "arithmetic"
    base: Annotated[tuple[Point, ...], Field(min_length=1)]
    plus: Annotated[tuple[Point, ...], Field(min_length=1)]
    minus: Annotated[tuple[Point, ...], Field(min_length=1)]
    amounts: Annotated[tuple[float, ...], Field(min_length=1)] = (-1.0, -0.5, 0.0, 0.5, 1.0)
    layers: Layers | None = None


class Walk(Settings):
    """A walk through latents and prompts, frame by frame.

    prompts: one a stop, taken in turn. stops: how many latents, keyed (seed, 0), (seed, 1), ... between which the way
    goes along great circles. steps: frames from one stop to the next. closed: back to the first one, so that it loops.
    """

    kind: Literal["walk"] = "walk"
    prompts: Annotated[tuple[PromptField, ...], Field(min_length=1)]
    seed: int = 0
    stops: Annotated[int, Field(ge=2, le=1000)] = 4
    steps: Annotated[int, Field(ge=1, le=1000)] = 12
    closed: bool = True
    truncation: Psi = 1.0
    prompt_truncation: Psi = 1.0
    frames_per_second: Annotated[float, Field(gt=0, le=100)] = 12.0


Recipe = Interpolation | PromptMixing | StyleMixing | SwappingMatrix | Arithmetic | Walk
_ADAPTER: TypeAdapter[Recipe] = TypeAdapter(Annotated[Recipe, Field(discriminator="kind")])


def save_recipe(path: Path | str, recipe: Recipe, model: dict[str, Any] | None = None) -> None:
    """Write a recipe as JSON. model: what made the pictures, for whoever replays it."""
    document = {"schema": SCHEMA, "model": model, "recipe": recipe.model_dump(mode="json")}
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise GigaganError(
            f"recipe {path} cannot be written ({error.strerror}); choose another place"
        ) from None


def load_recipe(path: Path | str) -> tuple[Recipe, dict[str, Any] | None]:
    """A recipe and what made its pictures. Raises GigaganError for what is not a recipe."""
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(document, dict) or document.get("schema") != SCHEMA:
            raise ValueError(f"no document of schema {SCHEMA}")
        return _ADAPTER.validate_python(document["recipe"]), document.get("model")
    except (OSError, ValueError, KeyError, RecursionError) as error:
        raise GigaganError(
            f"recipe {path} cannot be used ({_reason(error)}); give a file that `save_recipe` or a command wrote"
        ) from None


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
    return str(error)
