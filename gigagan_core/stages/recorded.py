"""A pipeline run, role by role, with a record in the store that says what each was (`gigagan_core.store.runs`)."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator, Mapping

from gigagan_core import console
from gigagan_core.config.base import all_settings
from gigagan_core.stages.base import RunContext, described
from gigagan_core.stages.rerun import RunPlan
from gigagan_core.stages.roles import ROLES, Role
from gigagan_core.store import runs
from gigagan_core.store.artifact import Artifact
from gigagan_core.store.runs import RunRecord
from gigagan_core.store.store import Store
from gigagan_core.text import plain
from gigagan_core.tracking.process import owner, was_stopped

Have = Mapping[Role, Artifact]
Makers = Mapping[Role, Callable[[Have], Artifact]]
"""Runs the stage of a role, with the artifacts of the roles before it."""


def run_roles(
    plan: RunPlan,
    context: RunContext,
    makers: Makers,
    flow: str = "pipeline",
    mlflow: Mapping[str, str] | None = None,
    prefect: Mapping[str, str] | None = None,
) -> RunRecord:
    """Make the wanted roles in order, and keep a record that grows with every one of them.

    flow, mlflow, prefect: see `RunRecord`. A run with the MLflow run of an earlier try goes on with its record: what
    that try has made by force is not made again.
    """
    with _recorded(context.store, plan, flow, mlflow, prefect or {}) as record:
        made = {role for role, each in record.written.artifacts.items() if each["how"] == "made"}
        have: dict[Role, Artifact] = {}
        # First, so that all of them are in the record, which keeps them, while the long work goes on.
        for role in ROLES:
            if role in plan.kept:
                have[role] = plan.kept[role]
                context.store.touch(have[role])
                console.note(f"{role}: kept, {described(have[role])}")
                record.add(role, have[role], "kept")
        for role in ROLES:
            if role in plan.wanted:
                context.force = role in plan.forced - made
                have[role] = makers[role](have)
                line = context.history[-1]
                how = "cached" if line.cached and role not in made else "made"
                record.add(role, have[role], how, why=line.why)
    return record.written


class _Writer:
    """A record that is written whenever something is added."""

    def __init__(self, store: Store, record: RunRecord):
        self._store = store
        self.written = record
        runs.write(store, record)

    def add(self, role: Role, artifact: Artifact, how: str, why: str = "") -> None:
        """One more role is there."""
        self._write(self.written.with_artifact(role, {**artifact.reference(), "how": how, "why": why}))

    def close(self, status: runs.Status) -> None:
        """The run has ended."""
        self._write(self.written.closed(status))

    def _write(self, record: RunRecord) -> None:
        runs.write(self._store, record)
        self.written = record


@contextlib.contextmanager
def _recorded(
    store: Store, plan: RunPlan, flow: str, mlflow: Mapping[str, str] | None, prefect: Mapping[str, str]
) -> Iterator[_Writer]:
    run = mlflow["run_id"] if mlflow else uuid.uuid4().hex
    earlier = runs.of_run(store, run)
    record = RunRecord(
        id=run,
        flow=flow,
        created=earlier.created if earlier else runs.now(),
        process=owner(),
        settings=all_settings(plan.settings),
        artifacts=earlier.artifacts if earlier else {},
        of=plan.of,
        mlflow=dict(mlflow) if mlflow else None,
        prefect=dict(prefect),
    )
    writer = _Writer(store, record)
    try:
        yield writer
    except BaseException as error:
        try:
            writer.close("stopped" if was_stopped(error) else "failed")
        except Exception as unwritten:  # whatever stopped the run, such as a full disk, may stop this too
            console.warn(
                f"the record of run {record.short} in {store.uri} does not say that it ended: {plain(unwritten)}"
            )
        raise
    writer.close("finished")
