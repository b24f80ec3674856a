"""Metrics that MLflow did not take, in a file until it does: also those of a process that was killed meanwhile."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gigagan_core import environment
from gigagan_core.errors import GigaganError
from gigagan_core.text import without_password
from gigagan_core.tracking.connection import Connection, named
from gigagan_core.tracking.entries import MetricEntry

METRICS_A_BATCH = 1000
"""What MLflow accepts in one request."""


class Spool:
    """The file of one run: a first line that names it, then a line a metric."""

    def __init__(self, tracking_uri: str, run_id: str):
        self.path = folder() / f"{run_id}.jsonl"
        self._run = {"tracking_uri": tracking_uri, "run_id": run_id}

    def append(self, metrics: Sequence[MetricEntry]) -> None:
        """Keep what was not taken. Raises OSError where the file cannot be written."""
        lines = [json.dumps(list(metric)) for metric in metrics]
        if not self.path.exists():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.touch(mode=0o600)  # the address may have a password in it
            lines.insert(0, json.dumps(self._run))
        with self.path.open("a") as file:
            file.write("".join(line + "\n" for line in lines))

    def clear(self) -> None:
        """All of them have been sent."""
        self.path.unlink(missing_ok=True)


class Sent(NamedTuple):
    """What `send` did with one run's file."""

    run_id: str
    tracking_uri: str
    metrics: int


def folder() -> Path:
    """Where the files lie."""
    return environment.home() / "unsent"


def waiting() -> list[Path]:
    """Files of runs whose metrics wait; of a run that still goes on, too."""
    return sorted(folder().glob("*.jsonl"))


def send(path: Path) -> Sent:
    """Send a file's metrics and remove it.

    Raises GigaganError where MLflow does not take them, or the file is something else.
    """
    try:
        lines = _lines(path)
        run = next(lines)
        metrics = [MetricEntry(*values) for values in lines]
        connection = Connection(run["tracking_uri"])
    except (OSError, ValueError, TypeError, KeyError, StopIteration) as error:
        raise GigaganError(
            f"{path} is no file of unsent metrics ({error}); remove it, or give its folder's others"
        ) from None
    _send_all(connection, run["run_id"], metrics, path)
    path.unlink()
    return Sent(run["run_id"], without_password(run["tracking_uri"]), len(metrics))


def _send_all(connection: Connection, run_id: str, metrics: list[MetricEntry], path: Path) -> None:
    for start in range(0, len(metrics), METRICS_A_BATCH):
        batch = metrics[start : start + METRICS_A_BATCH]
        if not connection.call("metrics", "log_batch", run_id, metrics=batch, at_once=True):
            raise GigaganError(
                f"{named(connection.tracking_uri)} does not take the metrics of run {run_id}; start it, and give "
                f"`gigagan records send` again ({path} is kept)"
            )


def _lines(path: Path) -> Iterator[Any]:
    """A line that a kill has cut off is the last one, and left out."""
    with path.open() as file:
        for line in file:
            if line.endswith("\n"):
                yield json.loads(line)
