"""What several tests of data do: ingest into a store, and look at what came of it."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from gigagan_core.config.ingest import IngestSettings
from gigagan_core.stages import ingest
from gigagan_core.stages.base import RunContext
from gigagan_core.store.artifact import Artifact


def run_ingest(metadata: object, settings: IngestSettings, store: Path) -> Artifact:
    """The shard set of these tables, in a store of this place."""
    with RunContext.open(str(store)) as context:
        return ingest.run(settings, {"metadata": metadata}, context)


def rows_of(artifact: Artifact) -> list[dict]:
    """Every row of a shard set."""
    shards = json.loads((artifact.path / "shards.json").read_text())
    return [row for shard in shards for row in pq.read_table(artifact.path / shard["parquet"]).to_pylist()]


def fates(artifact: Artifact) -> dict[str, tuple[str, str | None]]:
    """Key -> (status, sha256 of the fetched bytes)."""
    return {row["key"]: (row["status"], row["sha256"]) for row in rows_of(artifact)}


def members_of(tar: Path) -> dict[str, bytes]:
    """Name -> content of everything in a tar."""
    with tarfile.open(tar) as opened:
        return {member.name: opened.extractfile(member).read() for member in opened}


def pictures_of(folder: Path) -> set[str]:
    """Keys of the pictures in every tar of a folder."""
    return {name.partition(".")[0] for path in folder.glob("*.tar") for name in members_of(path)}


def table_of(folder: Path, urls: list[str], captions: list[str | None] | None = None) -> Path:
    """One more table of URLs and captions in a folder."""
    folder.mkdir(exist_ok=True)
    path = folder / f"t{len(list(folder.iterdir()))}.parquet"
    captions = captions or [f"caption {url}" for url in urls]
    pq.write_table(pa.table({"url": urls, "caption": pa.array(captions, pa.string())}), path)
    return path
