"""Removing samples from every shard set of a store, and naming the models that were trained on them."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gigagan_core.data.forget import Forgotten, forget_in, forget_scores
from gigagan_core.data.shards import INDEX, Shard, read_index, write_index
from gigagan_core.data.status import FORGOTTEN
from gigagan_core.store.artifact import Artifact
from gigagan_core.store.lineage import made_of
from gigagan_core.store.store import Store

NOTES = "_forgotten"
SHARD_KINDS = ("partition", "shard-set")
SCORE_KINDS = ("scores", "embeddings")
TRAINED_KINDS = ("encoder", "base-model", "upsampler-model")


@dataclass
class Removal:
    """What a request did. rows: rows blanked, by artifact; trained: models and encoders made of those artifacts."""

    rows: list[tuple[Artifact, int]] = field(default_factory=list)
    trained: list[Artifact] = field(default_factory=list)


def forget(store: Store, forgotten: Forgotten) -> Removal:
    """Remove samples for good, and remember that: `ingest` will not bring them back.

    A shard set that loses samples gets a new output digest, so what depends on it runs again when it is asked for.
    Scores and embeddings that were made of them go too.
    Models are only named: whether one has to be trained again is a person's decision.
    """
    # Remembered first: an ingest that starts now leaves them out already.
    store.write_note(f"{NOTES}/{datetime.now(UTC):%Y%m%dT%H%M%S%f}.json", forgotten.as_json())
    removal, touched = Removal(), []
    keys: set[str] = set()
    everything = store.artifacts()
    for artifact in everything:
        if artifact.kind in SHARD_KINDS:
            with store.work(artifact.fingerprint):
                found = _forget_in_artifact(store, artifact, forgotten)
            if found:
                removal.rows.append((artifact, len(found)))
                touched.append(artifact)
                keys |= found
    descendants = made_of(everything, touched)
    for artifact in descendants:
        if artifact.kind in SCORE_KINDS:
            with store.work(artifact.fingerprint):
                _forget_in_scores(store, artifact, keys)
    removal.trained = [each for each in descendants if each.kind in TRAINED_KINDS]
    return removal


def remembered(store: Store) -> Forgotten:
    """Everything that this store was ever asked to forget."""
    found = Forgotten()
    for document in store.read_notes(NOTES):
        found |= Forgotten.from_json(document)
    return found


def _forget_in_artifact(store: Store, artifact: Artifact, forgotten: Forgotten) -> set[str]:
    """The keys of the rows that were blanked."""
    folder = artifact.path
    shards = read_index(folder) if (folder / INDEX).is_file() else _single_shard(folder)
    with tempfile.TemporaryDirectory(dir=store.scratch()) as scratch:
        blanked: set[str] = set()
        counted = 0
        new: dict[str, Path] = {}
        left: list[Shard] = []
        for shard in shards:
            keys, lost, files = forget_in(shard, forgotten, Path(scratch))
            blanked, counted, new = blanked | keys, counted + lost, new | files
            left.append(Shard(shard.tar, shard.parquet, shard.rows, shard.selected - lost))
        if not blanked:
            return blanked
        if (folder / INDEX).is_file():
            write_index(Path(scratch), [_at(shard, folder, Path(scratch)) for shard in left])
            new[INDEX] = Path(scratch) / INDEX
        own = {name: path for name, path in new.items() if _own(folder, name)}
        store.rewrite(artifact, own, _changes(artifact, len(blanked), counted))
    return blanked


def _forget_in_scores(store: Store, artifact: Artifact, keys: set[str]) -> None:
    with tempfile.TemporaryDirectory(dir=store.scratch()) as scratch:
        new, counted = {}, 0
        for name in artifact.notes["files"]:
            target = Path(scratch) / "output" / name
            target.parent.mkdir(exist_ok=True)
            counted += forget_scores(artifact.path / name, keys, target)
            if target.is_file():
                new[name] = target
        if new:
            store.rewrite(artifact, new, _changes(artifact, counted, counted))


def _changes(artifact: Artifact, blanked: int, counted: int) -> dict[str, Any]:
    """To the manifest, after rows were blanked of which so many counted."""
    counts = artifact.manifest.get("counts", {})
    rejected = {**counts.get("rejected", {})}
    rejected[FORGOTTEN] = rejected.get(FORGOTTEN, 0) + counted
    return {
        "counts": {**counts, "out": counts["out"] - counted, "rejected": rejected},
        "forgotten": [
            *artifact.manifest.get("forgotten", []),
            {"rows": blanked, "at": datetime.now(UTC).isoformat(timespec="seconds")},
        ],
    }


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
