"""Removing artifacts, each in one step, so that one is there whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from gigagan_core.store import cache
from gigagan_core.store.artifact import MANIFEST, STAGES, Artifact
from gigagan_core.store.names import folder_name
from gigagan_core.store.store import ACCEPTED, Store

TRASH = "_trash"


def last_used(store: Store, artifact: Artifact) -> float:
    """Seconds since the epoch: of a local store when it was made or found again, of a remote one when it was made."""
    made = datetime.fromisoformat(artifact.manifest["created"]).timestamp()
    if store.is_local:
        with contextlib.suppress(FileNotFoundError):
            return max(made, _touched(Path(artifact.uri)))
    return made


def remove(store: Store, artifact: Artifact, since: float) -> bool:
    """Remove an artifact that was last used before `since`; whether it went.

    It stays where its work is leased. A local one is renamed into the store's trash, and comes back where a run found
    it in that very moment. Of a remote one the manifest goes first.
    """
    with store.working.not_leased(artifact.fingerprint) as free:
        if not free or last_used(store, artifact) > since:
            return False
        try:
            gone = _to_trash(store, artifact, since) if store.is_local else _from_remote(store, artifact)
        except FileNotFoundError:  # another collection was quicker
            return False
        if gone:
            store.forget_names(artifact.stage)
            for entry in artifact.manifest.get("accepted", ()):
                store.remove_note(f"{ACCEPTED}/{artifact.stage}/{entry['fingerprint']}.json")
        return gone


def _to_trash(store: Store, artifact: Artifact, since: float) -> bool:
    folder = Path(artifact.uri)
    trashed = Path(store.root, TRASH, f"{artifact.stage}-{folder.name}-{uuid.uuid4().hex[:8]}")
    trashed.parent.mkdir(exist_ok=True)
    os.rename(folder, trashed)
    if _touched(trashed) > since:
        os.rename(trashed, folder)
        return False
    return True


def _from_remote(store: Store, artifact: Artifact) -> bool:
    folder = _strip(store, artifact)
    store.fs.rm_file(f"{folder}/{MANIFEST}")
    store.fs.rm(folder, recursive=True)
    cache.drop(artifact)
    return True


def trash_bytes(store: Store) -> int:
    """What emptying the trash gives back."""
    return freed_bytes([Path(store.root, TRASH)]) if store.is_local else 0


def empty_trash(store: Store) -> None:
    """Remove what was renamed into the trash, by this collection or one that was cut off."""
    if store.is_local:
        shutil.rmtree(Path(store.root, TRASH), ignore_errors=True)


def without_manifest(store: Store, artifacts: Iterable[Artifact], before: float) -> list[str]:
    """Folders beside all the artifacts that are none, and that nothing was written to since `before`.

    Of a remote store a commit that was cut off leaves one, and so does a removal. What has no stage's or no artifact's
    name was put there by others: a store may have been opened one folder too high.
    """
    known = {f"{each.stage}/{folder_name(each.fingerprint, each.attempt)}" for each in artifacts}
    stages = [stage for stage in store.stages() if stage in STAGES]
    places = (f"{stage}/{folder}" for stage in stages for folder in store.artifact_folders(stage))
    return [place for place in places if place not in known and _newest(store, place) < before]


def remove_folder(store: Store, place: str) -> None:
    """Remove a folder that is no artifact."""
    with contextlib.suppress(FileNotFoundError):
        store.fs.rm(f"{store.root}/{place}", recursive=True)


def freed_bytes(places: Iterable[Path]) -> int:
    """What the disk gets back when these files and folders go; a file with further names elsewhere gives nothing."""
    names: Counter[tuple[int, int]] = Counter()
    files: dict[tuple[int, int], os.stat_result] = {}
    for place in places:
        for path in [place] if place.is_file() else place.rglob("*"):
            with contextlib.suppress(FileNotFoundError):
                state = path.lstat()
                if path.is_symlink() or path.is_file():
                    names[state.st_dev, state.st_ino] += 1
                    files[state.st_dev, state.st_ino] = state
    return sum(state.st_size for inode, state in files.items() if names[inode] >= state.st_nlink)


def _touched(folder: Path) -> float:
    return (folder / MANIFEST).stat().st_mtime


def _newest(store: Store, place: str) -> float:
    """When a file of a folder was last written; now where that is not known, so that it stays."""
    times = []
    for details in store.fs.find(f"{store.root}/{place}", detail=True).values():
        time = details.get("mtime") or details.get("LastModified") or details.get("created")
        times.append(time.timestamp() if isinstance(time, datetime) else time)
    if store.is_local:
        times.append(Path(store.root, place).stat().st_mtime)
    return max(times, default=float("inf"))


def _strip(store: Store, artifact: Artifact) -> str:
    return store.fs._strip_protocol(artifact.uri)
