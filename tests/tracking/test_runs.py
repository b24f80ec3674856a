"""Pipeline runs read back from MLflow, and what differs between two."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from gigagan_core.errors import GigaganError
from gigagan_core.store.artifact import Artifact
from gigagan_core.tracking.mlflow_run import MlflowTracker
from gigagan_core.tracking.runs import compare_runs, pipeline_runs


def artifact(stage: str, digest: str, **summary: float) -> Artifact:
    manifest = {"created": "2025-01-01T10:00:00", "summary": summary}
    return Artifact(stage, stage, digest * 8, 1, digest, f"/store/{digest}", manifest)


def run_pipeline(tracking_uri: str, psi: float, report: Artifact, label: str = "evaluate") -> None:
    tracker = MlflowTracker(tracking_uri)
    with tracker.pipeline_run("pipeline", {"evaluate.psi": psi, "base.lr": 0.1}):
        tracker.record_cached("ingest train", artifact("ingest", "data"))
        with tracker.stage_run(label) as stage:
            stage.finish(report)


def test_two_runs_differ_in_what_was_set_and_what_came_out(tracking_uri: str) -> None:
    run_pipeline(tracking_uri, 1.0, artifact("evaluate", "one", fd_judge_32_9=0.5))
    run_pipeline(tracking_uri, 0.7, artifact("evaluate", "two", fd_judge_32_9=0.4, extra_32_9=1.0))
    second, first = pipeline_runs(tracking_uri)
    assert [run.settings["evaluate.psi"] for run in (first, second)] == ["1.0", "0.7"]
    assert first.status == "FINISHED"
    assert abs((datetime.now(UTC) - second.started).total_seconds()) < 300
    assert [stage.label for stage in first.stages] == ["ingest train", "evaluate"]
    assert [stage.cached for stage in first.stages] == [True, False]
    assert first.stages[1].fingerprint == "one" * 8

    found = compare_runs(first, second)
    assert [(each.name, each.first, each.second) for each in found.settings] == [
        ("evaluate.psi", "1.0", "0.7")
    ]
    assert {each.label: each.same for each in found.stages} == {"ingest train": True, "evaluate": False}
    figures = {each.name: (each.first, each.second) for each in found.figures}
    assert figures["fd_judge_32_9"] == (0.5, 0.4)
    assert figures["extra_32_9"] == (None, 1.0)


def test_stages_that_one_run_lacks_are_shown_beside_nothing(tracking_uri: str) -> None:
    run_pipeline(tracking_uri, 1.0, artifact("evaluate", "one"))
    with MlflowTracker(tracking_uri).pipeline_run("pipeline"):
        pass
    second, first = pipeline_runs(tracking_uri)
    (ingest, evaluate) = compare_runs(first, second).stages
    assert (ingest.first is not None, ingest.second, ingest.same) == (True, None, False)
    assert evaluate.label == "evaluate"


def test_figures_of_any_protocol_are_compared(tracking_uri: str) -> None:
    for digest, fid in (("one", 30.0), ("two", 20.0)):
        report = artifact("evaluate", digest, fid_inception_256_30k=fid)
        run_pipeline(tracking_uri, 1.0, report, "evaluate (gigagan-coco-30k)")
    second, first = pipeline_runs(tracking_uri)
    (figure,) = (each for each in compare_runs(first, second).figures if each.name.startswith("fid"))
    assert (figure.first, figure.second) == (30.0, 20.0)


def test_only_runs_that_are_asked_for_are_listed(tracking_uri: str) -> None:
    assert pipeline_runs(tracking_uri) == []
    for number in range(3):
        run_pipeline(tracking_uri, number, artifact("evaluate", "one"))
    with pytest.raises(ValueError, match="broken"), MlflowTracker(tracking_uri).pipeline_run("pipeline"):
        raise ValueError("broken")
    assert [run.settings["evaluate.psi"] for run in pipeline_runs(tracking_uri, limit=2)] == ["2", "1"]
    assert [run.status for run in pipeline_runs(tracking_uri, status=None)] == ["FAILED", *["FINISHED"] * 3]


def test_an_mlflow_that_cannot_be_asked_is_one_sentence(tmp_path) -> None:
    (tmp_path / "mlflow.db").write_text("no database at all, and long enough to be read as one " * 40)
    with pytest.raises(GigaganError, match="does not say which pipeline runs there were"):
        pipeline_runs(f"sqlite:///{tmp_path / 'mlflow.db'}")
