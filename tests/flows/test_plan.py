"""What each stage of a pipeline run is handed: by a whole run, and by one of which parts are kept."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows import pipeline as flow
from flows.runtime import Run
from gigagan_core.config.base import Settings, with_overrides
from gigagan_core.config.presets import preset
from gigagan_core.stages import rerun
from gigagan_core.stages.base import Outcome, RunContext, StageSpec, StageWork, materialise
from gigagan_core.stages.rerun import Change, whole
from gigagan_core.store import runs
from gigagan_core.store.artifact import Artifact, ExternalTable, digest_of
from gigagan_core.store.fingerprint import digest
from gigagan_core.tracking.null import NullRun

OWN = ["source.kind=tables", 'source.train=["a.parquet"]', "source.heldout=h.parquet"]


@pytest.fixture
def handed(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    """Stages that do nothing; what each was handed, by what it is for."""
    seen: dict[str, dict[str, Any]] = {}

    def stage(name: str, kind: str, *inputs: str) -> Callable[..., Artifact]:
        def run_stage(run: Run, settings: Settings, *values: Any) -> Artifact:
            given = dict(zip(inputs, values, strict=True))
            if name == "ingest":
                label = given.pop("label")
                given["metadata"] = [ExternalTable(uri, digest(uri), 1) for uri in _listed(given["metadata"])]
            elif name == "evaluate":
                label, given = "evaluate", given["inputs"]
            else:
                label = f"{name} {_role_of(settings)}".strip()
            seen[label] = given

            def produce(work: StageWork) -> Outcome:
                made_of = {key: digest_of(value) for key, value in given.items()}
                (work.output / "made.json").write_text(json.dumps([label, made_of]))
                if kind == "report":
                    (work.output / "report.json").write_text("{}")
                return Outcome()

            spec = StageSpec(name, kind, "gigagan_core.text")
            return materialise(spec, settings, given, run.context, produce, label=label)

        return run_stage

    for function, made in {
        "ingest_stage": stage("ingest", "shard-set", "metadata", "label"),
        "train_encoder_stage": stage("train-encoder", "encoder", "data", "heldout"),
        "curate_stage": stage("curate", "shard-set", "data", "encoder"),
        "train_base_stage": stage("train-base", "base-model", "data", "encoder"),
        "train_upsampler_stage": stage("train-upsampler", "upsampler-model", "data", "encoder"),
        "evaluate_stage": stage("evaluate", "report", "inputs"),
        "publish": lambda source: {
            name: tables
            for name, tables in source.model_dump().items()
            if name in ("train", "heldout", "upsampler") and tables
        },
    }.items():
        monkeypatch.setattr(flow, function, made)
    return seen


def _listed(tables: Any) -> list[str]:
    return [tables] if isinstance(tables, str) else list(tables)


def _role_of(settings: Any) -> str:
    training = getattr(settings, "training", None)
    return getattr(settings, "role", "") or getattr(training, "objective", "")


def test_a_whole_run_and_a_rerun_hand_each_stage_what_is_its_own(
    handed: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    with RunContext.open(str(tmp_path / "store")) as context:
        run = Run(context, NullRun())
        first = flow.run_plan(run, whole(with_overrides(preset("tiny"), OWN)), "pipeline")
        made = {label: dict(given) for label, given in handed.items()}
        record = runs.find(context.store, first["run"])
        by_role = {
            role: context.store.attempt(each["stage"], each["fingerprint"])
            for role, each in record.artifacts.items()
        }
        assert made["train-encoder condition"] == {"data": by_role["train"], "heldout": by_role["heldout"]}
        assert made["train-encoder judge"] == made["train-encoder condition"]
        assert made["curate"] == {"data": by_role["train"], "encoder": by_role["condition"]}
        trained = {"data": by_role["curated"], "encoder": by_role["condition"]}
        assert made["train-base"] == made["train-upsampler gan"] == made["train-upsampler l1"] == trained
        assert made["evaluate"] == {
            "model": by_role["base"],
            "upsampler": by_role["upsampler"],
            "control": by_role["control"],
            "data": by_role["heldout"],
            "train": by_role["curated"],
            "condition": by_role["condition"],
            "judge": by_role["judge"],
        }

        handed.clear()
        change = Change(("new.parquet",))
        chosen = rerun.plan("train-upsampler", record, change, context.store)
        context.history.clear()
        second = flow.run_plan(run, chosen, "rerun")
        assert list(handed) == [
            "ingest upsampler",
            "curate",
            "train-upsampler gan",
            "train-upsampler l1",
            "evaluate",
        ]
        assert [table.uri for table in handed["ingest upsampler"]["metadata"]] == ["a.parquet", "new.parquet"]
        assert handed["curate"]["encoder"] == by_role["condition"]
        assert handed["train-upsampler gan"]["data"] not in (by_role["curated"], by_role["train"])
        assert handed["evaluate"]["model"] == by_role["base"]
        assert handed["evaluate"]["train"] == by_role["curated"]
        assert {each["role"] for each in second["kept"]} >= {"train", "curated", "base", "condition", "judge"}
        assert [stage["cached"] for stage in second["stages"]] == [False] * 5


@pytest.mark.parametrize(("metadata", "site"), [("", "openmoji"), (None, "openmoji"), ("a.parquet", None)])
def test_an_empty_field_of_the_form_means_the_presets_own_tables(
    monkeypatch: pytest.MonkeyPatch, metadata: str | None, site: str | None
) -> None:
    from flows import ingest as module

    seen: list[tuple[str | None, str]] = []

    def stage(run: Any, settings: Any, tables: str, label: str) -> Any:
        seen.append((settings.site, tables))
        return SimpleNamespace(fingerprint="f" * 64)

    monkeypatch.setattr(module, "ingest_stage", stage)
    monkeypatch.setattr(module, "tables_of", lambda source: {"train": "embedded"})
    monkeypatch.setattr(module, "open_run", lambda *_, **__: contextlib.nullcontext())
    module.ingest.fn(preset="tiny", metadata=metadata)
    assert seen == [(site, metadata or "embedded")]
