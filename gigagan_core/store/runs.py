"""Records of pipeline runs, beside the artifacts: which settings and which artifacts each run had.

A record is what a later run is made from (`gigagan run STAGE --from RUN`), and what keeps its artifacts from `gigagan
store gc`. It is written again after every stage, so that a run that is cut off has one too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from gigagan_core import console
from gigagan_core.errors import GigaganError
from gigagan_core.store.lineage import Key
from gigagan_core.store.store import Store
from gigagan_core.tracking.process import is_dead

FOLDER = "_runs"
SHORT = 12
Status = Literal["running", "finished", "failed", "stopped"]


@dataclass(frozen=True)
class RunRecord:
    """One run of the pipeline, or of a part of it.

    id: the MLflow run's, where there is one. flow: "pipeline" or "rerun". settings: of the whole pipeline, JSON-able.
    artifacts: by role (`gigagan_core.stages.roles`), each as a manifest names it, with "how": made, cached, or kept
    from the run before. of: id of the run that it is a rerun of. prefect: id, name and address of the flow run.
    """

    id: str
    flow: str
    created: str
    process: str
    settings: Mapping[str, Any]
    status: Status = "running"
    ended: str | None = None
    artifacts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    of: str | None = None
    mlflow: Mapping[str, str] | None = None
    prefect: Mapping[str, str] = field(default_factory=dict)

    @property
    def short(self) -> str:
        """The id's first 12 digits."""
        return self.id[:SHORT]

    @property
    def state(self) -> str:
        """The status; "crashed" where the process died without a word."""
        return "crashed" if self.status == "running" and is_dead(self.process) else self.status

    def names(self) -> Iterator[Key]:
        """The names of its artifacts."""
        return (Key.of(reference) for reference in self.artifacts.values())

    def with_artifact(self, role: str, reference: Mapping[str, Any]) -> RunRecord:
        """The record after one more stage."""
        return dataclasses.replace(self, artifacts={**self.artifacts, role: reference})

    def closed(self, status: Status) -> RunRecord:
        """The record at the end of the run."""
        return dataclasses.replace(self, status=status, ended=now())

    def place(self) -> str:
        """Its file in the store; names sort by time."""
        moment = datetime.fromisoformat(self.created)
        return f"{FOLDER}/{moment:%Y%m%dT%H%M%S%f}-{self.short}.json"


def write(store: Store, record: RunRecord) -> None:
    """Keep a record, in the place of what it said before."""
    store.write_note(record.place(), dataclasses.asdict(record))


def records(store: Store) -> list[RunRecord]:
    """Every run's record, oldest first."""
    return [RunRecord(**known_fields(RunRecord, document)) for document in store.read_notes(FOLDER)]


def of_run(store: Store, run: str) -> RunRecord | None:
    """The record of the run with this id, or None."""
    names = [name for name in store.note_names(FOLDER) if name.endswith(f"-{run[:SHORT]}.json")]
    if not names:
        return None
    return RunRecord(**known_fields(RunRecord, store.read_note(f"{FOLDER}/{names[0]}")))


def find(store: Store, reference: str) -> RunRecord:
    """A run by its id or a unique prefix of it, by the id or name of its Prefect flow run, or `latest`.

    That is the newest one that finished, or, where none has, the newest: a night that failed must not be what every
    later night begins with. Raises GigaganError where there is none, or more than one.
    """
    known = records(store)
    if not known:
        raise GigaganError(f"store {store.uri} has no record of a pipeline run; run `gigagan pipeline` first")
    if reference == "latest":
        return _latest(known)
    prefect = [each for each in known if reference in (each.prefect.get("id"), each.prefect.get("name"))]
    matches = prefect or [each for each in known if each.id.startswith(reference)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        listed = ", ".join(each.short for each in matches)
        raise GigaganError(f"run {reference!r} fits several: {listed}; give more digits")
    newest = ", ".join(_named(each) for each in known[-3:][::-1])
    raise GigaganError(
        f"store {store.uri} has no run {reference!r}; `gigagan store runs` lists them (newest: {newest})"
    )


def _latest(known: Sequence[RunRecord]) -> RunRecord:
    found = next((each for each in reversed(known) if each.status == "finished"), known[-1])
    if found is not known[-1]:
        newest = f"{_named(known[-1])} is newer and {known[-1].state}"
        console.note(f"latest is run {_named(found)}, the newest that finished ({newest})")
    return found


def known_fields(kind: type, document: Mapping[str, Any]) -> dict[str, Any]:
    """What a dataclass of this version has of a document: a newer version may have written more."""
    names = {each.name for each in dataclasses.fields(kind)}
    return {name: value for name, value in document.items() if name in names}


def now() -> str:
    """The time as records hold it."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def _named(record: RunRecord) -> str:
    name = record.prefect.get("name")
    return f"{record.short} ({name})" if name else record.short
