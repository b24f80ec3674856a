"""A shard set becomes an encoder: a small CLIP, where no weight file of a large one is given."""

from __future__ import annotations

from typing import Literal

from prefect import flow

from flows.runtime import FLOW, open_run
from flows.tasks import train_encoder_stage
from gigagan_core.config.backend import BackendSettings
from gigagan_core.config.encoder import EncoderSettings
from gigagan_core.stages import references


@flow(name="train-encoder", **FLOW)
def train_encoder(
    role: Literal["condition", "judge"] = "condition",
    data: str = "latest",
    heldout: str = "latest",
    preset: str = "demo",
    overrides: list[str] | None = None,
    settings: EncoderSettings | None = None,
    store: str | None = None,
    force: bool = False,
    accept_code_change: bool = False,
    backend: BackendSettings | None = None,
) -> str:
    """Shard set -> encoder, which conditions the GAN or judges it.

    Args:
        role: condition (for training and curation) or judge (for every reported figure).
        data: training shard set: fingerprint, prefix, path, or latest, the newest that is not curated.
        heldout: held-out shard set, for retrieval figures.
        preset: settings to start from.
        overrides: changes to them, each as KEY=VALUE.
        settings: all settings at once, in place of role, preset and overrides.
        store: folder or URI of the artifact store; without it the local one.
        force: work though the artifact exists.
        accept_code_change: keep an artifact that older code made.
        backend: where the work is done; without it on the machine of this flow run.

    Returns the encoder's fingerprint.
    """
    chosen = settings or references.settings_of(preset, role, overrides)
    with open_run("train-encoder", store, force, accept_code_change, backend=backend) as run:
        training = references.uncurated(run.store, data)
        held_out = references.shard_set(run.store, heldout, held_out=True)
        return train_encoder_stage(run, chosen, training, held_out).fingerprint
