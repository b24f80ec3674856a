"""The artifact store: `STORE/<stage>/<fingerprint>/`, committed by its manifest.

A folder without `manifest.json` does not exist for the store. Work in progress lies in
`STORE/_work/<fingerprint>/`, survives a kill and is leased to one run at a time. A local store commits
by renaming the finished folder; any other file system of fsspec is filled by copying, the manifest last.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gigagan_core import environment
from gigagan_core.errors import GigaganError
from gigagan_core.store import cache, claims
from gigagan_core.store.artifact import KIND_OF_STAGE, LOG, MANIFEST, MANIFEST_SCHEMA, Artifact
from gigagan_core.store.fingerprint import digest, sha256_file
from gigagan_core.store.leases import WorkFolders
from gigagan_core.store.names import StageNames, folder_name, is_folder_name, is_stage_name, parse_name
from gigagan_core.store.place import Place, as_json, write_atomically
from gigagan_core.store.resolving import resolve

WORK, ACCEPTED = "_work", "_accepted"


class Store(Place):
    """Opened with `open_store`; holds no open file and may be used from several threads.

    working: the folders of unfinished work.
    """

    def __init__(self, uri: str):
        super().__init__(uri)
        base = (
            Path(self.root) / WORK if self.is_local else environment.home() / "work" / digest(self.uri)[:12]
        )
        self.working = WorkFolders(base)
        self._names = StageNames(self.folders)

    # ---- finding -----------------------------------------------------------------------------------

    def find(self, stage: str, fingerprint: str) -> Artifact | None:
        """The newest attempt with this fingerprint, or an artifact accepted under it; None if neither.

        The stage's folder is listed once in the life of this object, however many are asked for.
        """
        newest = self._newest_attempt(stage, fingerprint)
        if newest is not None:
            return newest
        accepted = self.read_note(f"{ACCEPTED}/{stage}/{fingerprint}.json")
        return None if accepted is None else self._load(f"{stage}/{accepted['folder']}")

    def attempt(self, stage: str, fingerprint: str, attempt: int = 1) -> Artifact | None:
        """Exactly this attempt, or None."""
        return self._load(f"{stage}/{folder_name(fingerprint, attempt)}")

    def at(self, uri: str) -> Artifact | None:
        """The artifact whose folder is at `uri`, in this store or outside it; None where there is none."""
        import fsspec

        try:
            fs, path = fsspec.core.url_to_fs(uri)
            return Artifact.from_manifest(json.loads(fs.cat_file(f"{path}/{MANIFEST}")), uri)
        except (OSError, ValueError, KeyError, ImportError):
            return None

    def find_with_other_code(self, stage: str, settings: Any, inputs: Any) -> Artifact | None:
        """The newest artifact of a stage with equal settings and inputs, whatever code made it."""
        same = [
            artifact
            for artifact in self.artifacts(stage)
            if artifact.manifest["parts"]["settings"] == settings
            and artifact.manifest["parts"]["inputs"] == inputs
        ]
        return same[-1] if same else None

    def artifacts(self, stage: str | None = None, kinds: Iterable[str] = ()) -> list[Artifact]:
        """Every committed artifact, of one stage or of all, oldest first. kinds: only these; empty: all."""
        kinds = tuple(kinds)
        places = [
            f"{name}/{folder}"
            for name in ([stage] if stage else self.stages())
            if not kinds or KIND_OF_STAGE.get(name) in (None, *kinds)
            for folder in self.artifact_folders(name)
        ]
        found = [each for each in self._load_all(places) if not kinds or each.kind in kinds]
        return sorted(found, key=lambda artifact: artifact.manifest["created"])

    def stages(self) -> list[str]:
        """The stages that have a folder here."""
        return [name for name in self.folders("") if is_stage_name(name)]

    def artifact_folders(self, stage: str) -> list[str]:
        """The names of a stage's folders that an artifact may have, sorted."""
        return [name for name in self.folders(stage) if is_folder_name(name)]

    def resolve(
        self,
        reference: str,
        kinds: tuple[str, ...],
        where: Callable[[Artifact], bool] = lambda artifact: True,
        what: str = "artifact",
    ) -> Artifact:
        """The artifact a person named, see `resolving.resolve`."""
        return resolve(self, reference, kinds, where, what)

    def with_prefix(self, prefix: str, attempt: int | None = None) -> list[Artifact]:
        """Artifacts whose fingerprint begins so; attempt: only that one."""
        places = [
            f"{stage}/{folder}"
            for stage in self.stages()
            for folder in self.artifact_folders(stage)
            if folder.startswith(prefix) and attempt in (None, parse_name(folder)[1])
        ]
        return self._load_all(places)

    # ---- working and committing --------------------------------------------------------------------

    @contextlib.contextmanager
    def work(
        self,
        fingerprint: str,
        on_wait: Callable[[str], None] = lambda holder: None,
        uses: Iterable[Artifact] = (),
    ) -> Iterator[Path]:
        """The resumable folder of one fingerprint, leased until the block ends.

        on_wait: called once with who holds it, when this run has to wait. uses: what the work reads, which
        `garbage` spares meanwhile. The folder is left as it is; `commit` and `discard_work` remove it.
        """
        references = [artifact.reference() for artifact in uses]
        with contextlib.ExitStack() as stack:
            try:
                folder = stack.enter_context(self.working.lease(fingerprint, references, on_wait))
            except OSError as error:
                raise GigaganError(
                    f"store {self.uri} cannot be written: {error}; check the path and its rights"
                ) from None
            yield folder

    def commit(self, output: Path, manifest: dict[str, Any], another: bool = True) -> Artifact:
        """Make `output`'s files an artifact: sums, manifest, then the one step that makes it exist.

        manifest: stage, kind, fingerprint and the record; files, attempt, output digest and time are
        filled in here. another: though there is one by now; else one that another machine has committed meanwhile is
        taken. Raises GigaganError where the store cannot be written.
        """
        stage, fingerprint = manifest["stage"], manifest["fingerprint"]
        for cut_off in output.glob(f".{MANIFEST}.*"):  # a kill while a manifest was written
            cut_off.unlink()
        files = {
            str(path.relative_to(output)): {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
            for path in sorted(output.rglob("*"))
            if path.is_file() and path not in (output / MANIFEST, output / LOG)
        }
        previous = self._newest_attempt(stage, fingerprint)
        if previous is not None and not another:
            return previous
        attempt = 1 if previous is None else previous.attempt + 1
        if not self.is_local:
            attempt = self._claimed(stage, fingerprint, attempt, claims.owner_of(output.parent))
        manifest = {
            "schema": MANIFEST_SCHEMA,
            **manifest,
            "attempt": attempt,
            "output_digest": _output_digest(manifest["kind"], attempt, files),
            "created": _now(),
            "files": files,
            "accepted": [],
        }
        name = folder_name(fingerprint, attempt)
        if self.is_local:
            write_atomically(output / MANIFEST, as_json(manifest))
            return self._rename_into_place(output, f"{stage}/{name}")
        target = f"{self.root}/{stage}/{name}"
        for relative in files:
            self.fs.makedirs(os.path.dirname(f"{target}/{relative}"), exist_ok=True)
            self.fs.put_file(str(output / relative), f"{target}/{relative}")
        if (output / LOG).is_file():
            self.fs.put_file(str(output / LOG), f"{target}/{LOG}")
        self.fs.pipe_file(f"{target}/{MANIFEST}", as_json(manifest).encode())
        artifact = self._load(f"{stage}/{name}")
        assert artifact is not None
        return artifact

    def finish_interrupted_commit(self, output: Path) -> Artifact | None:
        """Commit what a killed run had finished: its manifest lies in `output`, only the rename is missing."""
        if not self.is_local or not (output / MANIFEST).is_file():
            return None
        manifest = json.loads((output / MANIFEST).read_text())
        name = folder_name(manifest["fingerprint"], manifest["attempt"])
        return self._rename_into_place(output, f"{manifest['stage']}/{name}")

    def discard_work(self, fingerprint: str) -> None:
        """Remove a work folder whose artifact is committed. The caller holds its lease."""
        self.working.discard(fingerprint)

    def accept(self, artifact: Artifact, fingerprint: str, code: str) -> Artifact:
        """Record in an artifact's manifest that it also stands for what newer code would make."""
        entry = {"fingerprint": fingerprint, "code": code, "accepted_at": _now()}
        manifest = {**artifact.manifest, "accepted": [*artifact.manifest.get("accepted", []), entry]}
        self._write_manifest(artifact, manifest)
        folder = folder_name(artifact.fingerprint, artifact.attempt)
        self.write_note(f"{ACCEPTED}/{artifact.stage}/{fingerprint}.json", {"folder": folder})
        return Artifact.from_manifest(manifest, artifact.uri)

    def touch(self, artifact: Artifact) -> bool:
        """Note that an artifact is used again, where the store is local; False where it is gone meanwhile."""
        if not self.is_local:
            return True
        try:
            os.utime(Path(artifact.uri) / MANIFEST)
        except FileNotFoundError:
            return False
        except OSError:
            return True  # somebody else's, who may remove it and we may not
        return True

    def forget_names(self, stage: str) -> None:
        """Something of a stage was removed past this object."""
        self._names.forget(stage)

    def rewrite(self, artifact: Artifact, files: Mapping[str, Path], changes: Mapping[str, Any]) -> Artifact:
        """Replace some files of an artifact, for what has to be removed for good.

        files: the new ones, by relative name, replaced in this order. changes: to the manifest, which comes last. Sums
        and output digest follow, so what depends on the artifact runs again; its fingerprint stays, so it is not made
        anew itself.
        """
        sums = {
            name: {"bytes": path.stat().st_size, "sha256": sha256_file(path)} for name, path in files.items()
        }
        all_files = {**artifact.manifest["files"], **sums}
        manifest = {
            **artifact.manifest,
            **changes,
            "files": all_files,
            "output_digest": _output_digest(artifact.kind, artifact.attempt, all_files),
            "former_digests": sorted(artifact.digests),
        }
        target = self._strip(artifact.uri)
        for name, path in files.items():
            if self.is_local:
                # Renamed over the old name, never written into it: other artifacts may be linked to its bytes.
                beside = Path(target) / f".{os.path.basename(name)}.{os.getpid()}"
                shutil.copyfile(path, beside)
                os.replace(beside, Path(target) / name)
            else:
                self.fs.put_file(str(path), f"{target}/{name}")
        self._write_manifest(artifact, manifest)
        if not self.is_local:  # the copy that this machine keeps of what was there before
            cache.drop(artifact)
        return Artifact.from_manifest(manifest, artifact.uri)

    def scratch(self) -> Path:
        """A local folder for unfinished files, on the store's own disk where it is local."""
        self.working.base.mkdir(parents=True, exist_ok=True)
        return self.working.base

    # ---- inside ------------------------------------------------------------------------------------

    def _rename_into_place(self, output: Path, relative: str) -> Artifact:
        target = Path(self.root) / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():  # left by something that is no artifact, or this very commit repeated
            existing = self._load(relative)
            if existing is not None:
                return existing
            shutil.rmtree(target)
        os.rename(output, target)
        artifact = self._load(relative)
        assert artifact is not None
        return artifact

    def _claimed(self, stage: str, fingerprint: str, attempt: int, owner: bytes) -> int:
        """The first attempt, from this one on, whose folder no other machine fills."""
        while not claims.claim(self.fs, f"{self.root}/{stage}/{folder_name(fingerprint, attempt)}", owner):
            attempt += 1
        return attempt

    def _write_manifest(self, artifact: Artifact, manifest: dict[str, Any]) -> None:
        if self.is_local:
            write_atomically(Path(artifact.uri) / MANIFEST, as_json(manifest))
        else:
            self.fs.pipe_file(f"{self._strip(artifact.uri)}/{MANIFEST}", as_json(manifest).encode())

    def _newest_attempt(self, stage: str, fingerprint: str) -> Artifact | None:
        """Of those that were there when the stage was listed, and of what other processes have committed since."""
        known = self._names.newest(stage, fingerprint)
        found = None
        while (later := self.attempt(stage, fingerprint, known + 1)) is not None:
            found, known = later, known + 1
            self._names.add(stage, fingerprint, known)
        for attempt in range(known, 0, -1) if found is None else ():
            if (found := self.attempt(stage, fingerprint, attempt)) is not None:
                break
        return found

    def _load(self, relative: str) -> Artifact | None:
        raw = self.read(f"{relative}/{MANIFEST}")
        return None if raw is None else self._parse(relative, raw)

    def _load_all(self, places: list[str]) -> list[Artifact]:
        """What `_load` gives for each place."""
        read = self.read_all([f"{place}/{MANIFEST}" for place in places])
        return [self._parse(name.removesuffix(f"/{MANIFEST}"), raw) for name, raw in read.items()]

    def _parse(self, relative: str, raw: bytes) -> Artifact:
        path = f"{self.root}/{relative}"
        try:
            manifest = json.loads(raw)
        except ValueError:
            raise GigaganError(
                f"{self.fs.unstrip_protocol(path)}/{MANIFEST} is not JSON; remove that folder and run the stage again"
            ) from None
        try:
            return Artifact.from_manifest(manifest, path if self.is_local else self.fs.unstrip_protocol(path))
        except (KeyError, TypeError):
            raise GigaganError(
                f"{self.fs.unstrip_protocol(path)}/{MANIFEST} is no artifact's; move that folder out of the store"
            ) from None

    def _strip(self, uri: str) -> str:
        return self.fs._strip_protocol(uri)


def _output_digest(kind: str, attempt: int, files: Mapping[str, Mapping[str, Any]]) -> str:
    """Of what came out alone, so that new code which makes the same files makes nothing downstream run again; a
    forced attempt counts, so that everything which depends on it does.
    """
    sums = {name: entry["sha256"] for name, entry in files.items()}
    return digest({"kind": kind, "attempt": attempt, "files": sums})


def open_store(uri: str | None = None, for_reading: bool = False) -> Store:
    """Open a store by URI (default: `environment.store_uri()`), and see that it can be reached.

    for_reading: nothing will be made in it, so a local one may belong to others; it is not created. Raises
    GigaganError where it cannot be read or, for a local one, written, and where one that was named to be read is not
    there.
    """
    store = Store(uri or environment.store_uri())
    if store.is_local and for_reading:
        if uri and not os.path.lexists(store.uri):
            raise GigaganError(
                f"store {store.uri} does not exist; name the folder or URI of one with --store"
            )
        store.folders("")
        return store
    if store.is_local:
        root = Path(store.uri)
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise GigaganError(
                f"store {store.uri} cannot be created: {error.strerror}; check the path"
            ) from None
        if not os.access(root, os.W_OK | os.X_OK):
            raise GigaganError(f"store {store.uri} cannot be written; check its owner and rights")
        return store
    try:
        store.fs.exists(store.root)
        store.folders("")
    except GigaganError:
        raise
    except Exception as error:  # every file system has errors of its own
        raise GigaganError(
            f"store {store.uri} cannot be reached: {error}; check address and credentials"
        ) from None
    return store


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
