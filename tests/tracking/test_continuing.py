"""A retry goes on with the records of the try before it, and what is over does not stay RUNNING."""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from gigagan_core.errors import GigaganError
from gigagan_core.tracking import process
from gigagan_core.tracking.connection import Connection
from gigagan_core.tracking.mlflow_run import MlflowTracker
from gigagan_core.tracking.process import is_alive, is_dead, owner

TAGS = {"gigagan.stage": "ingest", "gigagan.fingerprint": "f" * 64}


def tracker_of(tracking_uri: str, flow_run: str) -> MlflowTracker:
    return MlflowTracker(
        tracking_uri, tags={"prefect.flow_run_id": flow_run}, continue_by="prefect.flow_run_id"
    )


def runs_of(tracker: MlflowTracker) -> list[Any]:
    client = tracker._connection.client
    return client.search_runs([client.get_experiment_by_name("gigagan").experiment_id])


def fail(tracker: MlflowTracker) -> None:
    with tracker.pipeline_run("pipeline"), tracker.stage_run("ingest", tags=TAGS) as run:
        run.log_metrics({"loss": 1.0}, step=1)
        raise GigaganError("the network is away")


def test_a_retry_goes_on_with_the_same_runs(tracking_uri: str) -> None:
    with pytest.raises(GigaganError):
        fail(tracker_of(tracking_uri, "1"))
    again = tracker_of(tracking_uri, "1")
    with again.pipeline_run("pipeline"), again.stage_run("ingest", tags=TAGS) as run:
        run.log_metrics({"loss": 0.5}, step=2)
    runs = runs_of(again)
    assert sorted(each.info.run_name for each in runs) == ["ingest", "pipeline"]
    assert {each.info.status for each in runs} == {"FINISHED"}
    assert not any("gigagan.error" in each.data.tags for each in runs)
    history = again._connection.client.get_metric_history(run.run_id, "loss")
    assert [point.step for point in history] == [1, 2]


def test_another_flow_run_other_work_and_finished_work_get_runs_of_their_own(tracking_uri: str) -> None:
    with pytest.raises(GigaganError):
        fail(tracker_of(tracking_uri, "1"))
    other = tracker_of(tracking_uri, "2")
    with other.pipeline_run("pipeline"), other.stage_run("ingest", tags=TAGS):
        pass
    again = tracker_of(tracking_uri, "1")
    with again.pipeline_run("pipeline"):
        for _ in range(2):  # the second one is forced, once the first is done
            with again.stage_run("ingest", tags={**TAGS, "gigagan.fingerprint": "e" * 64}):
                pass
    names = sorted(each.info.run_name for each in runs_of(again))
    assert names == ["ingest"] * 4 + ["pipeline"] * 2
    assert sorted(each.info.status for each in runs_of(again)) == ["FAILED"] + ["FINISHED"] * 5


def test_a_stage_that_the_first_try_finished_is_not_recorded_twice(tracking_uri: str) -> None:
    artifact = SimpleNamespace(
        stage="ingest",
        kind="shard-set",
        fingerprint="f" * 64,
        short="f" * 12,
        attempt=1,
        output_digest="d" * 64,
        uri="/store/ingest",
        manifest={"created": "2025-01-02T03:04:05"},
        summary={},
    )
    first = tracker_of(tracking_uri, "1")
    with first.pipeline_run("pipeline"), first.stage_run("ingest", tags=TAGS) as made:
        made.finish(artifact)
    again = tracker_of(tracking_uri, "1")
    with again.pipeline_run("pipeline"):
        assert again.record_cached("ingest", artifact).run_id == made.run_id
        # Under another name it is another stage's answer.
        assert again.record_cached("ingest heldout", artifact).run_id != made.run_id


@pytest.mark.parametrize("alone", [True, False])
def test_an_earlier_try_is_looked_for_wherever_there_may_be_one(
    tracking_uri: str, alone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tracker() -> MlflowTracker:
        return MlflowTracker(
            tracking_uri, tags={"prefect.flow_run_id": "1"}, continue_by="prefect.flow_run_id", alone=alone
        )

    with pytest.raises(GigaganError):
        fail(tracker())
    again = tracker()
    with again.pipeline_run("pipeline"), again.stage_run("ingest", tags=TAGS):
        pass
    assert sorted(each.info.run_name for each in runs_of(again)) == ["ingest", "pipeline"]
    other = MlflowTracker(
        tracking_uri, tags={"prefect.flow_run_id": "2"}, continue_by="prefect.flow_run_id", alone=alone
    )
    asked: list[str] = []
    ask = Connection.ask
    monkeypatch.setattr(
        Connection, "ask", lambda self, method, *a, **k: (asked.append(method), ask(self, method, *a, **k))[1]
    )
    with other.pipeline_run("pipeline"):
        before = asked.count("search_runs")
        with other.stage_run("ingest", tags=TAGS):
            pass
    # A job of the first try may have recorded meanwhile; alone, nobody has.
    assert asked.count("search_runs") - before == (0 if alone else 1)


def test_a_job_elsewhere_records_under_the_same_parent(tracking_uri: str) -> None:
    here = tracker_of(tracking_uri, "1")
    with here.pipeline_run("pipeline") as parent:
        reference = pickle.loads(pickle.dumps(here.reference()))
        there = MlflowTracker.of(reference, {"gigagan.job": "pf-1-ingest"})
        with there.stage_run("ingest", tags=TAGS) as run:
            pass
    tags = {each.info.run_id: each.data.tags for each in runs_of(here)}
    assert tags[run.run_id]["mlflow.parentRunId"] == parent.run_id
    assert tags[run.run_id]["gigagan.job"] == "pf-1-ingest"
    assert tags[run.run_id]["prefect.flow_run_id"] == "1"


def test_only_what_is_over_is_ended(tracking_uri: str) -> None:
    tracker = tracker_of(tracking_uri, "1")
    with tracker.stage_run("done"):
        client, experiment = tracker._connection.client, tracker._experiment_id
        for name, flow_run in (("over", "7"), ("runs", "8")):
            client.create_run(experiment, tags={"mlflow.runName": name, "prefect.flow_run_id": flow_run})
        ended = tracker.end_left_open(lambda tags: tags.get("prefect.flow_run_id") == "7", "it is over")
        assert [tags["mlflow.runName"] for tags in ended] == ["over"]
    found = {each.info.run_name: each for each in runs_of(tracker)}
    assert {name: run.info.status for name, run in found.items()} == {
        "over": "KILLED",
        "runs": "RUNNING",
        "done": "FINISHED",
    }
    assert found["over"].data.tags["gigagan.error"] == "it is over"
    assert tracker.end_left_open(lambda tags: True, "now", {"prefect.flow_run_id": "9"}) == []


def test_records_that_cannot_be_closed_cost_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    tracker = MlflowTracker("sqlite:////proc/no/such/mlflow.db")
    assert tracker.end_left_open(lambda tags: True, "now") == []
    assert "did not close runs" in capsys.readouterr().err


def test_a_process_that_cannot_be_seen_is_neither_dead_nor_alive() -> None:
    here = owner()
    host, pid, _ = here.split(":")
    ended = subprocess.Popen([sys.executable, "-c", "pass"])
    ended.wait()
    assert (is_alive(here), is_dead(here)) == (True, False)
    assert (is_alive(f"{host}:{ended.pid}:5"), is_dead(f"{host}:{ended.pid}:5")) == (False, True)
    # Another container with the same host name: its pid 1 is not ours.
    elsewhere = f"{socket.gethostname()}/1:{pid}:5"
    for name in (elsewhere, f"other:{os.getpid()}:5", "", "nonsense"):
        assert (is_alive(name), is_dead(name)) == (False, False), name


def test_without_proc_a_process_is_still_known_by_pid_and_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_pid_namespace", lambda: "")
    assert is_alive(owner())
