"""The whole pipeline: from a table of URLs and captions to two trained GANs and a report."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows.curate import curate_stage
from flows.evaluate import evaluate_stage
from flows.ingest import ingest_stage
from flows.runtime import open_run, stage_task
from flows.train_base import train_base_stage
from flows.train_encoder import train_encoder_stage
from flows.train_upsampler import train_upsampler_stage
from gigagan_core.cli.closing import document
from gigagan_core.config.base import flat
from gigagan_core.config.pipeline import PipelineSettings, SourceSettings
from gigagan_core.stages.references import pipeline_settings
from gigagan_core.stages.sources import tables_of


@stage_task(name="publish")
def publish(source: SourceSettings) -> dict[str, str]:
    """The tables of the training and the held-out set; the embedded drawings' are written on first use."""
    return tables_of(source)


@flow(name="pipeline", persist_result=False)
def pipeline(
    preset: str = "demo",
    overrides: list[str] | None = None,
    settings: PipelineSettings | None = None,
    store: str | None = None,
    force: bool = False,
    accept_code_change: bool = False,
    ray_dashboard: bool = False,
) -> dict[str, Any]:
    """Ingest, encoders, curation, base model, upsampler and its control, evaluation.

    What the store has already is used again; a run that was cut off continues.

    Args:
        preset: settings to start from.
        overrides: changes to them, each as KEY=VALUE, e.g. base.training.schedule.total_images=100000.
        settings: all settings at once, in place of preset and overrides.
        store: folder or URI of the artifact store; without it the local one.
        force: work though the artifacts exist.
        accept_code_change: keep artifacts that older code made.
        ray_dashboard: serve Ray's page on loopback while the pipeline runs.

    Returns what `gigagan pipeline --json` prints.
    """
    chosen = settings or pipeline_settings(preset, overrides)
    with open_run(
        "pipeline",
        store,
        force,
        accept_code_change,
        flat(chosen),
        as_parent=True,
        ray_dashboard=ray_dashboard,
    ) as run:
        tables = publish(chosen.source)
        train = ingest_stage(run, chosen.ingest, tables["train"], "ingest train")
        heldout = ingest_stage(run, chosen.ingest, tables["heldout"], "ingest heldout")
        condition = train_encoder_stage(run, chosen.condition, train, heldout)
        judge = train_encoder_stage(run, chosen.judge, train, heldout)
        curated = curate_stage(run, chosen.curate, train, condition)
        base = train_base_stage(run, chosen.base, curated, condition)
        upsampler = train_upsampler_stage(run, chosen.upsampler, curated, condition)
        control = train_upsampler_stage(run, chosen.control, curated, condition) if chosen.control else None
        models = {"model": base, "upsampler": upsampler, "control": control}
        data = {"data": heldout, "train": curated, "condition": condition, "judge": judge}
        evaluate_stage(run, chosen.evaluate, {**models, **data})
        return document(run.context.history, run.parent.reference())
