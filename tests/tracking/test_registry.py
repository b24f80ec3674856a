"""Registered models: every model a version once, the alias moves only with the model that was judged."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gigagan_core.errors import GigaganError
from gigagan_core.stages.gate import pass_gate
from gigagan_core.store.artifact import Artifact
from gigagan_core.tracking import registry
from gigagan_core.tracking.mlflow_run import MlflowTracker

NAME = "gigagan-base"


def model(digest: str, kind: str = "base-model", objective: str = "gan") -> Artifact:
    manifest = {"created": "2025-01-01T10:00", "settings": {"training": {"objective": objective}}}
    return Artifact("train-base", kind, digest * 8, 1, digest, f"/store/{digest}", manifest)


@pytest.fixture
def tracker(tracking_uri: str) -> MlflowTracker:
    return MlflowTracker(tracking_uri)


def train(tracker: MlflowTracker, artifact: Artifact) -> None:
    with tracker.stage_run("train-base") as run:
        run.finish(artifact)


def aliases(tracker: MlflowTracker) -> dict[str, str]:
    found = tracker._connection.client.get_registered_model(NAME).aliases
    return {alias: str(version) for alias, version in found.items()}


def test_a_trained_model_becomes_the_candidate_and_a_cached_one_changes_nothing(
    tracker: MlflowTracker,
) -> None:
    train(tracker, model("one"))
    train(tracker, model("two"))
    tracker.record_cached("train-base", model("one"))
    client = tracker._connection.client
    versions = {
        each.tags["gigagan.output_digest"]: each for each in client.search_model_versions(f"name='{NAME}'")
    }
    assert set(versions) == {"one", "two"}
    assert aliases(tracker) == {"candidate": str(versions["two"].version)}
    assert versions["one"].tags["gigagan.fingerprint"] == "one" * 8
    assert versions["one"].tags["gigagan.artifact"] == "/store/one"
    assert (
        '"/store/one"' in (Path(versions["one"].source.removeprefix("file://")) / "artifact.json").read_text()
    )


def test_only_what_may_be_served_is_registered(tracker: MlflowTracker) -> None:
    train(tracker, model("control", "upsampler-model", objective="l1"))
    train(tracker, model("encoder", "encoder"))
    assert tracker._connection.client.search_registered_models() == []
    train(tracker, model("large", "upsampler-model"))
    assert [each.name for each in tracker._connection.client.search_registered_models()] == [
        "gigagan-upsampler"
    ]


def test_a_model_is_promoted_beside_hundreds_of_other_teams(
    tracker: MlflowTracker, tracking_uri: str
) -> None:
    train(tracker, model("one"))
    with sqlite3.connect(tracking_uri.removeprefix("sqlite:///")) as database:
        columns = "name, creation_time, last_updated_time, workspace"
        known = [row[1] for row in database.execute("pragma table_info(registered_models)")]
        columns = ", ".join(name for name in columns.split(", ") if name in known)
        row = database.execute(f"select {columns} from registered_models").fetchone()
        marks = ", ".join("?" * len(row))
        for number in range(250):
            values = (f"another-{number:03}", *row[1:])
            database.execute(f"insert into registered_models ({columns}) values ({marks})", values)
    assert registry.promote(tracking_uri, NAME, {"model": "one"}, {})["moved"]
    with pytest.raises(
        GigaganError, match=r"no registered model 'missing' \(registered: another-000, .*gigagan-base"
    ):
        registry.promote(tracking_uri, "missing", {"model": "one"}, {})


def test_the_judged_candidate_becomes_champion_once(tracker: MlflowTracker, tracking_uri: str) -> None:
    train(tracker, model("one"))
    judged = {"model": "one", "upsampler": None}
    first = registry.promote(tracking_uri, NAME, judged, {"gigagan.promoted_by": "/report"})
    assert first == {"name": NAME, "version": "1", "moved": True}
    assert aliases(tracker) == {"champion": "1"}
    assert tracker._connection.client.get_model_version(NAME, "1").tags["gigagan.promoted_by"] == "/report"
    assert registry.promote(tracking_uri, NAME, judged, {})["moved"] is False
    assert aliases(tracker) == {"champion": "1"}

    train(tracker, model("two"))
    assert registry.promote(tracking_uri, NAME, {"model": "two"}, {})["moved"] is True
    assert aliases(tracker) == {"champion": "2"}


def test_a_promotion_cut_off_between_its_two_aliases_is_finished(
    tracker: MlflowTracker, tracking_uri: str
) -> None:
    train(tracker, model("one"))
    tracker._connection.client.set_registered_model_alias(NAME, "champion", "1")
    assert registry.promote(tracking_uri, NAME, {"model": "one"}, {})["moved"] is False
    assert aliases(tracker) == {"champion": "1"}


def test_a_model_that_is_trained_while_another_is_promoted_stays_the_candidate(
    tracker: MlflowTracker, tracking_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    train(tracker, model("one"))
    tag = MlflowClient.set_model_version_tag

    def while_another_is_registered(client: Any, *given: Any) -> None:
        tag(client, *given)
        train(tracker, model("two"))

    monkeypatch.setattr(MlflowClient, "set_model_version_tag", while_another_is_registered)
    assert registry.promote(tracking_uri, NAME, {"model": "one"}, {"gigagan.promoted_by": "/report"})["moved"]
    assert aliases(tracker) == {"champion": "1", "candidate": "2"}


@pytest.mark.parametrize("candidate", ["1", "2"])
def test_of_two_versions_of_one_model_the_candidate_is_promoted(
    tracker: MlflowTracker, tracking_uri: str, candidate: str
) -> None:
    train(tracker, model("one"))
    client = tracker._connection.client
    first = client.get_model_version(NAME, "1")
    client.create_model_version(NAME, first.source, first.run_id, tags=first.tags)
    client.set_registered_model_alias(NAME, "candidate", candidate)
    done = registry.promote(tracking_uri, NAME, {"model": "one"}, {})
    assert done == {"name": NAME, "version": candidate, "moved": True}
    assert aliases(tracker) == {"champion": candidate}
    assert registry.promote(tracking_uri, NAME, {"model": "one"}, {})["moved"] is False


def test_a_report_of_another_model_promotes_nothing(tracker: MlflowTracker, tracking_uri: str) -> None:
    train(tracker, model("one"))
    train(tracker, model("two"))
    with pytest.raises(GigaganError, match="judged version 1 of gigagan-base, and candidate is 2"):
        registry.promote(tracking_uri, NAME, {"model": "one"}, {})
    with pytest.raises(GigaganError, match="no version of gigagan-base is the model that this report judged"):
        registry.promote(tracking_uri, NAME, {"model": "unknown", "upsampler": None}, {})
    with pytest.raises(GigaganError, match=r"no registered model 'gigagan-bse' \(registered: gigagan-base\)"):
        registry.promote(tracking_uri, "gigagan-bse", {"model": "one"}, {})
    assert aliases(tracker) == {"candidate": "2"}


# ---- what a removal must spare -----------------------------------------------------------------------


def recorded(artifact: Artifact, run_id: str) -> Artifact:
    manifest = {**artifact.manifest, "mlflow": {"experiment_id": "1", "run_id": run_id}}
    return dataclasses.replace(artifact, manifest=manifest)


def test_versions_are_wanted_by_name_and_alias_and_others_are_not(
    tracker: MlflowTracker, tracking_uri: str
) -> None:
    train(tracker, model("one"))
    train(tracker, model("two"))
    with tracker.stage_run("train-base") as run:
        known = run.run_id
    why = registry.wanted(tracking_uri)
    assert why(model("one")) == "gigagan-base version 1"
    assert why(model("two")) == "gigagan-base version 2 (candidate)"
    assert why(recorded(model("three"), known)) is None
    assert why(recorded(model("three"), "0" * 32)) == (
        f"its MLflow run {'0' * 12} is not in {tracking_uri}, so its registry is not known"
    )
    assert why(recorded(model("encoder", "encoder"), "0" * 32)) is None
    tracker._connection.client.delete_model_version(NAME, "1")
    assert registry.wanted(tracking_uri)(model("one")) is None


def test_a_registry_that_cannot_be_asked_ends_the_removal(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"no database" * 1000)
    with pytest.raises(GigaganError, match="does not say which models are registered"):
        registry.wanted(f"sqlite:///{tmp_path / 'mlflow.db'}")


def test_without_a_database_a_model_that_was_recorded_somewhere_is_wanted(tmp_path: Path) -> None:
    why = registry.wanted(f"sqlite:///{tmp_path / 'none.db'}")
    assert "so its registry is not known" in why(recorded(model("one"), "1" * 32))
    assert why(model("one")) is None
    assert not (tmp_path / "none.db").exists()


# ---- from a report to the alias --------------------------------------------------------------------


@pytest.fixture
def report(tmp_path: Path) -> Path:
    document = {
        "schema": "gigagan-report",
        "schema_version": 2,
        "encoders": {"judge": {"name": "judge", "sha256": "ab"}},
        "settings": {},
        "lineage": [{"role": "model", "output_digest": "one"}],
        "figures": {
            "fd_judge_32_370": {"value": 0.1, "interval": None, "better": "lower", "extractor": "judge"}
        },
    }
    (tmp_path / "report.json").write_text(json.dumps(document))
    return tmp_path


def test_a_gate_that_holds_promotes_and_one_that_does_not_leaves_all_as_it_is(
    tracker: MlflowTracker, tracking_uri: str, report: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri)
    train(tracker, model("one"))
    with pytest.raises(GigaganError, match=r"is 0\.1, not as fd<0\.05 requires"):
        pass_gate(report, ["fd<0.2", "fd<0.05"], strict=False, promote=[NAME])
    assert aliases(tracker) == {"candidate": "1"}
    said = pass_gate(report, ["fd<0.2"], strict=False, promote=[NAME])
    assert said[-1] == "version 1 of gigagan-base is now the champion"
    assert aliases(tracker) == {"champion": "1"}
    tags = tracker._connection.client.get_model_version(NAME, "1").tags
    assert tags["gigagan.requirements"] == "fd<0.2"
    assert (
        pass_gate(report, ["fd<0.2"], False, [NAME])[-1]
        == "version 1 of gigagan-base was already the champion"
    )


def test_a_rehearsal_promotes_nothing_unless_told_to_and_cautions_are_said(
    tracker: MlflowTracker, tracking_uri: str, report: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri)
    train(tracker, model("one"))
    stored = json.loads((report / "report.json").read_text())
    stored["cautions"] = ["12 images where protocol x has 30,000: do not quote these figures as its"]
    (report / "report.json").write_text(json.dumps(stored))
    with pytest.raises(GigaganError, match="the gate stays shut: its report cautions: 12 images where"):
        pass_gate(report, ["fd<0.2"], strict=False, promote=[NAME])
    assert aliases(tracker) == {"candidate": "1"}
    said = pass_gate(report, ["fd<0.2"], strict=False, promote=[NAME], despite_cautions=True)
    assert said[1] == f"caution: {stored['cautions'][0]}"
    assert aliases(tracker) == {"champion": "1"}


def test_two_models_are_promoted_together_or_not_at_all(
    tracker: MlflowTracker, tracking_uri: str, report: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri)
    both = [NAME, "gigagan-upsampler"]
    train(tracker, model("one"))
    train(tracker, model("large", "upsampler-model"))
    train(tracker, model("larger", "upsampler-model"))
    stored = json.loads((report / "report.json").read_text())
    stored["lineage"].append({"role": "upsampler", "output_digest": "large"})
    (report / "report.json").write_text(json.dumps(stored))
    with pytest.raises(GigaganError, match="judged version 1 of gigagan-upsampler, and candidate is 2"):
        pass_gate(report, ["fd<0.2"], strict=False, promote=both)
    assert aliases(tracker) == {"candidate": "1"}
    tracker._connection.client.set_registered_model_alias("gigagan-upsampler", "candidate", "1")
    assert [sentence.split()[-1] for sentence in pass_gate(report, ["fd<0.2"], False, both)[-2:]] == [
        "champion",
        "champion",
    ]
    assert aliases(tracker) == {"champion": "1"}


def test_the_flow_fails_where_its_gate_does(
    tracker: MlflowTracker, tracking_uri: str, report: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.logging import disable_run_logger

    from flows.evaluate import evaluate, gate

    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri)
    train(tracker, model("one"))
    judged = Artifact("evaluate", "report", "f", 1, "o", str(report), {})
    with disable_run_logger():
        with pytest.raises(GigaganError, match="the gate stays shut"):
            gate.fn(judged, ["fd<0.05"], False, [NAME])
        gate.fn(judged, ["fd<0.2"], False, [NAME])
    assert aliases(tracker) == {"champion": "1"}
    # a misspelt requirement is said before anything starts
    with pytest.raises(GigaganError, match="write FIGURE"):
        evaluate.fn(require=["fd"])
    with pytest.raises(GigaganError, match="needs at least one requirement"):
        evaluate.fn(promote=[NAME])


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch, report: Path) -> Callable[..., Any]:
    """The pipeline flow with overrides of its settings; its stages are done, and made that report."""
    from flows import pipeline as module

    context = SimpleNamespace(history=[])
    made = SimpleNamespace(artifact=Artifact("evaluate", "report", "f", 1, "o", str(report), {}))
    monkeypatch.setattr(module, "publish", lambda source: {})
    monkeypatch.setattr(module, "run_roles", lambda *_, **__: context.history.append(made))
    monkeypatch.setattr(module, "prefect_reference", dict)
    monkeypatch.setattr(module, "gate", module.gate.fn)
    monkeypatch.setattr(module, "document", lambda history, *_: {"reports": len(history)})
    parent = SimpleNamespace(reference=dict, set_tags=lambda tags: None)
    surroundings = SimpleNamespace(context=context, parent=parent)
    monkeypatch.setattr(module, "open_run", lambda *_, **__: contextlib.nullcontext(surroundings))
    return lambda *overrides: module.pipeline.fn("tiny", list(overrides))


def test_the_pipeline_promotes_only_what_passes_its_gate(
    tracker: MlflowTracker,
    tracking_uri: str,
    report: Path,
    pipeline: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from prefect.logging import disable_run_logger

    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri)
    train(tracker, model("one"))
    train(tracker, model("large", "upsampler-model"))
    stored = json.loads((report / "report.json").read_text())
    stored["lineage"].append({"role": "upsampler", "output_digest": "large"})
    (report / "report.json").write_text(json.dumps(stored))

    def champions() -> list[str]:
        found = tracker._connection.client.search_registered_models()
        return sorted(each.name for each in found if "champion" in dict(each.aliases))

    with disable_run_logger():
        assert pipeline() == {"reports": 1}
        assert champions() == [], "without a requirement nothing is promoted"
        with pytest.raises(GigaganError, match=r"the gate stays shut: .* is 0\.1, not as fd<0\.05 requires"):
            pipeline('gate.require=["fd<0.05"]')
        with pytest.raises(GigaganError, match=r"without an interval, so fd<0\.2 cannot"):
            pipeline('gate.require=["fd<0.2"]', "gate.strict=true")
        assert champions() == []
        stored["cautions"] = ["The model was trained on the very images it is judged by."]
        (report / "report.json").write_text(json.dumps(stored))
        with pytest.raises(GigaganError, match="trained on the very images"):
            pipeline('gate.require=["fd<0.2"]')
        assert champions() == []
        pipeline('gate.require=["fd<0.2"]', 'gate.promote=["gigagan-base"]', "gate.despite_cautions=true")
        assert champions() == ["gigagan-base"]
        del stored["cautions"]
        (report / "report.json").write_text(json.dumps(stored))
        pipeline('gate.require=["fd<0.2"]', 'gate.promote=["gigagan-base"]')
        assert champions() == ["gigagan-base"]
        pipeline('gate.require=["fd<0.2"]')
        assert champions() == ["gigagan-base", "gigagan-upsampler"]


def test_a_misspelt_requirement_of_the_pipeline_is_said_before_anything_starts(
    pipeline: Callable[..., Any],
) -> None:
    with pytest.raises(GigaganError, match="write FIGURE"):
        pipeline('gate.require=["fd"]')
    with pytest.raises(GigaganError, match="strict guards nothing without require"):
        pipeline("gate.strict=true")
