"""What breaks, broken on purpose: nothing is lost, nothing is done twice, nothing stays behind.

The work is an ingest, whose settings differ from test to test, so that each has artifacts of its own: partitions are
Ray tasks on the cluster's nodes, committed to S3 one by one, recorded in MLflow.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest

from gigagan_core.config.presets import preset
from gigagan_core.stack import processes
from gigagan_core.stages.sources import tables_of

from .conftest import PipelineRuns
from .relay import Relay
from .report import reported
from .running import Platform, wait_for

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]

# A minute is what it must stand; the tests make do with less unless told otherwise.
S3_AWAY_SECONDS = float(os.environ.get("GIGAGAN_S3_AWAY_SECONDS", "60"))


class Work:
    """An ingest with artifacts of its own on a stack: several partitions, two at a time."""

    def __init__(self, platform: Platform):
        self.platform = platform
        self.name = (
            f"gigagan-test/{uuid4()}"  # how it calls itself to the site is a setting that decides the result
        )
        self.runs: list[str] = []

    def start(self, variables: dict[str, str] | None = None) -> str:
        """Ask the deployment for a run."""
        settings = (f"fetch.user_agent={self.name}", "rows_per_partition=24", "partitions_in_flight=2")
        self.runs.append(
            self.platform.start(
                "ingest/ingest", variables, preset="tiny", split="train", overrides=list(settings)
            )
        )
        return self.runs[-1]

    def partitions(self) -> dict[str, str]:
        """When each committed partition was made, by its fingerprint."""
        found = self.platform.manifests("download")
        return {
            name: each["created"]
            for name, each in found.items()
            if each["parts"]["settings"]["fetch"]["user_agent"] == self.name
        }

    def shard_sets(self) -> list[dict[str, Any]]:
        """The results."""
        found = self.platform.manifests("ingest").values()
        return [each for each in found if each["settings"]["fetch"]["user_agent"] == self.name]

    def under_way(self) -> dict[str, str]:
        """Wait for the first committed partition; gives those that are there."""
        before = wait_for("a first partition", self.partitions)
        assert not self.shard_sets(), "too late to disturb it"
        return before

    def check(self, before: dict[str, str]) -> None:
        """Everything was made, and made once: what `before` holds was kept as it was."""
        (made,) = self.shard_sets()
        partitions = self.partitions()
        assert before.items() <= partitions.items()
        assert sorted(made["notes"]["partitions"]) == sorted(partitions)
        assert made["attempt"] == 1
        assert made["counts"]["in"] == made["counts"]["out"] + sum(made["counts"]["rejected"].values())
        worked = [
            run
            for run in self.platform.mlflow_runs()
            if run["tags"].get("prefect.flow_run_id") in self.runs and "gigagan.cached" not in run["tags"]
        ]
        statuses = Counter(run["status"] for run in worked)
        assert statuses["FINISHED"] == 1, statuses
        assert statuses["RUNNING"] == 0, statuses


@pytest.fixture
def work(whole: Platform) -> Iterator[Work]:
    """Work to disturb; after it none of its runs is open anywhere, and no process of a run is left."""
    work = Work(whole)
    yield work
    unfinished = whole.flow_runs("RUNNING", "PENDING", "SCHEDULED", "CANCELLING")
    left = [run["id"] for run in unfinished if run["id"] in work.runs]
    for run in left:  # of a test that has failed: the next one shall not wait for it
        whole.set_state(run, "CANCELLING")
    assert left == []
    ours = [run for run in whole.mlflow_runs() if run["tags"].get("prefect.flow_run_id") in work.runs]
    assert [run["id"] for run in ours if run["status"] == "RUNNING"] == []
    wait_for("no process of a run", lambda: not run_processes(whole, work.runs), seconds=60)


def run_processes(platform: Platform, runs: list[str]) -> list[psutil.Process]:
    """Processes that execute, or belong to, one of these flow runs."""
    wanted = [f"PREFECT__FLOW_RUN_ID={run}".encode() for run in runs]
    found = []
    for process in platform.processes():
        try:
            variables = Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if any(each in variables for each in wanted):
            found.append(process)
    return found


def kill(process: psutil.Process) -> None:
    process.send_signal(signal.SIGKILL)


def test_the_flow_process_is_killed(work: Work) -> None:
    with reported("flow process killed", "`kill -9` of the process that executes the flow run") as fault:
        first = work.start()
        before = work.under_way()
        kill(work.platform.process_of(first))
        fault.struck()
        assert work.platform.wait(first) == "CRASHED"
        fault.served()
        again = work.start()
        assert work.platform.wait(again) == "COMPLETED", work.platform.log_of(again)
        fault.complete(
            "the worker marks the run Crashed; the next run of the deployment goes on where it was"
        )
        work.check(before)


def test_the_worker_is_killed(work: Work) -> None:
    with reported("worker killed", "`kill -9` of the Prefect worker") as fault:
        run = work.start()
        before = work.under_way()
        restarts = work.platform.restarts("worker")
        kill(work.platform.service("worker"))
        fault.struck()
        wait_for("a new worker", lambda: work.platform.restarts("worker") > restarts)
        work.platform.wait_until_whole()
        fault.served()
        assert work.platform.wait(run) == "COMPLETED", work.platform.log_of(run)
        fault.complete(
            "the flow run goes on without it and completes; the supervisor starts the worker again"
        )
        work.check(before)


def test_worker_and_flow_process_are_killed_together(work: Work) -> None:
    with reported(
        "worker and flow process killed together", "`kill -9` of both, as when a machine goes"
    ) as fault:
        lost = work.start()
        before = work.under_way()
        flow = work.platform.process_of(lost)
        kill(work.platform.service("worker"))
        kill(flow)
        fault.struck()
        time.sleep(1)
        work.platform.wait_until_whole()
        fault.served()
        assert work.platform.state(lost) == "RUNNING", "nobody was left to say that it has died"
        again = work.start()
        assert work.platform.wait(again) == "COMPLETED", work.platform.log_of(again)
        assert work.platform.state(lost) == "CRASHED"
        fault.complete(
            "the next run on this machine marks the lost one Crashed, its MLflow run KILLED, and goes on"
        )
        work.check(before)


def test_a_ray_worker_node_is_killed(work: Work) -> None:
    with reported("Ray worker node killed", "`kill -9` of the raylet of one of two nodes") as fault:
        run = work.start()
        before = work.under_way()
        kill(work.platform.part("ray-worker-1", "raylet/raylet"))
        fault.struck()
        time.sleep(2)
        work.platform.wait_until_whole()
        fault.served()
        assert work.platform.wait(run) == "COMPLETED", work.platform.log_of(run)
        fault.complete("Ray starts the node's tasks again on the other node; the node comes back")
        work.check(before)


def test_the_ray_head_is_killed(work: Work) -> None:
    with reported("Ray head killed", "`kill -9` of the head's GCS server") as fault:
        run = work.start()
        before = work.under_way()
        kill(work.platform.part("ray-head", "gcs_server"))
        fault.struck()
        time.sleep(2)
        work.platform.wait_until_whole()
        fault.served()
        state = work.platform.wait(run)
        assert state in ("FAILED", "CRASHED"), f"{state}: its cluster has gone"
        again = work.start()
        assert work.platform.wait(again) == "COMPLETED", work.platform.log_of(again)
        fault.complete(
            f"head and nodes start again; the flow run ends {state.title()}, and the next one goes on where it was"
        )
        work.check(before)


def test_the_mlflow_server_is_killed(work: Work) -> None:
    with reported("MLflow server killed", "`kill -9` of the server's first process") as fault:
        run = work.start()
        before = work.under_way()
        kill(work.platform.service("mlflow"))
        fault.struck()
        time.sleep(1)
        work.platform.wait_until_whole()
        fault.served()
        assert work.platform.wait(run) == "COMPLETED", work.platform.log_of(run)
        fault.complete("the work goes on; metrics wait and are sent when the server is back")
        work.check(before)


def test_postgresql_is_restarted(work: Work) -> None:
    with reported(
        "PostgreSQL restarted", "fast shutdown, under Prefect and MLflow; then it starts again"
    ) as fault:
        run = work.start()
        before = work.under_way()
        work.platform.service("postgres").send_signal(signal.SIGINT)
        fault.struck()
        time.sleep(1)
        work.platform.wait_until_whole()
        fault.served()
        assert work.platform.wait(run) == "COMPLETED", work.platform.log_of(run)
        fault.complete("both servers connect again, requests are repeated; the flow run completes")
        work.check(before)


def test_s3_refuses_for_a_while(work: Work) -> None:
    done = f"connections refused for {S3_AWAY_SECONDS:.0f} s while partitions are committed"
    with Relay(work.platform.folder.read().ports["s3"]) as relay, reported("S3 refusing", done) as fault:
        run = work.start({"AWS_ENDPOINT_URL": relay.address})
        before = work.under_way()
        assert relay.served > 0, "the flow run goes through the relay"
        relay.refuse()
        fault.struck()
        time.sleep(S3_AWAY_SECONDS)
        assert not work.shard_sets()
        relay.accept_again()
        fault.served()
        assert work.platform.wait(run) == "COMPLETED", work.platform.log_of(run)
        fault.complete("commits are tried again until it answers; the flow run completes")
        work.check(before)


@pytest.fixture
def small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A disk with the tables of the work on it, and 30 kB left: too little for one partition."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    monkeypatch.setenv("GIGAGAN_HOME", str(folder))
    tables_of(preset("tiny").source)
    (folder / "filler").write_bytes(b"\0" * (shutil.disk_usage(folder).free - 30_000))
    yield folder
    # Lazily: after a failure a process may be at work there still.
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk(work: Work, small_disk: Path) -> None:
    with reported("disk full", "the folder of unfinished work on a disk with 30 kB left") as fault:
        home = {"GIGAGAN_HOME": str(small_disk)}
        fault.struck()
        run = work.start(home)
        assert work.platform.wait(run) == "FAILED"
        sentence = f"no space left on the disk of {small_disk}"
        # A log's last lines come to Prefect some seconds after the state.
        wait_for("the sentence in the log", lambda: sentence in work.platform.log_of(run), seconds=60)
        assert not work.shard_sets()
        before = work.partitions()
        (small_disk / "filler").unlink()
        fault.served()
        again = work.start(home)
        assert work.platform.wait(again) == "COMPLETED", work.platform.log_of(again)
        fault.complete("the flow run fails with one sentence; with space again the next run goes on")
        work.check(before)


def test_a_run_is_cancelled_from_the_page(work: Work) -> None:
    with reported("cancelled from the page", "the request of the page's Cancel button") as fault:
        run = work.start()
        before = work.under_way()
        work.platform.set_state(run, "CANCELLING")
        fault.struck()
        # The flow's process says first that a signal has ended it (Crashed), then the worker that it was cancelled.
        wait_for("the run cancelled", lambda: work.platform.state(run) == "CANCELLED")
        wait_for("its processes to end", lambda: not run_processes(work.platform, [run]), seconds=90)
        fault.served()
        ended = [
            each for each in work.platform.mlflow_runs() if each["tags"].get("prefect.flow_run_id") == run
        ]
        assert [each["status"] for each in ended] == ["KILLED"]
        again = work.start()
        assert work.platform.wait(again) == "COMPLETED", work.platform.log_of(again)
        fault.complete(
            "processes and Ray tasks end, the MLflow run is KILLED; the next run goes on where it was"
        )
        work.check(before)


def test_the_same_deployment_twice_at_once_and_once_more(work: Work) -> None:
    with reported(
        "same deployment twice at once", "two runs with the same parameters, then a third"
    ) as fault:
        one, other = work.start(), work.start()
        fault.struck()
        for run in (one, other):
            assert work.platform.wait(run) == "COMPLETED", work.platform.log_of(run)
        fault.served()
        third = work.start()
        assert work.platform.wait(third) == "COMPLETED", work.platform.log_of(third)
        # Prefect's log lines arrive a moment after the state.
        wait_for("the log", lambda: "is used again" in work.platform.log_of(third), seconds=30)
        fault.complete(
            "one run works, the other waits for its lease and finds the work done; the third finds it too"
        )
        work.check({})


def test_a_ray_node_is_killed_while_it_trains(pipeline_runs: PipelineRuns, whole: Platform) -> None:
    schedule = {"total_images": 2048, "checkpoint_every_images": 128}
    overrides = [f"training.schedule.{name}={value}" for name, value in schedule.items()]
    with reported(
        "Ray node killed under training", "`kill -9` of the raylet under the training worker"
    ) as fault:
        run = whole.start("train-base/train-base", preset="tiny", overrides=overrides)
        node = wait_for("a training worker", lambda: training_node(whole))
        wait_for(
            "a checkpoint", lambda: list(whole.home.glob("work/*/*/ray/train/checkpoint_*/checkpoint.json"))
        )
        kill(whole.part(node, "raylet/raylet"))
        fault.struck()
        time.sleep(2)
        whole.wait_until_whole()
        fault.served()
        assert whole.wait(run) == "COMPLETED", whole.log_of(run)
        fault.complete(
            "Ray Train starts the worker on the other node, from the newest checkpoint; training completes"
        )
    models = whole.manifests("train-base").values()
    (made,) = [each for each in models if each["settings"]["training"]["schedule"]["total_images"] == 2048]
    assert made["attempt"] == 1
    assert {each["status"] for each in whole.mlflow_runs()} <= {"FINISHED", "FAILED", "KILLED"}


def training_node(platform: Platform) -> str | None:
    """The Ray node on which a training worker runs."""
    for name in ("ray-worker-1", "ray-worker-2"):
        for process in processes.family(platform.service(name).pid):
            with contextlib.suppress(psutil.Error):
                if "RayTrainWorker" in " ".join(process.cmdline()):
                    return name
    return None
