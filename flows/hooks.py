"""What happens when a flow run ends without its own code: its jobs stop where it was cancelled, its records close.

Prefect calls the hooks in the worker when the run's process is gone already, so they find everything by the flow run's
id and parameters alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound
from prefect.logging.loggers import flow_run_logger

from gigagan_core.backends.base import open_jobs
from gigagan_core.backends.remote import Jobs, Unreachable, stop_jobs
from gigagan_core.config.backend import BackendSettings, backend_settings
from gigagan_core.errors import GigaganError
from gigagan_core.tracking.mlflow_run import MlflowTracker
from gigagan_core.tracking.process import is_alive

FLOW_RUN_ID = "prefect.flow_run_id"
"""Tag of an MLflow run."""
JOB = "gigagan.job"
"""Tag of an MLflow run that a job of a cluster writes, and ends."""


def asker(flow_run_id: Any) -> str | None:
    """How a flow run's jobs are called; None outside a flow run."""
    return f"pf-{flow_run_id}" if flow_run_id else None


def stop_jobs_and_close_records(flow: Any, flow_run: Any, state: Any) -> None:
    """After a cancellation: the GPUs are free, and no MLflow run of this flow run is RUNNING."""
    settings = _backend_of(flow_run)
    if settings.kind != "local":
        try:
            for job in stop_jobs(open_jobs(settings), str(asker(flow_run.id))):
                flow_run_logger(flow_run).info(f"stopped {job}")
        except (Unreachable, GigaganError) as error:
            flow_run_logger(flow_run).error(
                f"jobs of this run could not be stopped: {error}; stop them by hand"
            )
    MlflowTracker().end_left_open(
        lambda tags: JOB in tags or not _lives(tags),
        "its flow run was cancelled",
        {FLOW_RUN_ID: str(flow_run.id)},
    )


def close_records(flow: Any, flow_run: Any, state: Any) -> None:
    """After a crash: no MLflow run of this flow run is RUNNING, but those of its jobs, which a retry attaches to."""
    MlflowTracker().end_left_open(
        lambda tags: JOB not in tags and not _lives(tags),
        "its flow run crashed",
        {FLOW_RUN_ID: str(flow_run.id)},
    )


def end_left_open(tracker: MlflowTracker, backend: BackendSettings) -> None:
    """Close what flow runs and jobs that are over left RUNNING, on whatever machine they ran; never what lives."""
    jobs = open_jobs(backend) if backend.kind != "local" else None
    flow_runs: dict[str, bool] = {}

    def is_over(tags: Mapping[str, str]) -> bool:
        if _lives(tags):
            return False
        if JOB in tags:
            return jobs is not None and _job_is_over(jobs, tags[JOB])
        flow_run_id = tags.get(FLOW_RUN_ID, "")
        if flow_run_id not in flow_runs:
            flow_runs[flow_run_id] = bool(flow_run_id) and _flow_run_is_over(flow_run_id)
        return flow_runs[flow_run_id]

    tracker.end_left_open(is_over, "its flow run or job is over, and left this run open")


def _lives(tags: Mapping[str, str]) -> bool:
    return is_alive(tags.get("gigagan.process", ""))


def _backend_of(flow_run: Any) -> BackendSettings:
    given = (flow_run.parameters or {}).get("backend")
    return BackendSettings.model_validate(given) if given else backend_settings()


def _flow_run_is_over(flow_run_id: str) -> bool:
    """By Prefect; one that this server does not know may be another server's, and may live."""
    with get_client(sync_client=True) as client:
        try:
            state = client.read_flow_run(flow_run_id).state  # type: ignore[arg-type]
        except ObjectNotFound:
            return False
    return state is not None and state.is_final()


def _job_is_over(jobs: Jobs, job: str) -> bool:
    """By its cluster; one that this cluster does not know may be another cluster's, and may live."""
    try:
        state = jobs.state(job)
    except (Unreachable, GigaganError):
        return False
    return state is not None and state.is_over
