"""The way to production on a real Prefect server: both pools deployed, triggers on, and events that start flow runs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.events.worker import EventsWorker

from flows import events
from gigagan_core.stages.base import StageRecord
from gigagan_core.store.artifact import Artifact

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


def prefect(api: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", *arguments],
        cwd=ROOT,
        env={**os.environ, "PREFECT_API_URL": f"{api}/api", "GIGAGAN_ROOT": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def deployed(prefect_api: str, tmp_path: Path) -> dict[str, Any]:
    """Every deployment of both pools, by flow and name, those of the local pool with their triggers on."""
    document = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    for deployment in document["deployments"]:
        for trigger in deployment.get("triggers", []):
            trigger["enabled"] = deployment["work_pool"]["name"] == "local"
    file = tmp_path / "prefect.yaml"
    file.write_text(yaml.safe_dump(document))
    template = str(ROOT / "infra" / "kubernetes" / "work-pool.json")
    prefect(prefect_api, "work-pool", "create", "local", "--type", "process", "--overwrite")
    prefect(
        prefect_api,
        *("work-pool", "create", "kubernetes", "--type", "kubernetes"),
        *("--base-job-template", template, "--overwrite"),
    )
    prefect(prefect_api, "deploy", "--all", "--prefect-file", str(file))
    with get_client(sync_client=True) as client:
        flows = {flow.id: flow.name for flow in client.read_flows()}
        return {f"{flows[each.flow_id]}/{each.name}": each for each in client.read_deployments()}


def runs_of(deployment: Any) -> list[Any]:
    with get_client(sync_client=True) as client:
        return [run for run in client.read_flow_runs() if run.deployment_id == deployment.id]


def test_everything_deploys_and_each_event_starts_the_next_flow_with_its_parameters(
    deployed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    declared = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    assert len(deployed) >= len(declared)
    assert deployed["train-base/kubernetes"].work_pool_name == "kubernetes"
    assert deployed["train-base/kubernetes"].job_variables["memory_limit"] == "8Gi"
    assert deployed["ingest/nightly"].schedules[0].active is False
    assert deployed["train-base/train-base"].concurrency_options.collision_strategy.value == "ENQUEUE"
    curated = Artifact("curate", "shard-set", "c" * 64, 1, "d" * 64, "/store/curate", {"created": ""})
    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__FLOW_NAME", "curate")
    deadline = time.monotonic() + 60
    while not (started := runs_of(deployed["train-base/train-base"])):
        # An automation that was just made is loaded a moment later.
        events.announce(StageRecord("curate", curated, cached=False, seconds=1.0), "/store")
        EventsWorker.drain_all(timeout=10)
        assert time.monotonic() < deadline
        time.sleep(2)
    assert started[0].parameters["data"] == "c" * 64
    assert started[0].parameters["store"] == "/store"
    assert runs_of(deployed["train-base/kubernetes"]) == []
    report = Artifact("evaluate", "report", "e" * 64, 1, "e" * 64, "/store/evaluate", {"created": ""})
    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__FLOW_NAME", "evaluate")
    events.announce_passed(report, "/store", ["fd<0.3", "recall>0.1"], strict=True)
    EventsWorker.drain_all(timeout=10)
    while not (started := runs_of(deployed["promote/promote"])):
        assert time.monotonic() < deadline + 30
        time.sleep(1)
    assert started[0].parameters["require"] == ["fd<0.3", "recall>0.1"]
    assert started[0].parameters["strict"] is True
