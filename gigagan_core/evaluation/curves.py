"""Training curves, read from where the training stages leave them in their artifacts."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gigagan_core.errors import GigaganError
from gigagan_core.store.artifact import Artifact

CURVES_FILE = "curves.json"
_MODELS = {"model": "Base model", "upsampler": "Upsampler", "control": "L1-only control"}


@dataclass(frozen=True)
class Curve:
    """group: the model. chart: what shares a chart. name: the metric. points: (images seen, value)."""

    group: str
    chart: str
    name: str
    points: tuple[tuple[float, float], ...]


def curves_of(inputs: Mapping[str, Any]) -> list[Curve]:
    """The curves of the models among an evaluation's inputs. Raises GigaganError where they are damaged."""
    return [
        curve
        for name, group in _MODELS.items()
        if isinstance(inputs.get(name), Artifact)
        for curve in read_curves(inputs[name].path, group)
    ]


def read_curves(folder: Path, group: str) -> list[Curve]:
    """The curves in an artifact's `curves.json`, by name; none where it has no such file.

    The file holds ``{"images": [...], "metrics": {name: [value or null, ...]}}``. Raises GigaganError where
    it is damaged.
    """
    path = folder / CURVES_FILE
    if not path.is_file():
        return []
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        return [
            Curve(group, _chart(name), name, _points(stored["images"], values))
            for name, values in sorted(stored["metrics"].items())
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise GigaganError(f"{path}: unreadable curves ({error}); run the training stage again") from error


def _points(images: list[float], values: list[float | None]) -> tuple[tuple[float, float], ...]:
    pairs = zip(images, values, strict=True)
    return tuple((float(x), float(y)) for x, y in pairs if y is not None and math.isfinite(y))


def _chart(name: str) -> str:
    """``generator/loss`` and ``discriminator/loss`` share "loss"; ``grad_norm/x`` is in "grad_norm"."""
    first, _, last = name.partition("/")
    return first if first == "grad_norm" or not last else last
