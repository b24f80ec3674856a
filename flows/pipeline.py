"""The whole pipeline: from a table of URLs and captions to two trained GANs and a report."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows.runtime import FLOW, Run, open_run, prefect_reference, stage_task
from flows.tasks import (
    curate_stage,
    evaluate_stage,
    gate,
    ingest_stage,
    train_base_stage,
    train_encoder_stage,
    train_upsampler_stage,
)
from gigagan_core.cli.closing import document
from gigagan_core.config.backend import BackendSettings
from gigagan_core.config.base import flat
from gigagan_core.config.pipeline import PipelineSettings, SourceSettings, Tables
from gigagan_core.stages.gate import checked
from gigagan_core.stages.recorded import Have, Makers, run_roles
from gigagan_core.stages.references import pipeline_settings
from gigagan_core.stages.rerun import RunPlan, whole
from gigagan_core.stages.roles import MADE_BY
from gigagan_core.stages.sources import tables_of
from gigagan_core.store.artifact import Artifact


@stage_task(name="publish")
def publish(source: SourceSettings) -> dict[str, Tables]:
    """The tables of the training and the held-out set; the embedded drawings' are written on first use."""
    return tables_of(source)


@flow(name="pipeline", **FLOW)
def pipeline(
    preset: str = "demo",
    overrides: list[str] | None = None,
    settings: PipelineSettings | None = None,
    store: str | None = None,
    force: bool = False,
    accept_code_change: bool = False,
    backend: BackendSettings | None = None,
    ray_dashboard: bool = False,
) -> dict[str, Any]:
    """Ingest, encoders, curation, base model, upsampler and its control, evaluation, and a gate where one is set.

    What the store has already is used again; a run that was cut off continues.

    Args:
        preset: settings to start from.
        overrides: changes to them, each as KEY=VALUE, e.g. base.training.schedule.total_images=100000.
        settings: all settings at once, in place of preset and overrides.
        store: folder or URI of the artifact store; without it the local one.
        force: work though the artifacts exist.
        accept_code_change: keep artifacts that older code made.
        backend: where the work is done; without it on the machine of this flow run.
        ray_dashboard: serve Ray's page on loopback while the pipeline runs.

    Returns what `gigagan pipeline --json` prints.
    """
    chosen = settings or pipeline_settings(preset, overrides)
    checked(chosen.gate.require, None)
    with open_run(
        "pipeline",
        store,
        accept_code_change=accept_code_change,
        params=flat(chosen),
        as_parent=True,
        ray_dashboard=ray_dashboard,
        backend=backend,
    ) as run:
        return run_plan(run, whole(chosen, force), "pipeline")


def run_plan(run: Run, plan: RunPlan, flow: str) -> dict[str, Any]:
    """Run what a plan wants, in a run that is a parent; gives what `--json` prints."""
    fetches = plan.wanted.intersection(MADE_BY["ingest"])
    makers = _makers(run, plan.settings, publish(plan.settings.source) if fetches else {})
    run.parent.set_tags({"gigagan.rerun_of": plan.of})
    record = run_roles(
        plan, run.context, makers, flow, mlflow=run.parent.reference(), prefect=prefect_reference()
    )
    requirements = checked(plan.settings.gate.require, None)
    if requirements and "report" in plan.wanted:
        report = next(
            line.artifact for line in reversed(run.context.history) if line.artifact.kind == "report"
        )
        settings = plan.settings.gate
        gate(report, requirements, settings.strict, settings.promote, settings.despite_cautions)
    return document(run.context.history, run.parent.reference(), record)


def _makers(run: Run, settings: PipelineSettings, tables: dict[str, Tables]) -> Makers:
    """The stages of a pipeline run by role."""
    return {
        "train": lambda have: ingest_stage(run, settings.ingest, tables["train"], "ingest train"),
        "heldout": lambda have: ingest_stage(run, settings.ingest, tables["heldout"], "ingest heldout"),
        "upsampler_train": lambda have: ingest_stage(
            run, settings.ingest, tables["upsampler"], "ingest upsampler"
        ),
        "condition": lambda have: train_encoder_stage(
            run, settings.condition, have["train"], have["heldout"]
        ),
        "judge": lambda have: train_encoder_stage(run, settings.judge, have["train"], have["heldout"]),
        "curated": lambda have: curate_stage(run, settings.curate, have["train"], have["condition"]),
        "upsampler_curated": lambda have: curate_stage(
            run, settings.curate, have["upsampler_train"], have["condition"]
        ),
        "base": lambda have: train_base_stage(run, settings.base, have["curated"], have["condition"]),
        "upsampler": lambda have: train_upsampler_stage(
            run, settings.upsampler, _of_upsampler(have), have["condition"]
        ),
        "control": lambda have: train_upsampler_stage(
            run, settings.control, _of_upsampler(have), have["condition"]
        ),
        "report": lambda have: evaluate_stage(run, settings.evaluate, _judged(have)),
    }


def _of_upsampler(have: Have) -> Artifact:
    """The upsampler's training set: its own, or the base model's."""
    return have.get("upsampler_curated") or have["curated"]


def _judged(have: Have) -> dict[str, Artifact | None]:
    """What is evaluated, and by what."""
    models = {"model": have["base"], "upsampler": have["upsampler"], "control": have.get("control")}
    data = {"data": have["heldout"], "train": have["curated"]}
    return {**models, **data, "condition": have["condition"], "judge": have["judge"]}
