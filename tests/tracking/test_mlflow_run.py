"""What MLflow holds after a run: parent and children, figures by images seen, and how each ended."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gigagan_core import console
from gigagan_core.errors import GigaganError
from gigagan_core.tracking import connection, spool
from gigagan_core.tracking.mlflow_run import MlflowTracker, StageRun, artifact_metrics
from gigagan_core.tracking.null import NullHandle, NullRun, NullTracker
from gigagan_core.tracking.process import Terminated, owner
from gigagan_core.tracking.system_metrics import system_metrics


def artifact(**changes: Any) -> SimpleNamespace:
    """As much of a committed artifact as a record needs."""
    manifest = {
        "created": "2025-01-02T03:04:05.000000+00:00",
        "counts": {"in": 10, "out": 7, "rejected": {"http 404": 2, "too_small": 1}},
        "mlflow": {"run_id": "made-by"},
    }
    values = {
        "stage": "ingest",
        "kind": "shard-set",
        "fingerprint": "f" * 64,
        "short": "f" * 12,
        "attempt": 1,
        "output_digest": "d" * 64,
        "uri": "/store/ingest/fff",
        "manifest": manifest,
        "summary": {"fd_openmoji-judge_32_370": 0.5, "broken": float("nan")},
    }
    return SimpleNamespace(**{**values, **changes})


@pytest.fixture
def tracker(tracking_uri: str) -> MlflowTracker:
    return MlflowTracker(tracking_uri, tags={"prefect.flow_run_id": "1234"})


def client_of(tracker: MlflowTracker) -> Any:
    return tracker._connection.client


def runs_of(tracker: MlflowTracker) -> dict[str, Any]:
    client = client_of(tracker)
    experiment = client.get_experiment_by_name("gigagan")
    return {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}


def test_a_pipeline_run_has_one_child_a_stage_in_the_same_experiment(tracker: MlflowTracker) -> None:
    with (
        tracker.pipeline_run("pipeline", params={"preset": "demo"}) as parent,
        tracker.stage_run("ingest", params={"a.b": 3}) as child,
    ):
        child.log_metrics({"loss/G": 1.5, "loss/D": 0.5}, step=64)
        child.log_metrics({"loss/G": 1.25}, step=128)
        child.finish(artifact())
    runs = runs_of(tracker)
    assert set(runs) == {"pipeline", "ingest"}
    assert runs["ingest"].data.tags["mlflow.parentRunId"] == parent.run_id
    assert runs["ingest"].info.experiment_id == runs["pipeline"].info.experiment_id
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert all(run.data.tags["prefect.flow_run_id"] == "1234" for run in runs.values())
    assert runs["ingest"].data.params == {"a.b": "3"}
    assert runs["ingest"].data.tags["gigagan.fingerprint"] == "f" * 64
    history = client_of(tracker).get_metric_history(child.run_id, "loss/G")
    assert [(point.step, point.value) for point in history] == [(64, 1.5), (128, 1.25)]
    assert runs["ingest"].data.metrics["count/rejected/http_404"] == 2


def test_a_stage_alone_is_a_run_of_its_own(tracker: MlflowTracker, monkeypatch: pytest.MonkeyPatch) -> None:
    # Left behind by another program; the fluent interface would write into that run.
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    with tracker.stage_run("ingest") as run:
        assert run.run_id != "0" * 32
    assert "mlflow.parentRunId" not in runs_of(tracker)["ingest"].data.tags


def test_a_failure_ends_stage_and_pipeline_as_failed_with_the_reason(tracker: MlflowTracker) -> None:
    def fail() -> None:
        with tracker.pipeline_run("pipeline"), tracker.stage_run("ingest"):
            raise GigaganError("caption \x1b[31mred\x1b[0m is bad")

    with pytest.raises(GigaganError):
        fail()
    runs = runs_of(tracker)
    assert {run.info.status for run in runs.values()} == {"FAILED"}
    assert runs["ingest"].data.tags["gigagan.error"] == "GigaganError: caption red is bad"


def test_an_interrupt_ends_stage_and_pipeline_as_killed(tracker: MlflowTracker) -> None:
    def interrupt() -> None:
        with tracker.pipeline_run("pipeline"), tracker.stage_run("ingest"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt()
    assert {run.info.status for run in runs_of(tracker).values()} == {"KILLED"}


def test_sigterm_ends_stage_and_pipeline_as_killed(tracker: MlflowTracker) -> None:
    def be_told_to_stop() -> None:
        with tracker.pipeline_run("pipeline"), tracker.stage_run("ingest"):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)

    with pytest.raises(Terminated):
        be_told_to_stop()
    assert {run.info.status for run in runs_of(tracker).values()} == {"KILLED"}
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


CHILD = """
    import sys, time
    from gigagan_core.tracking.mlflow_run import MlflowTracker
    tracker = MlflowTracker(sys.argv[1])
    with tracker.pipeline_run("pipeline"), tracker.stage_run("ingest"):
        print("started", flush=True)
        time.sleep(60)
"""


def test_what_a_process_killed_by_9_left_open_is_ended_by_the_next_run(
    tracker: MlflowTracker, tracking_uri: str
) -> None:
    with tracker.stage_run("before"):  # the experiment exists, and this process outlives the other
        pass
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(CHILD), tracking_uri], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout.readline() == "started\n"
    child.kill()
    child.wait(30)
    child.stdout.close()
    statuses = {name: run.info.status for name, run in runs_of(tracker).items()}
    assert statuses == {"before": "FINISHED", "pipeline": "RUNNING", "ingest": "RUNNING"}
    after = MlflowTracker(tracking_uri)
    with after.stage_run("after"):
        assert sorted(tags["mlflow.runName"] for tags in after.ended) == ["ingest", "pipeline"]
    statuses = {name: run.info.status for name, run in runs_of(tracker).items()}
    assert statuses == {"before": "FINISHED", "pipeline": "KILLED", "ingest": "KILLED", "after": "FINISHED"}


def test_runs_of_a_living_process_or_another_machine_are_left_alone(tracker: MlflowTracker) -> None:
    with tracker.stage_run("first"):
        client, experiment = client_of(tracker), tracker._experiment_id
        client.create_run(
            experiment, tags={"mlflow.runName": "elsewhere", "gigagan.process": "other-host:1:5"}
        )
        client.create_run(experiment, tags={"mlflow.runName": "alive", "gigagan.process": owner()})
        client.create_run(experiment, tags={"mlflow.runName": "not ours"})
        host, pid, _ = owner().split(":")
        client.create_run(
            experiment, tags={"mlflow.runName": "reused pid", "gigagan.process": f"{host}:{pid}:1"}
        )
    with MlflowTracker(tracker.tracking_uri).stage_run("second"):
        pass
    statuses = {name: run.info.status for name, run in runs_of(tracker).items()}
    assert statuses.pop("reused pid") == "KILLED"
    assert {statuses[name] for name in ("elsewhere", "alive", "not ours")} == {"RUNNING"}


def test_a_cached_stage_says_what_it_reused(tracker: MlflowTracker) -> None:
    with tracker.pipeline_run("pipeline"):
        tracker.record_cached("ingest", artifact())
    run = runs_of(tracker)["ingest"]
    assert run.info.status == "FINISHED"
    assert run.data.tags["gigagan.cached"] == "true"
    assert run.data.tags["gigagan.reused"] == "ffffffffffff, made 2025-01-02T03:04:05"
    assert run.data.tags["gigagan.made_by_run"] == "made-by"
    assert run.data.metrics["fd_openmoji-judge_32_370"] == 0.5


def test_pictures_files_and_data_sets_can_be_read_back(tracker: MlflowTracker, tmp_path: Path) -> None:
    picture = tmp_path / "grid.png"
    Image.fromarray(np.full((8, 8, 3), 200, np.uint8)).save(picture)
    with tracker.stage_run("train-base") as run:
        run.log_image("samples/psi_1", picture, step=64)
        run.log_image("samples/psi_1", np.zeros((8, 8, 3), np.uint8), step=128)
        run.log_artifact(picture, folder="report")
        run.log_dataset("ingest-train", str(tmp_path), "a" * 64, {"in": 3, "out": 2})
    client = client_of(tracker)
    images = [file.path for file in client.list_artifacts(run.run_id, "images")]
    assert any("+step+64+" in path for path in images)
    assert any("+step+128+" in path for path in images)
    assert [file.path for file in client.list_artifacts(run.run_id, "report")] == ["report/grid.png"]
    assert (tmp_path / "mlartifacts" / "gigagan" / run.run_id / "artifacts" / "report" / "grid.png").exists()
    [data] = client.get_run(run.run_id).inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("ingest-train", "a" * 36)
    assert json.loads(data.dataset.profile) == {"in": 3, "out": 2}


def test_a_worker_process_writes_into_the_run_through_its_handle(tracker: MlflowTracker) -> None:
    with tracker.stage_run("train-base") as run:
        worker = pickle.loads(pickle.dumps(run.handle())).open()
        worker.log_metrics({"images_per_second": 12.0}, step=32)
    assert runs_of(tracker)["train-base"].data.metrics == {"images_per_second": 12.0}


def test_a_metric_name_outside_the_alphabet_is_a_defect_and_not_swallowed(tracker: MlflowTracker) -> None:
    with tracker.stage_run("evaluate") as run:
        with pytest.raises(ValueError, match="only letters"):
            run.log_metrics({"fd(judge)": 1.0})
        with pytest.raises(ValueError, match="only letters"):
            run.log_image("a b<script>", np.zeros((4, 4, 3), np.uint8))


class Refusing:
    """The client of an MLflow that has gone away; counts how often it was asked."""

    def __init__(self, client: Any):
        self.client, self.asked, self.away = client, 0, True

    def __getattr__(self, name: str) -> Any:
        if not self.away:
            return getattr(self.client, name)
        self.asked += 1
        raise ConnectionError("[Errno 111] refused \x1b[31m")


def test_mlflow_going_away_in_the_middle_costs_one_warning_and_no_metric(
    tracker: MlflowTracker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "_console", None)
    with tracker.pipeline_run("pipeline"):
        with tracker.stage_run("train-base") as run:
            away = Refusing(client_of(tracker))
            tracker._connection._client = away
            for step in range(5):
                run.log_metrics({"loss": float(step)}, step=step)
            run.log_image("grid", np.zeros((4, 4, 3), np.uint8))
            assert away.asked == 1  # not one blocking try a call
            away.away = False
            monkeypatch.setattr(tracker._connection, "_retry_at", time.monotonic())
            run.log_metrics({"loss": 5.0}, step=5)
        away.away = True
        with tracker.stage_run("evaluate") as unrecorded:
            unrecorded.log_metrics({"x": 1.0})
            assert isinstance(unrecorded, NullRun)
        away.away = False
    history = client_of(tracker).get_metric_history(run.run_id, "loss")
    assert [point.step for point in history] == [0, 1, 2, 3, 4, 5]
    assert runs_of(tracker)["pipeline"].info.status == "FINISHED"
    shown = capsys.readouterr().err
    assert shown.count("did not take") == 2
    assert "answers again" in shown
    assert "\x1b" not in shown


def test_an_mlflow_that_is_restarted_when_a_run_ends_is_waited_for(
    tracker: MlflowTracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "AWAIT_POLL_SECONDS", 0.05)
    with tracker.stage_run("train-base") as run:
        away = Refusing(client_of(tracker))
        tracker._connection._client = away
        run.log_metrics({"loss": 1.0}, step=1)
        back = threading.Timer(0.5, lambda: setattr(away, "away", False))
        back.start()
    back.join()
    assert away.asked > 2
    tracker._connection._client = away.client
    assert client_of(tracker).get_run(run.run_id).info.status == "FINISHED"
    assert [point.step for point in client_of(tracker).get_metric_history(run.run_id, "loss")] == [1]
    assert spool.waiting() == []


def test_one_that_stays_away_is_waited_for_once(
    tracker: MlflowTracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "AWAIT_SECONDS", 0.3)
    monkeypatch.setattr(connection, "AWAIT_POLL_SECONDS", 0.1)
    away = Refusing(client_of(tracker))
    tracker._connection._client = away
    tracker._connection.await_answer()
    assert away.asked > 2
    asked = away.asked
    tracker._connection.await_answer()
    assert away.asked == asked + 1


def test_metrics_that_mlflow_did_not_take_before_the_end_wait_in_a_file_and_are_sent_later(
    tracker: MlflowTracker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(connection, "AWAIT_SECONDS", 0.0)
    with tracker.stage_run("train-base") as run:
        run.log_metrics({"loss": 0.0}, step=0)
        away = Refusing(client_of(tracker))
        tracker._connection._client = away
        for step in range(1, 4):
            run.log_metrics({"loss": float(step), "gap": float("inf")}, step=step)
    assert "records send" in " ".join(capsys.readouterr().err.split())
    (path,) = spool.waiting()
    with path.open("a") as file:
        file.write('["loss", 99.0, 1')  # a kill in the middle of a line
    tracker._connection._client = away.client
    assert spool.send(path) == spool.Sent(run.run_id, tracker.tracking_uri, 6)
    history = client_of(tracker).get_metric_history(run.run_id, "loss")
    assert [(point.step, point.value) for point in history] == [(0, 0.0), (1, 1.0), (2, 2.0), (3, 3.0)]
    assert spool.waiting() == []


def test_a_home_that_cannot_be_written_ends_no_training(
    tracker: MlflowTracker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(connection, "AWAIT_SECONDS", 0.0)
    monkeypatch.setattr(
        Path, "open", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with tracker.stage_run("train-base") as run:
        away = Refusing(client_of(tracker))
        tracker._connection._client = away
        for step in range(3):
            run.log_metrics({"loss": float(step)}, step=step)
        away.away = False
        monkeypatch.setattr(tracker._connection, "_retry_at", time.monotonic())
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("cannot be kept in") == 1
    assert "No space left on device" in said
    history = client_of(tracker).get_metric_history(run.run_id, "loss")
    assert [point.step for point in history] == [0, 1, 2]


@pytest.mark.parametrize("uri", ["postgresql+psycopg2://ana:secret@127.0.0.1:1/mlflow"])
def test_no_password_is_said(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    tracker = MlflowTracker(uri)
    assert tracker.end_left_open(lambda tags: True, "now") == []
    with pytest.raises(
        GigaganError, match=r"MLflow at postgresql\+psycopg2://127\.0\.0\.1:1/mlflow"
    ) as raised:
        tracker._start("x", {})
    assert "secret" not in str(raised.value) + capsys.readouterr().err


def test_the_machine_is_watched_while_a_stage_runs(tracker: MlflowTracker) -> None:
    with tracker.stage_run("train-base") as run, system_metrics(run, seconds=0.2):
        time.sleep(1.0)
    figures = client_of(tracker).get_run(run.run_id).data.metrics
    assert figures["system/system_memory_usage_megabytes"] > 0
    assert "system/cpu_utilization_percentage" in figures
    assert not [thread for thread in threading.enumerate() if thread.name == "system-metrics"]
    with system_metrics(NullRun()):
        assert not [thread for thread in threading.enumerate() if thread.name == "system-metrics"]


def test_metrics_sent_after_all_leave_no_file(
    tracker: MlflowTracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tracker.stage_run("train-base") as run:
        away = Refusing(client_of(tracker))
        tracker._connection._client = away
        run.log_metrics({"loss": 1.0}, step=1)
        assert len(spool.waiting()) == 1
        away.away = False
        monkeypatch.setattr(tracker._connection, "_retry_at", time.monotonic())
        run.log_metrics({"loss": 2.0}, step=2)
        assert spool.waiting() == []


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text("no\n")
    with pytest.raises(GigaganError, match="no file of unsent metrics"):
        spool.send(tmp_path / "x.jsonl")


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "sqlite:////proc/no/such/mlflow.db"])
def test_an_mlflow_that_cannot_be_reached_at_the_start_is_one_sentence(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(GigaganError, match="MLflow") as raised, MlflowTracker(uri).pipeline_run("pipeline"):
        pass
    assert "\n" not in str(raised.value)


def test_counts_and_figures_become_metrics_under_names_that_mlflow_takes() -> None:
    metrics = artifact_metrics(artifact())
    assert metrics == {
        "count/in": 10,
        "count/out": 7,
        "count/rejected/http_404": 2,
        "count/rejected/too_small": 1,
        "fd_openmoji-judge_32_370": 0.5,
    }


def test_the_null_tracker_offers_what_the_mlflow_tracker_does() -> None:
    def public(kind: type) -> set[str]:
        return {name for name in dir(kind) if not name.startswith("_")}

    # `flush` and `end` belong to whoever opened a run, never to a stage.
    assert public(StageRun) - {"flush", "end"} <= public(NullRun)
    assert public(MlflowTracker) <= public(NullTracker)
    with NullTracker().pipeline_run("p"), NullTracker().stage_run("s") as run:
        assert isinstance(pickle.loads(pickle.dumps(run.handle())), NullHandle)
        assert run.handle().open().reference() is None


def test_connecting_creates_nothing_in_the_current_folder(
    tracking_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    with MlflowTracker(tracking_uri).stage_run("ingest") as run:
        run.log_image("grid", np.zeros((4, 4, 3), np.uint8))
    assert os.listdir(folder) == []


def test_the_sqlite_file_of_a_uri_is_told_from_a_server() -> None:
    assert connection.sqlite_path("sqlite:////a/mlflow.db") == "/a/mlflow.db"
    assert connection.sqlite_path("http://host:5000") is None
