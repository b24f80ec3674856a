"""A stage of an earlier run again: what runs, what is kept, what is fetched, and what the record says."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gigagan_core.config.base import Settings, flat, with_overrides
from gigagan_core.config.pipeline import PipelineSettings
from gigagan_core.config.presets import preset
from gigagan_core.errors import GigaganError
from gigagan_core.stages.base import Outcome, RunContext, StageSpec, StageWork, materialise
from gigagan_core.stages.recorded import Have, Makers, run_roles
from gigagan_core.stages.rerun import Change, RunPlan, plan, whole
from gigagan_core.stages.roles import MADE_BY, NEEDS, ROLES, SECTIONS, downstream, needs, upstream
from gigagan_core.stages.sources import tables_of
from gigagan_core.store import runs
from gigagan_core.store.artifact import Artifact, ExternalTable, digest_of
from gigagan_core.store.fingerprint import digest
from gigagan_core.store.runs import RunRecord

ALL = set(ROLES) - {"upsampler_train", "upsampler_curated"}
STAGE_OF = {role: stage for stage, roles in MADE_BY.items() for role in roles}
KINDS = {"ingest": "shard-set", "train-encoder": "encoder", "curate": "shard-set", "evaluate": "report"}


class PartitionOf(Settings):
    table: str


class Pipeline:
    """The stages of a pipeline that do nothing but name what they were made of. fetched: tables, one a partition."""

    def __init__(self, context: RunContext):
        self.context = context
        self.fetched: list[str] = []

    def run(self, chosen: RunPlan, flow: str = "pipeline") -> RunRecord:
        return run_roles(chosen, self.context, self.makers(chosen.settings), flow)

    def makers(self, settings: PipelineSettings) -> Makers:
        tables = tables_of(settings.source)
        splits = {"train": "train", "heldout": "heldout", "upsampler_train": "upsampler"}
        sections = {
            role: section for section, roles in SECTIONS.items() for role in roles if section != "gate"
        }

        def maker(role: Any) -> Callable[[Have], Artifact]:
            if role in splits:
                return lambda have: self.ingest(settings.ingest, tables[splits[role]], role)
            used = needs(role, settings.source.upsampler is not None)
            return lambda have: self.make(
                role,
                getattr(settings, sections[role]),
                {each: have[each] for each in used if each in have},
            )

        return {role: maker(role) for role in ROLES}

    def ingest(self, settings: Any, tables: Any, role: str) -> Artifact:
        names = [tables] if isinstance(tables, str) else list(tables)
        given = [ExternalTable(name, digest(name), rows=1) for name in names]
        parts = [self.partition(table) for table in given]
        notes = {"partitions": [part.fingerprint for part in parts]}
        return self.make(role, settings, {"metadata": given}, notes)

    def partition(self, table: ExternalTable) -> Artifact:
        def fetch(work: StageWork) -> Outcome:
            self.fetched.append(table.uri)
            return Outcome()

        spec = StageSpec("download", "partition", "gigagan_core.text")
        return materialise(
            spec, PartitionOf(table=table.uri), {"table": table}, self.context, fetch, quiet=True
        )

    def make(
        self, role: str, settings: Any, inputs: dict[str, Any], notes: dict[str, Any] | None = None
    ) -> Artifact:
        def produce(work: StageWork) -> Outcome:
            made_of = {name: digest_of(value) for name, value in inputs.items()}
            (work.output / "made.json").write_text(json.dumps([made_of, flat(settings)]))
            return Outcome(notes=notes or {})

        stage = STAGE_OF[role]
        spec = StageSpec(stage, KINDS.get(stage, "base-model"), "gigagan_core.text")
        return materialise(spec, settings, inputs, self.context, produce, label=role)


@pytest.fixture
def pipeline(tmp_path: Path) -> Iterator[Pipeline]:
    with RunContext.open(str(tmp_path / "store")) as context:
        yield Pipeline(context)


@pytest.fixture
def first(pipeline: Pipeline) -> RunRecord:
    """A run on two tables, finished."""
    own = ["source.kind=tables", 'source.train=["a.parquet","b.parquet"]', "source.heldout=h.parquet"]
    return pipeline.run(whole(with_overrides(preset("tiny"), own)))


def rerun(pipeline: Pipeline, stage: Any, record: RunRecord, **changes: Any) -> RunRecord:
    change = Change(**changes)
    pipeline.fetched.clear()
    return pipeline.run(plan(stage, record, change, pipeline.context.store), "rerun")


def how(record: RunRecord) -> dict[str, set[str]]:
    """Roles by what became of them."""
    found: dict[str, set[str]] = {}
    for role, reference in record.artifacts.items():
        found.setdefault(reference["how"], set()).add(role)
    return found


def test_a_whole_run_makes_every_role_and_records_it(pipeline: Pipeline, first: RunRecord) -> None:
    assert how(first) == {"made": ALL}
    assert (first.status, first.flow, first.of) == ("finished", "pipeline", None)
    assert pipeline.fetched == ["a.parquet", "b.parquet", "h.parquet"]
    assert runs.records(pipeline.context.store) == [first]
    again = pipeline.run(whole(PipelineSettings.model_validate(first.settings)))
    assert how(again) == {"cached": ALL}


def test_a_run_may_have_two_training_sets_from_the_start(pipeline: Pipeline) -> None:
    own = [
        "source.kind=tables",
        "source.train=a.parquet",
        "source.upsampler=u.parquet",
        "source.heldout=h.parquet",
    ]
    both = pipeline.run(whole(with_overrides(preset("tiny"), own)))
    assert how(both) == {"made": set(ROLES)}
    assert sorted(pipeline.fetched) == ["a.parquet", "h.parquet", "u.parquet"]
    with pytest.raises(GigaganError, match="go with kind=tables"):
        with_overrides(preset("tiny"), ["source.upsampler=u.parquet"])


def test_the_base_model_on_more_data_keeps_encoders_and_upsampler_and_fetches_the_new_alone(
    pipeline: Pipeline, first: RunRecord
) -> None:
    second = rerun(pipeline, "train-base", first, tables=("new.parquet",))
    assert how(second)["made"] == {"train", "curated", "base", "report"}
    assert how(second)["kept"] == (ALL - how(second)["made"]) | {"upsampler_train", "upsampler_curated"}
    assert pipeline.fetched == ["new.parquet"]
    assert second.artifacts["upsampler_curated"]["fingerprint"] == first.artifacts["curated"]["fingerprint"]
    assert second.settings["source"] == {
        **first.settings["source"],
        "train": ["a.parquet", "b.parquet", "new.parquet"],
        "upsampler": ["a.parquet", "b.parquet"],
    }
    assert second.of == first.id


def test_the_upsampler_on_other_data_leaves_the_base_model_alone(
    pipeline: Pipeline, first: RunRecord
) -> None:
    second = rerun(pipeline, "train-upsampler", first, tables=("large.parquet",), mode="replace")
    assert how(second)["made"] == {
        "upsampler_train",
        "upsampler_curated",
        "upsampler",
        "control",
        "report",
    }
    assert pipeline.fetched == ["large.parquet"]
    assert second.settings["source"]["upsampler"] == ["large.parquet"]
    assert second.settings["source"]["train"] == ["a.parquet", "b.parquet"]
    third = rerun(pipeline, "train-base", second, overrides=("base.training.schedule.seed=7",))
    assert how(third)["made"] == {"base", "report"}
    assert third.artifacts["upsampler"] == {**second.artifacts["upsampler"], "how": "kept", "why": ""}


def test_ingest_on_more_data_reaches_everything_but_the_held_out_set(
    pipeline: Pipeline, first: RunRecord
) -> None:
    second = rerun(pipeline, "ingest", first, tables=("new.parquet",))
    assert how(second) == {"made": ALL - {"heldout"}, "kept": {"heldout"}}
    assert pipeline.fetched == ["new.parquet"]


def test_ingest_for_one_model_keeps_the_encoders(pipeline: Pipeline, first: RunRecord) -> None:
    second = rerun(pipeline, "ingest", first, tables=("new.parquet",), branch="upsampler")
    assert how(second)["made"] == {
        "upsampler_train",
        "upsampler_curated",
        "upsampler",
        "control",
        "report",
    }
    assert {"condition", "judge", "train", "base"} <= how(second)["kept"]


def test_appending_to_both_sets_of_a_run_that_has_two(pipeline: Pipeline, first: RunRecord) -> None:
    second = rerun(pipeline, "train-upsampler", first, tables=("large.parquet",), mode="replace")
    third = rerun(pipeline, "curate", second, tables=("new.parquet",))
    assert third.settings["source"]["train"] == ["a.parquet", "b.parquet", "new.parquet"]
    assert third.settings["source"]["upsampler"] == ["large.parquet", "new.parquet"]
    assert how(third)["kept"] == {"heldout", "condition", "judge"}
    assert pipeline.fetched == ["new.parquet"]


def test_another_held_out_set_is_judged_and_trains_nothing(pipeline: Pipeline, first: RunRecord) -> None:
    second = rerun(pipeline, "evaluate", first, tables=("h2.parquet",), mode="replace")
    assert how(second)["made"] == {"heldout", "report"}
    assert second.settings["source"]["heldout"] == ["h2.parquet"]


def test_only_leaves_out_what_is_downstream(pipeline: Pipeline, first: RunRecord) -> None:
    second = rerun(pipeline, "curate", first, only=True, tables=("new.parquet",))
    assert how(second)["made"] == {"train", "curated"}
    third = rerun(pipeline, "train-base", second, only=True)
    assert how(third)["made"] == {"base"}
    assert {"curated", "upsampler"} <= how(third)["kept"]


def test_force_makes_the_stage_again_and_what_depends_on_it_runs(
    pipeline: Pipeline, first: RunRecord
) -> None:
    same = rerun(pipeline, "train-base", first)
    assert how(same)["cached"] == {"base", "report"}
    forced = rerun(pipeline, "train-base", first, force=True)
    assert how(forced)["made"] == {"base", "report"}
    assert forced.artifacts["base"]["attempt"] == 2
    assert forced.artifacts["report"]["attempt"] == 1
    assert forced.artifacts["base"]["why"] == "forced"
    assert forced.artifacts["report"]["why"].startswith("not cached: input base base-model ")


def test_what_is_upstream_is_kept_though_its_code_has_changed(
    pipeline: Pipeline, first: RunRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gigagan_core.stages import base

    monkeypatch.setattr(base, "code_digest", lambda module: ("new", {module: "new"}))
    second = rerun(pipeline, "train-base", first)
    assert how(second)["made"] == {"base", "report"}
    assert second.artifacts["base"]["why"].startswith("not cached: code gigagan_core.text changed (against")


def test_a_changed_setting_is_named(pipeline: Pipeline, first: RunRecord) -> None:
    second = rerun(pipeline, "train-base", first, overrides=("base.training.schedule.seed=7",))
    assert "setting training.schedule.seed 0 -> 7 (against" in second.artifacts["base"]["why"]


def test_a_setting_of_a_stage_that_does_not_run_is_refused(pipeline: Pipeline, first: RunRecord) -> None:
    with pytest.raises(
        GigaganError, match=r"--set ingest: ingest is not part of this run, which begins at train-base"
    ):
        rerun(pipeline, "train-base", first, overrides=("ingest.image_size=64",))
    with pytest.raises(GigaganError, match=r"unknown key 'base\.seeed'"):
        rerun(pipeline, "train-base", first, overrides=("base.seeed=1",))


@pytest.mark.parametrize(
    ("stage", "branch", "sentence"),
    [
        ("train-base", "upsampler", "train-base takes base data alone"),
        ("evaluate", "base", "evaluate takes heldout data alone"),
        ("train-encoder", "base", "trains for base model and upsampler alike"),
        ("curate", "heldout", "the run has no curated or upsampler_curated"),
    ],
)
def test_data_that_do_not_belong_to_a_stage_are_refused(
    pipeline: Pipeline, first: RunRecord, stage: str, branch: str, sentence: str
) -> None:
    with pytest.raises(GigaganError, match=sentence):
        rerun(pipeline, stage, first, branch=branch, tables=("new.parquet",))


def test_a_run_that_was_cut_off_is_recorded_and_says_what_it_lacks(pipeline: Pipeline) -> None:
    own = ["source.kind=tables", "source.train=a.parquet", "source.heldout=h.parquet"]
    chosen = whole(with_overrides(preset("tiny"), own))
    makers = {**pipeline.makers(chosen.settings), "base": lambda have: 1 / 0}
    with pytest.raises(ZeroDivisionError):
        run_roles(chosen, pipeline.context, makers)
    (failed,) = runs.records(pipeline.context.store)
    assert failed.status == "failed"
    assert "curated" in failed.artifacts
    assert "base" not in failed.artifacts
    assert how(rerun(pipeline, "train-base", failed, only=True))["made"] == {"base"}
    with pytest.raises(
        GigaganError, match="has no base, it failed; begin at train-base, or name another run"
    ):
        rerun(pipeline, "evaluate", failed)


def test_an_artifact_that_was_removed_is_named(pipeline: Pipeline, first: RunRecord) -> None:
    reference = first.artifacts["curated"]
    shutil.rmtree(Path(pipeline.context.store.uri, "curate", reference["fingerprint"]))
    with pytest.raises(GigaganError, match=r"curated of run \w+ is no longer in store .*; begin at curate"):
        rerun(pipeline, "train-base", first)


def test_a_retry_goes_on_with_the_record_of_its_mlflow_run(pipeline: Pipeline, first: RunRecord) -> None:
    chosen = plan("evaluate", first, Change(), pipeline.context.store)
    mlflow = {"run_id": "m" * 32, "experiment_id": "1"}
    makers = pipeline.makers(chosen.settings)
    broken = {**makers, "report": lambda have: 1 / 0}
    with pytest.raises(ZeroDivisionError):
        run_roles(chosen, pipeline.context, broken, "rerun", mlflow)
    done = run_roles(chosen, pipeline.context, makers, "rerun", mlflow)
    assert [each.status for each in runs.records(pipeline.context.store)] == ["finished", "finished"]
    assert runs.find(pipeline.context.store, "m" * 12) == done


def test_a_retry_of_a_forced_run_forces_only_what_its_first_try_had_not_made(pipeline: Pipeline) -> None:
    own = ["source.kind=tables", "source.train=a.parquet", "source.heldout=h.parquet"]
    chosen = whole(with_overrides(preset("tiny"), own), force=True)
    mlflow = {"run_id": "m" * 32, "experiment_id": "1"}
    makers = pipeline.makers(chosen.settings)
    before: list[str] = []

    def cut_off(have: Have) -> Artifact:
        (record,) = runs.records(pipeline.context.store)
        before.extend(record.artifacts)
        raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run_roles(chosen, pipeline.context, {**makers, "base": cut_off}, mlflow=mlflow)
    assert before.count("curated") == 2
    done = run_roles(chosen, pipeline.context, makers, mlflow=mlflow)
    assert {reference["attempt"] for reference in done.artifacts.values()} == {1}
    assert {reference["how"] for reference in done.artifacts.values()} == {"made"}
    again = run_roles(chosen, pipeline.context, makers)
    named = [
        {(each["fingerprint"], each["attempt"]) for each in run.artifacts.values()} for run in (done, again)
    ]
    assert not named[0] & named[1], "another run is forced anew"


def test_a_retry_that_fails_at_once_forgets_nothing(pipeline: Pipeline, first: RunRecord) -> None:
    chosen = plan("evaluate", first, Change(), pipeline.context.store)
    mlflow = {"run_id": "m" * 32, "experiment_id": "1"}
    makers = pipeline.makers(chosen.settings)
    run_roles(chosen, pipeline.context, makers, "rerun", mlflow)
    emptied = dataclasses.replace(chosen, kept={}, wanted=frozenset({"train"}))
    with pytest.raises(ZeroDivisionError):
        run_roles(emptied, pipeline.context, {"train": lambda have: 1 / 0}, "rerun", mlflow)
    assert runs.find(pipeline.context.store, "m" * 12).artifacts.keys() >= {"base", "report"}


def test_what_is_kept_is_in_the_record_before_the_work_begins(pipeline: Pipeline, first: RunRecord) -> None:
    chosen = plan("train-base", first, Change(only=True), pipeline.context.store)
    seen: list[set[str]] = []

    def base(have: Have) -> Artifact:
        seen.append(set(runs.records(pipeline.context.store)[-1].artifacts))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_roles(chosen, pipeline.context, {"base": base})
    assert seen == [set(chosen.kept)]
    assert {"upsampler", "report"} <= seen[0]


def test_a_record_that_cannot_be_closed_hides_no_reason(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = whole(preset("tiny"))

    def full(have: Have) -> Artifact:
        monkeypatch.setattr(runs, "write", lambda *_: 1 / 0)
        raise GigaganError("no space left")

    with pytest.raises(GigaganError, match="no space left"):
        run_roles(chosen, pipeline.context, {"train": full})
    assert "does not say that it ended" in capsys.readouterr().err


def test_latest_is_the_newest_run_that_finished(
    pipeline: Pipeline, first: RunRecord, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ZeroDivisionError):
        run_roles(whole(preset("tiny")), pipeline.context, {"train": lambda have: 1 / 0})
    assert runs.find(pipeline.context.store, "latest") == first
    assert f"latest is run {first.short}, the newest that finished" in capsys.readouterr().err


def test_replacing_the_embedded_drawings_leaves_their_licence_and_server_behind(pipeline: Pipeline) -> None:
    settings = preset("tiny")
    assert settings.ingest.site == "openmoji"
    train = pipeline.ingest(settings.ingest, ("e.parquet",), "train")
    others = {
        role: pipeline.make(role, settings.curate, {}) for role in ("heldout", "condition", "judge", "base")
    }
    others["heldout"] = pipeline.ingest(settings.ingest, ("f.parquet",), "heldout")
    references = {role: each.reference() for role, each in {"train": train, **others}.items()}
    record = RunRecord(
        "1" * 32, "pipeline", runs.now(), "", settings.model_dump(mode="json"), artifacts=references
    )
    chosen = plan("ingest", record, Change(("own.parquet",), "replace"), pipeline.context.store)
    assert chosen.settings.ingest.site is None
    assert chosen.settings.source.train == ("own.parquet",)
    assert chosen.settings.source.heldout == ("f.parquet",)
    added = plan("ingest", record, Change(("own.parquet",)), pipeline.context.store)
    assert added.settings.ingest.site == "openmoji"
    assert added.settings.source.train == ("e.parquet", "own.parquet")


def test_every_role_is_made_by_a_stage_decided_by_a_section_and_comes_after_what_it_needs() -> None:
    assert sorted(STAGE_OF) == sorted(ROLES)
    assert {role for roles in SECTIONS.values() for role in roles} == set(ROLES)
    assert set(SECTIONS) == set(PipelineSettings.model_fields)
    for role, needed in NEEDS.items():
        assert all(ROLES.index(need) < ROLES.index(role) for need in needed)


def test_a_change_of_the_one_training_set_reaches_the_upsampler_too() -> None:
    assert "upsampler" in downstream({"train"}, apart=False)
    assert downstream({"upsampler_train"}, apart=True) == {
        "upsampler_train",
        "upsampler_curated",
        "upsampler",
        "control",
        "report",
    }
    assert upstream({"control"}, apart=True) == {
        "control",
        "upsampler_curated",
        "upsampler_train",
        "condition",
        "train",
        "heldout",
    }
