"""What every flow runs in: store, Ray session, MLflow tracker, and the links between their records."""

from __future__ import annotations

import contextlib
import contextvars
import logging
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.logging import get_run_logger
from prefect.runtime import deployment, flow_run
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

from flows import events, hooks, records
from flows.hooks import FLOW_RUN_ID
from gigagan_core import console, environment, servers
from gigagan_core.backends.base import open_backend
from gigagan_core.config.backend import BackendSettings, backend_settings
from gigagan_core.stages.base import RunContext, StageRecord
from gigagan_core.stages.session import PoliteRaySession
from gigagan_core.store.artifact import Artifact
from gigagan_core.store.store import Store
from gigagan_core.tracking.mlflow_run import MlflowTracker, StageRun
from gigagan_core.tracking.process import Terminated, interrupts_kept, sigterm_raises, was_terminated

environment.set_defaults()
console.outlive_reader()

# What every flow is made with: results stay in our store, and no record or job outlives a run that has ended.
FLOW: dict[str, Any] = {
    "persist_result": False,
    "on_cancellation": [hooks.stop_jobs_and_close_records],
    "on_crashed": [hooks.close_records],
}

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
        # The next stage need not wait for what is shown of this one.
        self._publisher = ThreadPoolExecutor(1, "publish")

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
        known, logger = len(self.context.history), get_run_logger()
        # The logger is bound to this task: lines also come from threads that know nothing of it.
        with interrupts_kept(), console.heard_by(partial(_log, logger)):
            artifact = self.context.run(stage_run, settings, inputs, **options)
        for line in self.context.history[known:]:
            logger.info(records.sentence(line))
            self._publisher.submit(contextvars.copy_context().run, self._publish, line)
        return artifact

    def _publish(self, line: StageRecord) -> None:
        with self._outage.outlived():
            records.publish(line)
            events.announce(line, self.store.uri)

    def close(self) -> None:
        """Wait until everything is published."""
        self._publisher.shutdown()


def _log(logger: Any, line: str) -> None:
    level = logging.WARNING if line.startswith("warning: ") else logging.INFO
    logger.log(level, line.removeprefix("warning: "))


@contextlib.contextmanager
def open_run(
    name: str,
    store: str | None = None,
    force: bool = False,
    accept_code_change: bool = False,
    params: Mapping[str, Any] | None = None,
    as_parent: bool = False,
    ray_dashboard: bool = False,
    backend: BackendSettings | None = None,
) -> Iterator[Run]:
    """The surroundings of one flow run; Ray, where a stage started it, stops at the end.

    as_parent: make an MLflow run that the stages' runs are children of. A retry goes on with the MLflow runs of the
    try before it. backend: where the stages' work is done.
    """
    chosen = backend or backend_settings()
    tracker = MlflowTracker(
        tags=prefect_tags(),
        continue_by=FLOW_RUN_ID,
        server=servers.serving_records(),
        alone=chosen.kind == "local",
    )
    options = {
        "force": force,
        "accept_code_change": accept_code_change,
        "prices": chosen.prices,
        "backend": open_backend(chosen, hooks.asker(flow_run.id), is_cancelled),
        "origin": {key: str(value) for key, value in prefect_tags().items() if value},
    }
    session = PoliteRaySession(dashboard=ray_dashboard)
    progress = records.ProgressPage()
    with (
        sigterm_raises(replacing=True),
        RunContext.open(store, tracker, ray_session=session, on_progress=progress, **options) as context,
    ):
        hooks.end_left_open(tracker, chosen)
        if not as_parent:
            with _usage_published(context), contextlib.closing(Run(context)) as run:
                yield run
            records.end_dead_flow_runs(tracker.ended, flow_run.id)
            return
        with tracker.pipeline_run(name, params=params) as parent, _usage_published(context):
            records.publish_mlflow_link(parent)
            records.end_dead_flow_runs(tracker.ended, flow_run.id)
            with contextlib.closing(Run(context, parent)) as run:
                yield run


@contextlib.contextmanager
def _usage_published(context: RunContext) -> Iterator[None]:
    """At the end of the block, what its stages took; also those before the one that failed."""
    outage = records.Outage()
    try:
        yield
    except Exception:
        with outage.outlived():
            records.publish_usage(context.history)
        raise
    with outage.outlived():
        records.publish_usage(context.history)


def without_heartbeats() -> contextlib.AbstractContextManager[Any]:
    """Inside, flow runs tell no automation that they live.

    They tell those that watch over a worker's runs. A command's run has nobody to start it again, the next run closes
    what a killed one left open, and at its end Prefect waits up to a second for the thread that tells it.
    """
    return temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None})


def send_what_waits() -> None:
    """Send Prefect's queued log lines and events now: at exit its server may be gone, and each is waited for."""
    from prefect.events.worker import EventsWorker

    for handler in logging.getLogger("prefect.flow_runs").handlers:
        handler.flush()
    EventsWorker.drain_all(timeout=10)


def is_cancelled() -> bool:
    """Whether somebody has cancelled this flow run; no, where Prefect cannot be asked."""
    if flow_run.id is None:
        return True
    try:
        with get_client(sync_client=True) as client:
            state = client.read_flow_run(flow_run.id).state
    except Exception:  # the network, or a server that is going down together with this process
        return False
    return state is not None and (state.is_cancelling() or state.is_cancelled())


def prefect_tags() -> dict[str, Any]:
    """How an MLflow run names the Prefect flow run that it belongs to."""
    return {
        FLOW_RUN_ID: flow_run.id,
        "prefect.flow_run_name": flow_run.name,
        "prefect.flow_run_url": flow_run.ui_url,
        "prefect.deployment": deployment.name,
    }


def prefect_reference() -> dict[str, str]:
    """How a record of the store names the Prefect flow run that it belongs to."""
    named = {"id": flow_run.id, "name": flow_run.name, "url": flow_run.ui_url}
    return {key: str(value) for key, value in named.items() if value}
