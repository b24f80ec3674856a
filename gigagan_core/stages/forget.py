"""Removing samples from every shard set of a store, and naming the models that were trained on them."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from gigagan_core.data.forget import Forgotten, forget_in
from gigagan_core.data.shards import INDEX, Shard, read_index, write_index
from gigagan_core.data.status import FORGOTTEN
from gigagan_core.store.artifact import Artifact
from gigagan_core.store.lineage import made_of
from gigagan_core.store.store import Store

NOTES = "_forgotten"
SHARD_KINDS = ("partition", "shard-set")
TRAINED_KINDS = ("encoder", "base-model", "upsampler-model")


@dataclass
class Removal:
    """What a request did. rows: rows blanked, by artifact; trained: models and encoders made of those artifacts."""

    rows: list[tuple[Artifact, int]] = field(default_factory=list)
    trained: list[Artifact] = field(default_factory=list)


def forget(store: Store, forgotten: Forgotten) -> Removal:
    """Remove samples for good, and remember that: `ingest` will not bring them back.

    A shard set that loses samples gets a new output digest, so what depends on it runs again when it is asked for.
    Models are only named: whether one has to be trained again is a person's decision.
    """
    # Remembered first: an ingest that starts now leaves them out already.
    store.write_note(f"{NOTES}/{datetime.now(UTC):%Y%m%dT%H%M%S%f}.json", forgotten.as_json())
    removal, touched = Removal(), []
    everything = store.artifacts()
    for artifact in everything:
        if artifact.kind in SHARD_KINDS:
            with store.work(artifact.fingerprint):
                rows = _forget_in_artifact(store, artifact, forgotten)
            if rows:
                removal.rows.append((artifact, rows))
                touched.append(artifact)
    descendants = made_of(everything, touched)
    removal.trained = [each for each in descendants if each.kind in TRAINED_KINDS]
    return removal


def remembered(store: Store) -> Forgotten:
    """Everything that this store was ever asked to forget."""
    found = Forgotten()
    for document in store.read_notes(NOTES):
        found |= Forgotten.from_json(document)
    return found


def _forget_in_artifact(store: Store, artifact: Artifact, forgotten: Forgotten) -> int:
    folder = artifact.path
    shards = read_index(folder) if (folder / INDEX).is_file() else _single_shard(folder)
    with tempfile.TemporaryDirectory(dir=store.scratch()) as scratch:
        blanked = counted = 0
        new: dict[str, Path] = {}
        left: list[Shard] = []
        for shard in shards:
            rows, lost, files = forget_in(shard, forgotten, Path(scratch))
            blanked, counted, new = blanked + rows, counted + lost, new | files
            left.append(Shard(shard.tar, shard.parquet, shard.rows, shard.selected - lost))
        if not blanked:
            return 0
        if (folder / INDEX).is_file():
            write_index(Path(scratch), [_at(shard, folder, Path(scratch)) for shard in left])
            new[INDEX] = Path(scratch) / INDEX
        counts = artifact.manifest.get("counts", {})
        rejected = {**counts.get("rejected", {})}
        rejected[FORGOTTEN] = rejected.get(FORGOTTEN, 0) + counted
        changes = {
            "counts": {**counts, "out": counts["out"] - counted, "rejected": rejected},
            "forgotten": [
                *artifact.manifest.get("forgotten", []),
                {"rows": blanked, "at": datetime.now(UTC).isoformat(timespec="seconds")},
            ],
        }
        store.rewrite(artifact, {name: path for name, path in new.items() if _own(folder, name)}, changes)
    return blanked


def _single_shard(folder: Path) -> list[Shard]:
    """A partition's one shard, which has no index."""
    return [Shard(folder / "00000.tar", folder / "00000.parquet", 0, 0)]


def _at(shard: Shard, folder: Path, other: Path) -> Shard:
    """The shard with what lies in `folder` named as if it lay in `other`."""
    tar, parquet = (
        other / path.relative_to(folder) if path.is_relative_to(folder) else path
        for path in (shard.tar, shard.parquet)
    )
    return Shard(tar, parquet, shard.rows, shard.selected)


def _own(folder: Path, name: str) -> bool:
    """Whether a file is the artifact's own: a curated set may point at tars of another set, rewritten there."""
    return (folder / name).exists()
