"""Tables of URLs and captions become a shard set."""

from __future__ import annotations

from typing import Literal

from prefect import flow

from flows.runtime import FLOW, open_run
from flows.tasks import ingest_stage
from gigagan_core.config.backend import BackendSettings
from gigagan_core.config.ingest import IngestSettings
from gigagan_core.config.presets import preset as preset_settings
from gigagan_core.stages.references import settings_of
from gigagan_core.stages.sources import tables_of


@flow(name="ingest", **FLOW)
def ingest(
    preset: str = "demo",
    overrides: list[str] | None = None,
    settings: IngestSettings | None = None,
    metadata: str | None = None,
    split: Literal["train", "heldout"] = "train",
    store: str | None = None,
    force: bool = False,
    accept_code_change: bool = False,
    backend: BackendSettings | None = None,
) -> str:
    """Tables of URLs and captions -> filter -> download -> rules -> shard set.

    Args:
        preset: settings to start from.
        overrides: changes to them, each as KEY=VALUE.
        settings: all settings at once, in place of preset and overrides.
        metadata: parquet file, folder or URI; without it the preset's own source.
        split: which part of the preset's source; also names the shard set.
        store: folder or URI of the artifact store; without it the local one.
        force: work though the artifact exists.
        accept_code_change: keep an artifact that older code made.
        backend: where the work is done; without it on the machine of this flow run.

    Returns the shard set's fingerprint.
    """
    chosen = settings or settings_of(preset, "ingest", overrides, own_tables=bool(metadata))
    tables = metadata or tables_of(preset_settings(preset).source)[split]
    with open_run("ingest", store, force, accept_code_change, backend=backend) as run:
        return ingest_stage(run, chosen, tables, f"ingest {split}").fingerprint
