"""What the driver shows and keeps of a training run: the bar, MLflow metrics, sample grids, curves."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gigagan_core import console

NON_FINITE = "non-finite"
"""Folder, in a stage's work and in its run: which samples and losses made training go back."""

# Shown at the end of the progress line, by the first of these names that a run has.
_SHOWN = {
    "loss G": ("generator/loss",),
    "loss D": ("discriminator/loss",),
}


@dataclass(frozen=True)
class Event:
    """News of a training worker; picklable.

    kind: "started" (or goes on), "metrics", "validated", "not_validated", "sample", "rolled_back" or "failed".
    images_seen: when.
    png: a sample grid. message: why it failed, went back or was not measured. details: of going back, a JSON document.
    """

    kind: str
    images_seen: int
    metrics: dict[str, float] = field(default_factory=dict)
    png: bytes = b""
    message: str = ""
    details: str = ""


class TrainingRecord:
    """Handles a run's events; made for one stage's work folder.

    bar: from `console.progress`. run: the stage's record. samples: folder for the grids.
    """

    def __init__(self, bar: console.Bar, run: Any, samples: Path):
        self._bar, self._run, self._samples = bar, run, samples
        self._lock = threading.Lock()
        samples.mkdir(parents=True, exist_ok=True)

    def handle(self, event: Event) -> None:
        """Show it and keep it; from any thread."""
        with self._lock:
            self._handle(event)

    def _handle(self, event: Event) -> None:
        if event.kind == "started":
            if event.images_seen:
                self._bar.start_from(event.images_seen)
            for late in self._grids_after(event.images_seen):
                late.unlink()  # drawn after the checkpoint that training goes on from; drawn again soon
        elif event.kind == "metrics":
            self._bar.set(event.images_seen, **_figures(event.metrics))
            self._run.log_metrics(event.metrics, step=event.images_seen)
        elif event.kind == "validated":
            self._run.log_metrics(event.metrics, step=event.images_seen)
        elif event.kind == "sample":
            path = self._samples / f"{event.images_seen:09d}.png"
            path.write_bytes(event.png)
            self._run.log_image("samples", path, step=event.images_seen)

        elif event.kind == "not_validated":
            console.warn(event.message)
        elif event.kind == "rolled_back":
            console.warn(event.message)
            path = self._samples.parent / NON_FINITE / f"{json.loads(event.details)['images_seen']:09d}.json"
            path.parent.mkdir(exist_ok=True)
            path.write_text(event.details)
            self._run.log_artifact(path, NON_FINITE)

    def _grids_after(self, images_seen: int) -> list[Path]:
        return [path for path in self._samples.glob("*.png") if int(path.stem) > images_seen]


def _figures(metrics: dict[str, float]) -> dict[str, float]:
    shown = {}
    for label, names in _SHOWN.items():
        for name in names:
            if name in metrics:
                shown[label] = metrics[name]
                break
    return shown
