"""Learning curves as a file."""

from __future__ import annotations

import json
from pathlib import Path


def write_curves(path: Path, history: list[dict[str, float]]) -> None:
    """Learning curves as JSON: {"images": [...], "metrics": {name: [value or null, ...]}}.

    history: `TrainState.history`.
    """
    names = sorted({name for row in history for name in row if name != "images"})
    curves = {
        "images": [int(row["images"]) for row in history],
        "metrics": {name: [row.get(name) for row in history] for name in names},
    }
    path.write_text(json.dumps(curves))
