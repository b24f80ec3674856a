"""One task a stage. Flows use them; importing them makes no flow, whose form of parameters takes a while to draw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prefect.logging import get_run_logger

from flows.runtime import Run, stage_task
from gigagan_core.config.curate import CurateSettings
from gigagan_core.config.encoder import EncoderSettings
from gigagan_core.config.evaluate import EvaluateSettings
from gigagan_core.config.ingest import IngestSettings
from gigagan_core.config.pipeline import Tables
from gigagan_core.config.tradeoff import TradeoffSettings
from gigagan_core.config.training import BaseTrainingSettings, UpsamplerTrainingSettings
from gigagan_core.stages import curate, evaluate, ingest, tradeoff, train_base, train_encoder, train_upsampler
from gigagan_core.stages import gate as gates
from gigagan_core.store.artifact import Artifact, ExternalFile


@stage_task(name="ingest", task_run_name="{label}")
def ingest_stage(run: Run, settings: IngestSettings, metadata: Tables, label: str) -> Artifact:
    """metadata: a parquet file, a folder of them, a URI, or several. Gives a shard set."""
    return run.stage(ingest.run, settings, {"metadata": metadata}, label=label)


@stage_task(name="train-encoder", task_run_name="train-encoder {settings.role}")
def train_encoder_stage(run: Run, settings: EncoderSettings, data: Artifact, heldout: Artifact) -> Artifact:
    """data: training shard set. heldout: shard set for retrieval figures. Gives an encoder."""
    return run.stage(train_encoder.run, settings, {"data": data, "heldout": heldout})


@stage_task(name="curate")
def curate_stage(
    run: Run, settings: CurateSettings, data: Artifact, encoder: Artifact | ExternalFile
) -> Artifact:
    """data: shard set. encoder: of role condition. Gives a scored shard set."""
    return run.stage(curate.run, settings, {"data": data, "encoder": encoder})


@stage_task(name="train-base")
def train_base_stage(
    run: Run,
    settings: BaseTrainingSettings,
    data: Artifact | list[tuple[Artifact, float]],
    encoder: Artifact | ExternalFile,
    vision_encoder: Artifact | ExternalFile | None = None,
    init_from: Artifact | ExternalFile | None = None,
) -> Artifact:
    """data: training shard set. encoder: of role condition. vision_encoder: of the vision-aided heads.

    init_from: a base model.
    """
    inputs = {"data": data, "encoder": encoder, "vision_encoder": vision_encoder, "init_from": init_from}
    return run.stage(train_base.run, settings, inputs)


@stage_task(name="train-upsampler", task_run_name="train-upsampler {settings.training.objective}")
def train_upsampler_stage(
    run: Run,
    settings: UpsamplerTrainingSettings,
    data: Artifact | list[tuple[Artifact, float]],
    encoder: Artifact | ExternalFile,
    lpips: ExternalFile | None = None,
    init_from: Artifact | ExternalFile | None = None,
) -> Artifact:
    """data: training shard set. encoder: of role condition. lpips: a backbone's weights. init_from: an upsampler."""
    inputs = {"data": data, "encoder": encoder, "lpips": lpips, "init_from": init_from}
    return run.stage(train_upsampler.run, settings, inputs)


@stage_task(name="tradeoff")
def tradeoff_stage(run: Run, settings: TradeoffSettings, inputs: dict[str, Any]) -> Artifact:
    """inputs: as `gigagan_core.stages.tradeoff` names them. Gives the sweep's figures."""
    return run.stage(tradeoff.run, settings, inputs)


@stage_task(name="evaluate")
def evaluate_stage(run: Run, settings: EvaluateSettings, inputs: dict[str, Any]) -> Artifact:
    """inputs: as `gigagan_core.stages.evaluate` names them. Gives a report."""
    return run.stage(evaluate.run, settings, inputs)


@stage_task(name="gate")
def gate(
    report: Artifact,
    require: list[str],
    strict: bool,
    promote: Sequence[str],
    despite_cautions: bool = False,
) -> None:
    """Fails with a sentence for each requirement that does not hold, and each caution that shuts the gate; else the
    judged models are promoted."""
    for sentence in gates.pass_gate(report.path, require, strict, promote, despite_cautions):
        get_run_logger().info(sentence)
