"""What a flow run leaves behind: Prefect's tasks, tables and pictures, MLflow's runs, and links between them."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId, LogFilter, LogFilterFlowRunId
from prefect.client.schemas.sorting import TaskRunSort

from flows import records
from flows.ingest import ingest
from flows.runtime import Run, open_run, send_what_waits, stage_task
from gigagan_core.config.base import Settings
from gigagan_core.errors import GigaganError
from gigagan_core.stages.base import Outcome, RunContext, StageRecord, StageSpec, StageWork, materialise
from gigagan_core.store.artifact import Artifact
from gigagan_core.tracking.mlflow_run import MlflowTracker

SPEC = StageSpec("ingest", kind="shard-set", module="gigagan_core.text")
HOSTILE = "<script>alert(1)</script> | [x](javascript:alert(1)) \x1b[31m"


class PaintSettings(Settings):
    red: int = 200
    end: str = "well"


def paint(work: StageWork) -> Outcome:
    if work.settings.end == "badly":
        raise GigaganError(f"caption {HOSTILE!r} is bad")
    if work.settings.end == "interrupted":
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("not reached")
    if work.settings.end == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    Image.new("RGB", (64, 64), (work.settings.red, 0, 0)).save(work.output / "samples.png")
    work.run.log_image("samples", work.output / "samples.png", step=3)
    return Outcome(
        counts={"in": 3, "out": 2, "rejected": {HOSTILE: 1}},
        summary={"share": 2 / 3},
        notes={"attribution": HOSTILE},
    )


@stage_task(name="paint", task_run_name="paint {settings.red}")
def paint_stage(run: Run, settings: PaintSettings, data: Artifact | None) -> Artifact:
    def stage_run(settings: PaintSettings, inputs: Any, context: RunContext) -> Artifact:
        return materialise(SPEC, settings, inputs, context, paint)

    return run.stage(stage_run, settings, {"data": data})


@flow(name="painting", persist_result=False)
def painting(name: str, store: str, red: int, end: str = "well") -> str:
    with open_run(name, store, as_parent=True, params={"red": red}) as run:
        first = paint_stage(run, PaintSettings(red=red), None)
        return paint_stage(run, PaintSettings(red=red + 1, end=end), first).fingerprint


Ran = tuple[Any, list[Any], dict[str, Any], dict[str, Any]]


@pytest.fixture
def ran(prefect_api: str, tmp_path: Path) -> Callable[..., Ran]:
    """Run the flow; gives its Prefect run, task runs, artifacts by key, and MLflow runs by name."""

    def run(**parameters: Any) -> Ran:
        name = f"painting {uuid4()}"
        state = painting(name=name, store=str(tmp_path / "store"), return_state=True, **parameters)
        return look(name, state.state_details.flow_run_id)

    return run


def look(name: str, flow_run_id: Any) -> Ran:
    only_this = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id]))
    with get_client(sync_client=True) as client:
        deadline = time.monotonic() + 30  # task runs are recorded from events, a moment later
        while True:
            flow_run = client.read_flow_run(flow_run_id)
            task_runs = client.read_task_runs(
                flow_run_filter=only_this, sort=TaskRunSort.EXPECTED_START_TIME_ASC
            )
            if all(run.state.is_final() for run in task_runs) or time.monotonic() > deadline:
                break
            time.sleep(0.2)
        found = client.read_artifacts(flow_run_filter=only_this)
    mlflow = MlflowTracker()._connection.client
    experiment = mlflow.get_experiment_by_name("gigagan").experiment_id
    [parent] = mlflow.search_runs([experiment], f"attributes.run_name = '{name}'")
    children = mlflow.search_runs([experiment], f"tags.mlflow.parentRunId = '{parent.info.run_id}'")
    runs = {"parent": parent, **{str(index): run for index, run in enumerate(reversed(children))}}
    return flow_run, task_runs, {artifact.key: artifact for artifact in found if artifact.key}, runs


def test_a_run_leaves_tasks_tables_pictures_and_links(ran: Callable[..., Ran], ui: Any) -> None:
    flow_run, tasks, artifacts, runs = ran(red=10)
    assert flow_run.state.name == "Completed"
    assert [task.name for task in tasks] == ["paint 10", "paint 11"]
    # MLflow names the Prefect run, and Prefect's page links to the MLflow run.
    assert {run.data.tags["prefect.flow_run_id"] for run in runs.values()} == {str(flow_run.id)}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert len(runs) == 3
    link = artifacts["mlflow-run"].data
    assert f"{ui.mlflow}/#/experiments/" in link
    assert runs["parent"].info.run_id in link
    result = artifacts["ingest-result"].data
    assert "data:image/png;base64," in result
    assert "0.666667" in result
    rows = [row["rows"] for row in json.loads(artifacts["ingest-counts"].data)]
    assert rows[:2] == ["in", "out"]
    assert rows[2].startswith("rejected: ·script·alert")


def test_a_link_to_mlflow_leads_where_a_browser_gets_and_shows_no_password(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GIGAGAN_HOME", str(tmp_path))
    reference = {"experiment_id": "1", "run_id": "r"}
    page = "#/experiments/1/runs/r"
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("GIGAGAN_MLFLOW_UI_URL", raising=False)
    assert records.mlflow_link(reference) == f"[r](http://127.0.0.1:5000/{page}) (served by `make ui`)"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://ann:secret@mlflow.mlflow.svc:5000/")
    assert records.mlflow_link(reference) == f"[r](https://mlflow.mlflow.svc:5000/{page})"
    # The same address as a `make ui` would have, and a server is there.
    monkeypatch.setenv("GIGAGAN_MLFLOW_UI_URL", "http://127.0.0.1:5000")
    assert records.mlflow_link(reference) == f"[r](http://127.0.0.1:5000/{page})"


def test_a_strangers_text_is_harmless_on_prefects_page(ran: Callable[..., Ran]) -> None:
    _, _, artifacts, _ = ran(red=20)
    for artifact in artifacts.values():
        text = f"{artifact.data} {artifact.description}"
        assert "<script" not in text
        assert "](javascript" not in text
        assert "\x1b" not in text
        assert "u001b" not in text


def test_a_second_run_reuses_and_says_so(ran: Callable[..., Ran]) -> None:
    ran(red=30)
    _, tasks, artifacts, runs = ran(red=30)
    # Our store decides: Prefect ran both tasks, and nothing came from its own cache.
    assert [task.state.name for task in tasks] == ["Completed", "Completed"]
    assert "**Cached**" in artifacts["ingest-result"].data
    children = [run for name, run in runs.items() if name != "parent"]
    assert [run.data.tags["gigagan.cached"] for run in children] == ["true", "true"]
    assert all(run.data.tags["gigagan.reused"] for run in children)


def test_a_withdrawn_release_is_in_the_runs_log_though_the_run_comes_to_nothing(
    prefect_api: str, tmp_path: Path
) -> None:
    laion = {"URL": ["file:///x"], "TEXT": ["a cat"], "WIDTH": [640], "HEIGHT": [480]}
    laion |= {"similarity": [0.3], "hash": [1], "punsafe": [0.1], "pwatermark": [0.1]}
    pq.write_table(pa.table(laion), tmp_path / "laion.parquet")
    state = ingest(
        metadata=str(tmp_path / "laion.parquet"),
        store=str(tmp_path / "store"),
        overrides=["ray_tasks=false"],
        return_state=True,
    )
    assert state.is_failed()
    assert "none of 1 rows is left (not_http 1)" in state.message
    send_what_waits()
    wanted = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[state.state_details.flow_run_id]))
    with get_client(sync_client=True) as client:
        deadline = time.monotonic() + 30
        while not (lines := warnings_in(client.read_logs(wanted))) and time.monotonic() < deadline:
            time.sleep(0.2)
    (line,) = lines
    assert "tables of laion2B-en-joined belong to a release that LAION withdrew" in line
    assert "Re-LAION" in line


def warnings_in(logs: list[Any]) -> list[str]:
    return [log.message for log in logs if log.level == logging.WARNING and "LAION" in log.message]


def test_a_failure_ends_every_record_as_failed(ran: Callable[..., Ran]) -> None:
    flow_run, tasks, _, runs = ran(red=40, end="badly")
    assert flow_run.state.name == "Failed"
    assert [task.state.name for task in tasks] == ["Completed", "Failed"]
    assert sorted(run.info.status for run in runs.values()) == ["FAILED", "FAILED", "FINISHED"]
    assert "GigaganError: caption" in runs["parent"].data.tags["gigagan.error"]


def test_ctrl_c_ends_every_record_as_stopped(prefect_api: str, tmp_path: Path) -> None:
    name = f"painting {uuid4()}"
    with pytest.raises(KeyboardInterrupt):
        painting(name=name, store=str(tmp_path / "store"), red=50, end="interrupted")
    mlflow = MlflowTracker()._connection.client
    [parent] = mlflow.search_runs(
        [mlflow.get_experiment_by_name("gigagan").experiment_id], f"attributes.run_name = '{name}'"
    )
    flow_run, tasks, _, runs = look(name, parent.data.tags["prefect.flow_run_id"])
    assert flow_run.state.type.value == "CRASHED"
    assert [task.state.type.value for task in tasks] == ["COMPLETED", "CRASHED"]
    assert sorted(run.info.status for run in runs.values()) == ["FINISHED", "KILLED", "KILLED"]


KILLED = """
import sys
sys.path.insert(0, sys.argv[1])
from test_records import painting
painting(name=sys.argv[2], store=sys.argv[3], red=60, end="killed")
"""


def test_what_a_killed_flow_left_running_is_ended_by_the_next_one(
    prefect_api: str, ran: Callable[..., Ran], tmp_path: Path
) -> None:
    name = f"painting {uuid4()}"
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(Path(__file__).parent), name, str(tmp_path / "store")],
        env={**os.environ, "PREFECT_API_URL": f"{prefect_api}/api"},
        capture_output=True,
    )
    assert done.returncode == -signal.SIGKILL
    ran(red=60)
    mlflow = MlflowTracker()._connection.client
    experiment = mlflow.get_experiment_by_name("gigagan").experiment_id
    [parent] = mlflow.search_runs([experiment], f"attributes.run_name = '{name}'")
    flow_run, tasks, _, runs = look(name, parent.data.tags["prefect.flow_run_id"])
    assert flow_run.state.type.value == "CRASHED"
    assert sorted(task.state.type.value for task in tasks) == ["COMPLETED", "CRASHED"]
    assert sorted(run.info.status for run in runs.values()) == ["FINISHED", "KILLED", "KILLED"]


def test_counts_stand_by_reason_the_most_frequent_first() -> None:
    counts = {"in": 10, "out": 5, "rejected": {"http_404": 1, "timeout": 4}}
    table = records.counts_table(counts)
    assert [(row["rows"], row["number"], row["share"]) for row in table] == [
        ("in", 10, "100.0%"),
        ("out", 5, "50.0%"),
        ("rejected: timeout", 4, "40.0%"),
        ("rejected: http_404", 1, "10.0%"),
    ]


def test_a_large_picture_is_shrunk_before_it_goes_into_a_page(tmp_path: Path) -> None:
    noise = Image.frombytes("RGB", (900, 900), os.urandom(900 * 900 * 3))
    noise.save(tmp_path / "samples.png")
    assert len(records.data_uri(tmp_path / "samples.png")) < records.PICTURE_BYTES * 1.4


def test_a_trainings_last_sample_grid_is_the_one_shown(tmp_path: Path) -> None:
    files = ["bundle/model.safetensors", "samples/000000064.png", "samples/000000128.png", "curves.json"]
    manifest = {"files": {name: {} for name in files}, "created": "", "summary": {}}
    artifact = Artifact("train-base", "base-model", "f" * 64, 1, "d" * 64, str(tmp_path), manifest)
    assert [path.name for path in records.pictures(artifact)] == ["000000128.png"]


def test_a_stages_end_is_one_line_in_the_log(tmp_path: Path) -> None:
    manifest = {"created": "2025-01-02T03:04:05.1+00:00", "counts": {"in": 3, "out": 2}, "summary": {}}
    artifact = Artifact("ingest", "shard-set", "f" * 64, 1, "d" * 64, str(tmp_path), manifest)
    made = records.sentence(StageRecord(f"ingest {HOSTILE}\n", artifact, cached=False, seconds=1.25))
    assert "\n" not in made
    assert "\x1b" not in made
    assert made.endswith(": made ffffffffffff; 2 of 3 kept; 1.2 s")
    reused = records.sentence(StageRecord("ingest", artifact, cached=True, seconds=0.0))
    assert reused == "ingest: cached, ffffffffffff of 2025-01-02T03:04:05 is used again; 2 of 3 kept; 0.0 s"


def test_work_outlives_a_prefect_that_is_away_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    made, away = [], True

    def create(**given: Any) -> str:
        if away:
            raise ConnectionError("[Errno 111] Connection refused")
        made.append(given["progress"])
        return "an id"

    monkeypatch.setattr(records, "create_progress_artifact", create)
    page = records.ProgressPage()
    for share in (0.1, 0.2, 0.3):
        page("ingest: fetching", share, {})
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("Prefect does not answer (ConnectionError: [Errno 111] Connection refused)") == 1
    away = False
    page("ingest: fetching", 0.4, {})
    assert made == [40.0]


def test_progress_is_one_artifact_that_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    made, moved = [], []
    monkeypatch.setattr(records, "create_progress_artifact", lambda **given: made.append(given) or "an id")
    monkeypatch.setattr(
        records, "update_progress_artifact", lambda which, **given: moved.append((which, given))
    )
    page = records.ProgressPage()
    page("ingest train: fetching", 0.25, {"success": "94.0%", "http_404": 3})
    page("ingest train: fetching", 1.5, {"<script>": 1})
    page("ingest heldout: fetching", 0.0, {})
    assert [given["progress"] for given in made] == [25.0, 0.0]
    assert made[0]["key"] == "ingest-train-fetching-progress"
    assert "http_404 3" in made[0]["description"]
    ((which, given),) = moved
    assert (which, given["progress"]) == ("an id", 100.0)
    assert "<script>" not in given["description"]
