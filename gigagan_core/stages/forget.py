"""Removing samples from every shard set of a store, and naming the models that were trained on them."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from gigagan_core.data.forget import Forgotten, forget_in, forget_scores
from gigagan_core.data.shards import INDEX, Shard, read_index, write_index
from gigagan_core.data.status import FORGOTTEN
from gigagan_core.store.artifact import Artifact
from gigagan_core.store.fingerprint import sha256_file
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
    After a kill the same request, given again, ends what was begun.
    """
    # Remembered first: an ingest that starts now leaves them out already.
    store.write_note(f"{NOTES}/{datetime.now(UTC):%Y%m%dT%H%M%S%f}.json", forgotten.as_json())
    removal, holding = Removal(), []
    gone: set[str] = set()
    everything = store.artifacts()
    for artifact in everything:
        if artifact.kind in SHARD_KINDS:
            with store.work(artifact.fingerprint):
                keys, all_keys = _forget_in_artifact(store, artifact, forgotten)
            if keys:
                removal.rows.append((artifact, len(keys)))
            if all_keys:
                holding.append(artifact)
                gone |= all_keys
    for artifact in made_of(everything, holding):
        if artifact.kind in SCORE_KINDS:
            with store.work(artifact.fingerprint):
                _forget_in_scores(store, artifact, gone)
    descendants = made_of(everything, [artifact for artifact, _ in removal.rows])
    removal.trained = [each for each in descendants if each.kind in TRAINED_KINDS]
    return removal


def remembered(store: Store) -> Forgotten:
    """Everything that this store was ever asked to forget."""
    found = Forgotten()
    for document in store.read_notes(NOTES):
        found |= Forgotten.from_json(document)
    return found


def _forget_in_artifact(store: Store, artifact: Artifact, forgotten: Forgotten) -> tuple[set[str], set[str]]:
    """The keys of the rows that were blanked, and of all that ever were."""
    folder = artifact.path
    shards = read_index(folder) if (folder / INDEX).is_file() else _single_shard(folder)
    with tempfile.TemporaryDirectory(dir=store.scratch()) as scratch:
        blanked = [forget_in(shard, forgotten, Path(scratch)) for shard in shards]
        keys = set().union(*(each.keys for each in blanked))
        if keys or _unfinished(artifact, folder):
            new = {name: path for each in blanked for name, path in each.files.items()}
            if (folder / INDEX).is_file():
                left = [
                    _at(Shard(shard.tar, shard.parquet, shard.rows, of_shard.left), folder, Path(scratch))
                    for shard, of_shard in zip(shards, blanked, strict=True)
                ]
                write_index(Path(scratch), left)
                new[INDEX] = Path(scratch) / INDEX
            _rewrite(store, artifact, folder, new, len(keys), sum(each.left for each in blanked))
    return keys, set().union(*(each.gone for each in blanked))


def _forget_in_scores(store: Store, artifact: Artifact, keys: set[str]) -> None:
    folder = artifact.path
    with tempfile.TemporaryDirectory(dir=store.scratch()) as scratch:
        new, left = {}, 0
        for name in artifact.notes["files"]:
            target = Path(scratch) / "output" / name
            target.parent.mkdir(exist_ok=True)
            left += forget_scores(folder / name, keys, target)
            if target.is_file():
                new[name] = target
        if new or _unfinished(artifact, folder):
            _rewrite(store, artifact, folder, new, artifact.manifest["counts"]["out"] - left, left)


def _unfinished(artifact: Artifact, folder: Path) -> bool:
    """Whether a kill has left tables that the manifest does not know."""
    tables = (name for name in artifact.manifest["files"] if name.endswith(".parquet"))
    return any(sha256_file(folder / name) != artifact.manifest["files"][name]["sha256"] for name in tables)


def _rewrite(
    store: Store, artifact: Artifact, folder: Path, new: dict[str, Path], blanked: int, left: int
) -> None:
    """Put new files in the place of the old ones. left: rows that still count.

    Where a kill has left others than the manifest knows, they are all summed again.
    """
    counts = artifact.manifest["counts"]
    rejected = {reason: count for reason, count in counts["rejected"].items() if reason != FORGOTTEN}
    rejected[FORGOTTEN] = counts["in"] - left - sum(rejected.values())
    forgotten = {"rows": blanked, "at": datetime.now(UTC).isoformat(timespec="seconds")}
    changes = {
        "counts": {**counts, "out": left, "rejected": rejected},
        "forgotten": [*artifact.manifest.get("forgotten", []), forgotten],
    }
    own = {name: path for name, path in new.items() if _own(folder, name)}
    if _unfinished(artifact, folder):
        own |= {name: folder / name for name in artifact.manifest["files"] if name not in own}
    store.rewrite(artifact, own, changes)


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
