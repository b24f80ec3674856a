"""A shard set and an encoder become a base model."""

from __future__ import annotations

from prefect import flow

from flows.runtime import Run, open_run, stage_task
from gigagan_core.config.training import BaseTrainingSettings
from gigagan_core.stages import references
from gigagan_core.stages import train_base as stage
from gigagan_core.store.artifact import Artifact, ExternalFile


@stage_task(name="train-base")
def train_base_stage(
    run: Run, settings: BaseTrainingSettings, data: Artifact, encoder: Artifact | ExternalFile
) -> Artifact:
    """data: training shard set. encoder: of role condition. Gives a base model."""
    return run.stage(stage.run, settings, {"data": data, "encoder": encoder})


@flow(name="train-base", persist_result=False)
def train_base(
    data: str = "latest",
    encoder: str = "latest",
    preset: str = "demo",
    overrides: list[str] | None = None,
    settings: BaseTrainingSettings | None = None,
    store: str | None = None,
    force: bool = False,
    accept_code_change: bool = False,
) -> str:
    """Shard set, encoder -> base model: the text-to-image GAN at its lowest resolution.

    Args:
        data: training shard set: fingerprint, prefix, path, or latest.
        encoder: encoder: fingerprint, prefix, path, latest, or ARCH:PATH of a weight file.
        preset: settings to start from.
        overrides: changes to them, each as KEY=VALUE.
        settings: all settings at once, in place of preset and overrides.
        store: folder or URI of the artifact store; without it the local one.
        force: work though the artifact exists.
        accept_code_change: keep an artifact that older code made.

    Returns the model's fingerprint.
    """
    chosen = settings or references.settings_of(preset, "base", overrides)
    with open_run("train-base", store, force, accept_code_change) as run:
        shards = references.shard_set(run.store, data)
        return train_base_stage(run, chosen, shards, references.encoder(run.store, encoder)).fingerprint
