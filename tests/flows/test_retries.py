"""Records that hold: retries, sweeps and hooks, against a real Prefect server and a real MLflow database."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.states import Cancelling, Completed, Running

from flows import hooks, promote, records
from flows.runtime import FLOW, Run, is_cancelled, open_run, stage_task
from gigagan_core.backends.remote import JobState
from gigagan_core.config.backend import BackendSettings, PriceSettings
from gigagan_core.config.base import Settings
from gigagan_core.errors import GigaganError
from gigagan_core.stages.base import Outcome, RunContext, StageRecord, StageSpec, StageWork, materialise
from gigagan_core.store.artifact import Artifact
from gigagan_core.tracking.mlflow_run import MlflowTracker

SPEC = StageSpec("curate", kind="shard-set", module="gigagan_core.text")


class StepSettings(Settings):
    number: int
    fails_while: str | None = None
    """A file: as long as it is not there, the step fails and makes it."""


def step(work: StageWork) -> Outcome:
    marker = work.settings.fails_while
    if marker and not Path(marker).exists():
        Path(marker).touch()
        raise GigaganError("the network is away")
    (work.output / "number").write_text(str(work.settings.number))
    return Outcome()


@stage_task(name="step")
def step_stage(run: Run, settings: StepSettings, data: Artifact | None) -> Artifact:
    def stage_run(settings: StepSettings, inputs: Any, context: RunContext) -> Artifact:
        return materialise(SPEC, settings, inputs, context, step, label=f"step {settings.number}")

    return run.stage(stage_run, settings, {"data": data})


@flow(name="walking", retries=1, **FLOW)
def walking(name: str, store: str, fails_while: str | None = None) -> str:
    prices = BackendSettings(prices=PriceSettings(cpu_hour=3600.0))
    with open_run(name, store, as_parent=True, backend=prices) as run:
        first = step_stage(run, StepSettings(number=1), None)
        return step_stage(run, StepSettings(number=2, fails_while=fails_while), first).fingerprint


def mlflow_runs(**tags: str) -> dict[str, Any]:
    client = MlflowTracker()._connection.client
    experiment = client.get_experiment_by_name("gigagan").experiment_id
    query = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
    found = client.search_runs([experiment], query)
    assert len({run.info.run_name for run in found}) == len(found), "two runs of one name"
    return {run.info.run_name: run for run in found}


def artifacts_of(flow_run_id: Any) -> dict[str, Any]:
    only_this = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id]))
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(flow_run_filter=only_this)
    # Each try leaves its own; the last one's are shown.
    return {each.key: each for each in sorted(found, key=lambda each: each.created)}


def test_a_retry_has_the_records_of_the_first_try_and_says_what_it_took(
    prefect_api: str, tmp_path: Path
) -> None:
    name = f"walk {uuid4()}"
    state = walking(
        name=name, store=str(tmp_path / "store"), fails_while=str(tmp_path / "tried"), return_state=True
    )
    assert state.name == "Completed"
    flow_run_id = str(state.state_details.flow_run_id)
    runs = mlflow_runs(**{"prefect.flow_run_id": flow_run_id})
    assert {each: run.info.status for each, run in runs.items()} == {
        name: "FINISHED",
        "step 1": "FINISHED",
        "step 2": "FINISHED",
    }
    assert runs["step 2"].data.metrics["usage/cost_USD"] > 0
    # Links: from MLflow to Prefect and the artifact, from the artifact to both, from Prefect to MLflow.
    (folder,) = [
        folder
        for folder in (tmp_path / "store" / "curate").iterdir()
        if (folder / "number").read_text() == "2"
    ]
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["mlflow"]["run_id"] == runs["step 2"].info.run_id
    assert manifest["origin"]["prefect.flow_run_id"] == flow_run_id
    note = runs["step 2"].data.tags["mlflow.note.content"]
    assert str(folder) in note
    assert f"flow-run/{flow_run_id}" in note
    artifacts = artifacts_of(flow_run_id)
    assert runs["step 2"].info.run_id in artifacts["step-2-mlflow"].data
    rows = {row["stage"]: row for row in json.loads(artifacts["usage"].data)}
    assert list(rows) == ["step 1", "step 2", "in all"]
    assert rows["step 1"]["cost"].startswith("(")  # the first try had made it
    assert rows["in all"]["cost"].endswith("USD")


def test_what_runs_that_are_over_left_open_is_closed_and_nothing_else(
    prefect_api: str, tmp_path: Path
) -> None:
    client, case = MlflowTracker()._connection.client, str(uuid4())
    walking(name=f"walk {uuid4()}", store=str(tmp_path / "first"))
    experiment = client.get_experiment_by_name("gigagan").experiment_id
    with get_client(sync_client=True) as prefect:
        over = prefect.create_flow_run(walking, parameters={}, state=Completed()).id
        runs = prefect.create_flow_run(walking, parameters={}, state=Running()).id
    elsewhere = {"gigagan.process": "other-host:1:5.6", "case": case}
    for name, tags in {
        "over": {"prefect.flow_run_id": str(over)},
        "its job": {"prefect.flow_run_id": str(over), "gigagan.job": "pf-1-x"},
        "runs": {"prefect.flow_run_id": str(runs)},
        "unknown": {"prefect.flow_run_id": str(uuid4())},
        "nobody's": {},
    }.items():
        client.create_run(experiment, tags={"mlflow.runName": name, **elsewhere, **tags})
    walking(name=f"walk {uuid4()}", store=str(tmp_path / "second"))
    statuses = {name: run.info.status for name, run in mlflow_runs(case=case).items()}
    assert statuses.pop("over") == "KILLED"
    assert set(statuses.values()) == {"RUNNING"}, "a job may outlive its flow run"
    hooks.close_records(None, SimpleNamespace(id=runs, parameters={}), None)
    assert mlflow_runs(case=case)["runs"].info.status == "KILLED"


class FakeJobs:
    def __init__(self, *running: str):
        self.running, self.stopped = set(running), []

    def of(self, asker: str) -> list[str]:
        return [job for job in sorted(self.running) if job.startswith(f"{asker}-")]

    def stop(self, job: str) -> bool:
        self.running.discard(job)
        self.stopped.append(job)
        return True

    def state(self, job: str) -> JobState | None:
        return JobState("running") if job in self.running else JobState("stopped")


def test_a_cancelled_flow_run_stops_its_jobs_and_closes_their_records(
    prefect_api: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow_run_id, client = str(uuid4()), MlflowTracker()._connection.client
    jobs = FakeJobs(f"pf-{flow_run_id}-train-base-1", "pf-other-train-base-1")
    monkeypatch.setattr(hooks, "open_jobs", lambda settings: jobs)
    logged: list[str] = []
    monkeypatch.setattr(hooks, "flow_run_logger", lambda run: SimpleNamespace(info=logged.append))
    experiment = client.get_experiment_by_name("gigagan").experiment_id
    tags = {"prefect.flow_run_id": flow_run_id, "gigagan.job": f"pf-{flow_run_id}-train-base-1"}
    client.create_run(experiment, tags={"mlflow.runName": "train-base", **tags})
    flow_run = SimpleNamespace(
        id=flow_run_id, parameters={"backend": {"kind": "ray-job", "ray_job": {"address": "http://a:1"}}}
    )
    hooks.close_records(None, flow_run, None)
    assert jobs.stopped == [], "a crash stops no job"
    assert mlflow_runs(**{"prefect.flow_run_id": flow_run_id})["train-base"].info.status == "RUNNING"
    hooks.stop_jobs_and_close_records(None, flow_run, None)
    assert jobs.stopped == [f"pf-{flow_run_id}-train-base-1"]
    assert logged == [f"stopped pf-{flow_run_id}-train-base-1"]
    assert mlflow_runs(**{"prefect.flow_run_id": flow_run_id})["train-base"].info.status == "KILLED"


def test_a_sigterm_is_a_cancellation_only_where_prefect_says_so(
    prefect_api: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with get_client(sync_client=True) as client:
        flow_run_id = client.create_flow_run(walking, parameters={}, state=Running()).id
        monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__ID", str(flow_run_id))
        assert is_cancelled() is False
        client.set_flow_run_state(flow_run_id, Cancelling(), force=True)
        assert is_cancelled() is True
    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__ID", str(uuid4()))
    assert is_cancelled() is False, "a server that cannot tell"


def test_a_jobs_record_is_closed_when_its_job_is_over(
    prefect_api: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, case = MlflowTracker()._connection.client, str(uuid4())
    experiment = client.get_experiment_by_name("gigagan").experiment_id
    for job in ("a", "b"):
        tags = {"mlflow.runName": f"job {job}", "gigagan.job": job, "case": case}
        client.create_run(experiment, tags=tags)
    monkeypatch.setattr(hooks, "open_jobs", lambda settings: FakeJobs("a"))
    where = BackendSettings(kind="ray-job")
    hooks.end_left_open(MlflowTracker(), where)
    statuses = {name: run.info.status for name, run in mlflow_runs(case=case).items()}
    assert statuses == {"job a": "RUNNING", "job b": "KILLED"}


def test_the_sum_is_of_what_was_made_and_a_cost_needs_a_price() -> None:
    def line(name: str, cached: bool, **used: Any) -> StageRecord:
        manifest = {"usage": {"cpu_hours": 1.0, "gpu_hours": 0.5, **used}}
        return StageRecord(name, Artifact("s", "k", "f" * 64, 1, "d" * 64, "/x", manifest), cached, 60.0)

    table = records.usage_table([line("a", False), line("b", True)])
    assert table[-1] == {"stage": "in all", "seconds": "120", "cpu_hours": "1", "gpu_hours": "0.5"}
    assert table[1]["gpu_hours"] == "(0.5)"
    priced = records.usage_table([line("a", False, cost=2.0, currency="EUR")])
    assert [row["cost"] for row in priced] == ["2 EUR", "2 EUR"]


def test_every_flow_stops_its_jobs_when_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    assert FLOW["on_cancellation"] == [hooks.stop_jobs_and_close_records]
    assert FLOW["on_crashed"] == [hooks.close_records]
    for path in sorted(Path(promote.__file__).parent.glob("*.py")):
        text = path.read_text()
        assert text.count("@flow(") == text.count(", **FLOW)"), path.name


@pytest.fixture
def gated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], list[Any]]:
    calls: list[Any] = []
    monkeypatch.setattr(promote.references, "report", lambda store, reference: tmp_path / reference)
    monkeypatch.setattr(promote.gates, "pass_gate", lambda *given: calls.append(given) or ["it holds"])
    return lambda: calls


def test_promotion_goes_through_the_gate(
    prefect_api: str, gated: Callable[[], list[Any]], tmp_path: Path
) -> None:
    said = promote.promote(require=["fd<0.2"], report="abc", store=str(tmp_path / "store"), strict=True)
    assert said == ["it holds"]
    assert gated() == [(tmp_path / "abc", ["fd<0.2"], True, ["gigagan-base"], False)]
    with pytest.raises(GigaganError, match="at least one requirement"):
        promote.promote(require=[], store=str(tmp_path / "store"))
    with pytest.raises(GigaganError, match="write FIGURE"):
        promote.promote(require=["nonsense"], store=str(tmp_path / "store"))
