"""Scores are added to every row of a shard set, and a rule on them selects."""

from __future__ import annotations

from prefect import flow

from flows.runtime import FLOW, open_run
from flows.tasks import curate_stage
from gigagan_core.config.backend import BackendSettings
from gigagan_core.config.curate import CurateSettings
from gigagan_core.stages import references


@flow(name="curate", **FLOW)
def curate(
    data: str = "latest",
    encoder: str = "latest",
    preset: str = "demo",
    overrides: list[str] | None = None,
    settings: CurateSettings | None = None,
    store: str | None = None,
    force: bool = False,
    accept_code_change: bool = False,
    backend: BackendSettings | None = None,
) -> str:
    """Shard set, encoder -> scored shard set; other rules do not score again.

    Args:
        data: shard set: fingerprint, prefix, path, or latest, the newest that is not curated.
        encoder: encoder: fingerprint, prefix, path, latest, or ARCH:PATH of a weight file.
        preset: settings to start from.
        overrides: changes to them, each as KEY=VALUE.
        settings: all settings at once, in place of preset and overrides.
        store: folder or URI of the artifact store; without it the local one.
        force: work though the artifact exists.
        accept_code_change: keep an artifact that older code made.
        backend: where the work is done; without it on the machine of this flow run.

    Returns the scored shard set's fingerprint.
    """
    chosen = settings or references.settings_of(preset, "curate", overrides)
    with open_run("curate", store, force, accept_code_change, backend=backend) as run:
        shards = references.uncurated(run.store, data)
        return curate_stage(run, chosen, shards, references.encoder(run.store, encoder)).fingerprint
