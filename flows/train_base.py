"""A shard set and an encoder become a base model."""

from __future__ import annotations

from prefect import flow

from flows.runtime import FLOW, open_run
from flows.tasks import train_base_stage
from gigagan_core.config.backend import BackendSettings
from gigagan_core.config.training import BaseTrainingSettings
from gigagan_core.stages import references
from gigagan_core.stages import train_base as stage


@flow(name="train-base", **FLOW)
def train_base(
    data: str | list[str] = "latest",
    encoder: str = "latest",
    vision_encoder: str | None = None,
    init_from: str | None = None,
    preset: str = "demo",
    overrides: list[str] | None = None,
    settings: BaseTrainingSettings | None = None,
    store: str | None = None,
    force: bool = False,
    accept_code_change: bool = False,
    backend: BackendSettings | None = None,
) -> str:
    """Shard set, encoder -> base model: the text-to-image GAN at its lowest resolution.

    Args:
        data: training shard set: fingerprint, prefix, path, or latest; several as ARTIFACT=WEIGHT for a mixture.
        encoder: encoder: fingerprint, prefix, path, latest, or ARCH:PATH of a weight file.
        vision_encoder: the same, for the vision-aided heads of a preset that has them; without it the encoder.
        init_from: an earlier base model that is the start: fingerprint, prefix, path, latest, or a bundle's folder.
        preset: settings to start from.
        overrides: changes to them, each as KEY=VALUE.
        settings: all settings at once, in place of preset and overrides.
        store: folder or URI of the artifact store; without it the local one.
        force: work though the artifact exists.
        accept_code_change: keep an artifact that older code made.
        backend: where the work is done; without it on the machine of this flow run.

    Returns the model's fingerprint.
    """
    chosen = settings or references.settings_of(preset, "base", overrides)
    with open_run("train-base", store, force, accept_code_change, backend=backend) as run:
        shards = references.training_data(run.store, data)
        condition = references.encoder(run.store, encoder)
        vision = references.encoder(run.store, vision_encoder) if vision_encoder else None
        start = references.initial_model(run.store, init_from, stage.SPEC.kind) if init_from else None
        return train_base_stage(run, chosen, shards, condition, vision, start).fingerprint
