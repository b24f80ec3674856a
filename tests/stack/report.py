"""`docs/results/faults.md`: what each fault did, written by the run of the tests where one is asked for."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from .running import ROOT

PATH = ROOT / "docs" / "results" / "faults.md"
HEAD = """# Faults, tried against `make stack`

Each row is one test of `tests/stack/test_faults.py`, which did this to a running stack (PostgreSQL, Prefect server and
worker, MLflow, S3, a Ray head and two workers) while a flow run was at work, and wrote the row: `GIGAGAN_KEEP_RESULTS=1
make e2e`. Seconds are from the fault until the service served again (or the state that the row names was reached), and
until the work was complete, on {cores} of a shared machine: they say that it recovers, not how fast yours would.

Every test also asserts that afterwards each artifact exists once and was made once, that no Prefect run and no MLflow
run is left RUNNING, and that no process of a run and no zombie is left. Two whole pipelines at once are
`tests/stack/test_pipeline.py`: both complete, and no stage is done twice.

| fault | what was done | what happened | service back | work complete |
|---|---|---|---|---|
"""


@dataclass
class Fault:
    """One row; its moments are taken by `struck`, `served` and `complete`."""

    name: str
    done: str
    happened: str = ""
    _moments: dict[str, float] = field(default_factory=dict)

    def struck(self) -> None:
        """The fault happens now."""
        self._moments["struck"] = time.monotonic()

    def served(self) -> None:
        """What was struck serves again."""
        self._moments["served"] = time.monotonic()

    def complete(self, happened: str) -> None:
        """The work is done; happened: how that came, for the table."""
        self._moments["complete"] = time.monotonic()
        self.happened = happened

    def row(self) -> str:
        """A line of the table."""
        cells = (self.name, self.done, self.happened, self._after("served"), self._after("complete"))
        return f"| {' | '.join(cells)} |"

    def _after(self, moment: str) -> str:
        if moment not in self._moments:
            return ""
        return f"{self._moments[moment] - self._moments['struck']:.0f} s"


@contextmanager
def reported(name: str, done: str) -> Iterator[Fault]:
    """A fault whose row is written when the block ends without a failure."""
    fault = Fault(name, done)
    yield fault
    print(fault.row())
    if os.environ.get("GIGAGAN_KEEP_RESULTS") == "1":
        _write(fault)


def _write(fault: Fault) -> None:
    rows = {}
    if PATH.exists():
        lines = PATH.read_text().splitlines()
        rows = {line.split(" | ")[0]: line for line in lines if line.startswith("| ")}
        rows.pop("| fault", None)
    rows[f"| {fault.name}"] = fault.row()
    cores = len(os.sched_getaffinity(0))
    head = HEAD.format(cores="one core" if cores == 1 else f"{cores} cores")
    PATH.write_text(head + "\n".join(rows.values()) + "\n")
