"""What every flow runs in: store, Ray session, MLflow tracker, and the links between their records."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger
from prefect.runtime import deployment, flow_run

from flows import records
from gigagan_core import console, environment
from gigagan_core.stages.base import RunContext
from gigagan_core.stages.session import PoliteRaySession
from gigagan_core.store.artifact import Artifact
from gigagan_core.store.store import Store
from gigagan_core.text import plain
from gigagan_core.tracking.mlflow_run import MlflowTracker, StageRun
from gigagan_core.tracking.process import Terminated, interrupts_kept, sigterm_raises, was_terminated

environment.set_defaults()
console.outlive_reader()

# Our store decides what is done already: Prefect's cache would not check that the data still exists.
stage_task: Callable[..., Any] = partial(task, cache_policy=NO_CACHE, persist_result=False)


class Run:
    """One run of a flow, handed to its tasks.

    A plain object on purpose: Prefect looks for futures inside dataclasses and collections that it is
    handed, and would walk through all of this one.
    """

    def __init__(self, context: RunContext, parent: StageRun | None = None):
        self.context = context
        self.parent = parent
        self._outage = records.Outage()

    @property
    def store(self) -> Store:
        """The artifact store of this run."""
        return self.context.store

    def stage(
        self, stage_run: Callable[..., Artifact], settings: Any, inputs: Mapping[str, Any], **options: Any
    ) -> Artifact:
        """Run a stage in the current task, and publish on the task's page what it made or reused."""
        if was_terminated():
            raise Terminated("SIGTERM")  # the stage before this one did not notice
        known = len(self.context.history)
        with interrupts_kept():
            artifact = stage_run(settings, inputs, self.context, **options)
        for line in self.context.history[known:]:
            get_run_logger().info(records.sentence(line))
            with self._outage.outlived():
                records.publish(line)
        return artifact


@contextlib.contextmanager
def open_run(
    name: str,
    store: str | None = None,
    force: bool = False,
    accept_code_change: bool = False,
    params: Mapping[str, Any] | None = None,
    as_parent: bool = False,
    ray_dashboard: bool = False,
) -> Iterator[Run]:
    """The surroundings of one flow run; Ray, where a stage started it, stops at the end.

    as_parent: make an MLflow run that the stages' runs are children of.
    """
    tracker = MlflowTracker(tags=prefect_tags())
    options = {"force": force, "accept_code_change": accept_code_change, "on_warning": _log_warning}
    session = PoliteRaySession(dashboard=ray_dashboard)
    progress = records.ProgressPage()
    with (
        sigterm_raises(replacing=True),
        RunContext.open(store, tracker, ray_session=session, on_progress=progress, **options) as context,
    ):
        if not as_parent:
            yield Run(context)
            records.end_dead_flow_runs(tracker.ended)
            return
        with tracker.pipeline_run(name, params=params) as parent:
            records.publish_mlflow_link(parent)
            records.end_dead_flow_runs(tracker.ended)
            yield Run(context, parent)


def _log_warning(message: str) -> None:
    get_run_logger().warning(plain(message))


def send_what_waits() -> None:
    """Send Prefect's queued log lines and events now: at exit its server may be gone, and each is waited for."""
    from prefect.events.worker import EventsWorker

    for handler in logging.getLogger("prefect.flow_runs").handlers:
        handler.flush()
    EventsWorker.drain_all(timeout=10)


def prefect_tags() -> dict[str, Any]:
    """How an MLflow run names the Prefect flow run that it belongs to."""
    return {
        "prefect.flow_run_id": flow_run.id,
        "prefect.flow_run_name": flow_run.name,
        "prefect.flow_run_url": flow_run.ui_url,
        "prefect.deployment": deployment.name,
    }


def prefect_reference() -> dict[str, str]:
    """How a record of the store names the Prefect flow run that it belongs to."""
    named = {"id": flow_run.id, "name": flow_run.name, "url": flow_run.ui_url}
    return {key: str(value) for key, value in named.items() if value}
