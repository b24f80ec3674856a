"""The whole pipeline as a deployment on the stack, twice at once: each stage is done once, recorded and linked."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.test_pipeline_end_to_end import STAGES

from .conftest import PipelineRuns
from .running import Platform

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]

TASKS = (
    *(
        "publish",
        "ingest train",
        "ingest heldout",
        "train-encoder condition",
        "train-encoder judge",
        "curate",
    ),
    *("train-base", "train-upsampler gan", "train-upsampler l1", "evaluate"),
)


def test_every_stage_of_both_runs_completed(pipeline_runs: PipelineRuns, platform: Platform) -> None:
    for run in (pipeline_runs.watched, pipeline_runs.other):
        tasks = platform.task_runs(run)
        assert {task["state_type"] for task in tasks} == {"COMPLETED"}
        names = [task["name"] for task in tasks]
        for task in TASKS:
            assert len([name for name in names if name.startswith(task)]) == 1, (task, names)
        assert len(names) == len(TASKS)
        assert platform.state(run) == "COMPLETED"


def test_no_stage_was_done_twice(pipeline_runs: PipelineRuns, platform: Platform) -> None:
    stages = [run for run in pipeline_runs.mlflow_runs(platform) if run["tags"].get("gigagan.run") == "stage"]
    worked = [run for run in stages if "gigagan.cached" not in run["tags"]]
    assert sorted(run["name"] for run in worked) == sorted(STAGES)
    assert set(Counter(run["tags"]["gigagan.fingerprint"] for run in worked).values()) == {1}
    reused = [run for run in stages if "gigagan.cached" in run["tags"]]
    assert sorted(run["name"] for run in reused) == sorted(STAGES), "the other run found each of them"


def test_artifacts_are_in_the_s3_store_one_attempt_each(
    pipeline_runs: PipelineRuns, platform: Platform
) -> None:
    made = {
        run["tags"]["gigagan.fingerprint"]: run["tags"]["gigagan.artifact"]
        for run in pipeline_runs.mlflow_runs(platform)
        if run["tags"].get("gigagan.run") == "stage"
    }
    assert len(made) == len(STAGES)
    for fingerprint, uri in made.items():
        assert uri.startswith(f"{platform.exports['GIGAGAN_STORE']}/")
        stage = uri.split("/")[-2]
        folders = [name for name in platform.manifests(stage) if name.startswith(fingerprint)]
        assert folders == [fingerprint]
        manifest = platform.manifests(stage)[fingerprint]
        held = {key.rpartition(f"{fingerprint}/")[2] for key in platform.keys(f"{stage}/{fingerprint}/")}
        assert set(manifest["files"]) <= held


def test_mlflow_has_finished_runs_with_links_to_prefect_and_back(
    pipeline_runs: PipelineRuns, platform: Platform
) -> None:
    runs = pipeline_runs.mlflow_runs(platform)
    assert {run["status"] for run in runs} == {"FINISHED"}
    for flow_run in (pipeline_runs.watched, pipeline_runs.other):
        ours = [run for run in runs if run["tags"].get("prefect.flow_run_id") == flow_run]
        (parent,) = [run for run in ours if run["tags"].get("gigagan.run") == "pipeline"]
        assert parent["tags"]["prefect.flow_run_url"].endswith(flow_run)
        assert parent["tags"]["prefect.flow_run_url"].startswith(
            platform.exports["PREFECT_API_URL"][: -len("/api")]
        )
        children = [run for run in ours if run["tags"].get("mlflow.parentRunId") == parent["id"]]
        assert len(children) == len(STAGES)
        found = platform.prefect("artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [flow_run]}}})
        link = next(each["data"] for each in found if each["key"] == "mlflow-run")
        assert f"{platform.exports['MLFLOW_TRACKING_URI']}/#/experiments/" in link
        assert parent["id"] in link
    losses = [run for run in runs if any("loss" in name for name in run["metrics"])]
    assert losses, "metrics of training reached the server"
