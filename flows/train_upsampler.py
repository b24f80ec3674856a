"""A shard set and an encoder become an upsampler, or its L1-only control."""

from __future__ import annotations

from typing import Literal

from prefect import flow

from flows.runtime import FLOW, open_run
from flows.tasks import train_upsampler_stage
from gigagan_core.config.backend import BackendSettings
from gigagan_core.config.training import UpsamplerTrainingSettings
from gigagan_core.stages import references
from gigagan_core.stages import train_upsampler as stage


@flow(name="train-upsampler", **FLOW)
def train_upsampler(
    data: str | list[str] = "latest",
    encoder: str = "latest",
    lpips: str | None = None,
    objective: Literal["gan", "l1"] = "gan",
    init_from: str | None = None,
    preset: str = "demo",
    overrides: list[str] | None = None,
    settings: UpsamplerTrainingSettings | None = None,
    store: str | None = None,
    force: bool = False,
    accept_code_change: bool = False,
    backend: BackendSettings | None = None,
) -> str:
    """Shard set, encoder -> upsampler: low-resolution images become large ones.

    Args:
        data: training shard set: fingerprint, prefix, path, or latest; several as ARTIFACT=WEIGHT for a mixture.
        encoder: encoder: fingerprint, prefix, path, latest, or ARCH:PATH of a weight file.
        lpips: LPIPS weights as BACKBONE:PATH, for a preset whose losses have lpips.
        objective: gan, or l1 for the preset's control, which the report sets beside it.
        init_from: an earlier upsampler that is the start: fingerprint, prefix, path, latest, or a bundle's folder.
        preset: settings to start from.
        overrides: changes to them, each as KEY=VALUE.
        settings: all settings at once, in place of objective, preset and overrides.
        store: folder or URI of the artifact store; without it the local one.
        force: work though the artifact exists.
        accept_code_change: keep an artifact that older code made.
        backend: where the work is done; without it on the machine of this flow run.

    Returns the model's fingerprint.
    """
    part = "upsampler" if objective == "gan" else "control"
    chosen = settings or references.settings_of(preset, part, overrides)
    with open_run("train-upsampler", store, force, accept_code_change, backend=backend) as run:
        shards = references.training_data(run.store, data)
        condition = references.encoder(run.store, encoder)
        weights = references.lpips_weights(lpips) if lpips else None
        start = references.initial_model(run.store, init_from, stage.SPEC.kind) if init_from else None
        return train_upsampler_stage(run, chosen, shards, condition, weights, start).fingerprint
