"""The artifact store: `STORE/<stage>/<fingerprint>/`, committed by its manifest.

A folder without `manifest.json` does not exist for the store. Work in progress lies in
`STORE/_work/<fingerprint>/`, survives a kill and is leased to one run at a time. A local store commits
by renaming the finished folder; any other file system of fsspec is filled by copying, the manifest last.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gigagan_core import environment
from gigagan_core.errors import GigaganError
from gigagan_core.store.artifact import MANIFEST, MANIFEST_SCHEMA, Artifact
from gigagan_core.store.fingerprint import digest, sha256_file

WORK = "_work"
LEASE_POLL_SECONDS = 1.0


class Store:
    """Opened with `open_store`; holds no open file and may be used from several threads."""

    def __init__(self, uri: str):
        import fsspec

        self.uri = uri.rstrip("/")
        try:
            self._fs, self._root = fsspec.core.url_to_fs(self.uri)
        except (ImportError, ValueError) as error:
            raise GigaganError(f"store {uri}: {error}; give a folder or a URI that fsspec can open") from None
        self._root = self._root.rstrip("/")
        self.is_local = "file" in _protocols(self._fs)
        if self.is_local:
            self.uri = self._root
        # What an artifact was accepted under when it was first seen: a stage of a thousand partitions asks a thousand
        # times, and reading every manifest each time would cost a million reads.
        self._accepted: dict[str, tuple[str, ...]] = {}

    # ---- finding -----------------------------------------------------------------------------------

    def find(self, stage: str, fingerprint: str) -> Artifact | None:
        """The newest attempt with this fingerprint, or an artifact accepted under it; None if neither.

        What other processes accept while this store is open is not seen.
        """
        names = self._list(stage)
        found = self._attempts(stage, fingerprint, names)
        if found:
            return max(found, key=lambda artifact: artifact.attempt)
        for place in (f"{stage}/{name}" for name in names):
            if place not in self._accepted and (artifact := self._load(place)) is not None:
                self._accepted[place] = _accepted_under(artifact.manifest)
            if fingerprint in self._accepted.get(place, ()):
                return self._load(place)
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

    def artifacts(self, stage: str | None = None) -> list[Artifact]:
        """Every committed artifact, of one stage or of all, oldest first."""
        stages = [stage] if stage else [name for name in self._list("") if not name.startswith("_")]
        found = [
            artifact
            for name in stages
            for folder in self._list(name)
            if (artifact := self._load(f"{name}/{folder}")) is not None
        ]
        return sorted(found, key=lambda artifact: artifact.manifest["created"])

    def resolve(
        self,
        reference: str,
        kinds: tuple[str, ...],
        where: Callable[[Artifact], bool] = lambda artifact: True,
        what: str = "artifact",
    ) -> Artifact:
        """The artifact a person named: a fingerprint, a unique prefix of one, a path, or `latest`.

        kinds: what the caller can use. where: a further condition, e.g. the role of an encoder.
        what: how the sentence calls it. Raises GigaganError when there is none, or more than one.
        """
        if os.sep in reference or reference.startswith("."):
            return self._resolve_path(reference, kinds, what)
        usable = [artifact for artifact in self.artifacts() if artifact.kind in kinds and where(artifact)]
        if reference == "latest":
            if not usable:
                raise GigaganError(
                    f"store {self.uri} has no {what} ({' or '.join(kinds)}); run the stage that makes one first"
                )
            return usable[-1]
        matches = [artifact for artifact in usable if artifact.fingerprint.startswith(reference)]
        fingerprints = {artifact.fingerprint for artifact in matches}
        if len(fingerprints) == 1:
            return max(matches, key=lambda artifact: artifact.attempt)
        if fingerprints:
            listed = ", ".join(sorted(fingerprint[:16] for fingerprint in fingerprints))
            raise GigaganError(f"{what} {reference!r} fits several: {listed}; give more digits")
        for artifact in self.artifacts():
            if len(reference) >= 4 and artifact.fingerprint.startswith(reference):
                raise GigaganError(
                    f"{reference!r} is a {artifact.kind} made by {artifact.stage}, and {what} needs "
                    f"{' or '.join(kinds)}; `gigagan store ls` lists what there is"
                )
        raise GigaganError(
            f"store {self.uri} has no {what} {reference!r}; `gigagan store ls` lists what there is"
        )

    def _resolve_path(self, reference: str, kinds: tuple[str, ...], what: str) -> Artifact:
        folder = Path(reference).expanduser().absolute()
        try:
            manifest = json.loads((folder / MANIFEST).read_text())
            artifact = Artifact.from_manifest(manifest, str(folder))
        except FileNotFoundError:
            raise GigaganError(
                f"{what} {reference}: no {MANIFEST} there; give an artifact's folder"
            ) from None
        except (ValueError, KeyError, OSError) as error:
            raise GigaganError(f"{what} {reference}: unreadable {MANIFEST} ({error})") from None
        if artifact.kind not in kinds:
            raise GigaganError(f"{what} {reference} is a {artifact.kind}; {' or '.join(kinds)} is needed")
        return artifact

    # ---- working and committing --------------------------------------------------------------------

    @contextlib.contextmanager
    def work(self, fingerprint: str, on_wait: Callable[[str], None] = lambda holder: None) -> Iterator[Path]:
        """The resumable folder of one fingerprint, leased until the block ends.

        The lease is a lock on a file, so the death of its holder frees it. on_wait: called once with who
        holds it, when this run has to wait. The folder is left as it is; `commit` and `discard` remove it.
        """
        base = self._work_base()
        try:
            base.mkdir(parents=True, exist_ok=True)
            lock = open(base / f"{fingerprint}.lock", "a+")  # noqa: SIM115 (held open for the whole block)
        except OSError as error:
            raise GigaganError(
                f"store {self.uri} cannot be written: {error}; check the path and its rights"
            ) from None
        with lock:
            waiting = False
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if not waiting:
                        waiting = True
                        lock.seek(0)
                        on_wait(lock.read().strip() or "another run")
                    time.sleep(LEASE_POLL_SECONDS)
            lock.seek(0)
            lock.truncate()
            lock.write(f"process {os.getpid()} on {os.uname().nodename}, since {_now()}")
            lock.flush()
            folder = base / fingerprint
            folder.mkdir(exist_ok=True)
            yield folder

    def commit(self, output: Path, manifest: dict[str, Any]) -> Artifact:
        """Make `output`'s files an artifact: sums, manifest, then the one step that makes it exist.

        manifest: stage, kind, fingerprint and the record; files, attempt, output digest and time are
        filled in here. Raises GigaganError where the store cannot be written.
        """
        stage, fingerprint = manifest["stage"], manifest["fingerprint"]
        previous = self._attempts(stage, fingerprint, self._list(stage))
        attempt = 1 + max((artifact.attempt for artifact in previous), default=0)
        files = {
            str(path.relative_to(output)): {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
            for path in sorted(output.rglob("*"))
            if path.is_file() and path != output / MANIFEST
        }
        manifest = {
            "schema": MANIFEST_SCHEMA,
            **manifest,
            "attempt": attempt,
            "output_digest": _output_digest(manifest["kind"], attempt, files),
            "created": _now(),
            "files": files,
            "accepted": [],
        }
        name = fingerprint if attempt == 1 else f"{fingerprint}.{attempt}"
        if self.is_local:
            _write_atomically(output / MANIFEST, _json(manifest))
            return self._rename_into_place(output, f"{stage}/{name}")
        target = f"{self._root}/{stage}/{name}"
        for relative in files:
            self._fs.makedirs(os.path.dirname(f"{target}/{relative}"), exist_ok=True)
            self._fs.put_file(str(output / relative), f"{target}/{relative}")
        self._fs.pipe_file(f"{target}/{MANIFEST}", _json(manifest).encode())
        artifact = self._load(f"{stage}/{name}")
        assert artifact is not None
        return artifact

    def finish_interrupted_commit(self, output: Path) -> Artifact | None:
        """Commit what a killed run had finished: its manifest lies in `output`, only the rename is missing."""
        if not self.is_local or not (output / MANIFEST).is_file():
            return None
        manifest = json.loads((output / MANIFEST).read_text())
        name = manifest["fingerprint"] + (f".{manifest['attempt']}" if manifest["attempt"] > 1 else "")
        return self._rename_into_place(output, f"{manifest['stage']}/{name}")

    def discard_work(self, fingerprint: str) -> None:
        """Remove a work folder whose artifact is committed. The caller holds its lease."""
        base = self._work_base()
        shutil.rmtree(base / fingerprint, ignore_errors=True)

    def accept(self, artifact: Artifact, fingerprint: str, code: str) -> Artifact:
        """Record in an artifact's manifest that it also stands for what newer code would make."""
        entry = {"fingerprint": fingerprint, "code": code, "accepted_at": _now()}
        manifest = {**artifact.manifest, "accepted": [*artifact.manifest.get("accepted", []), entry]}
        self._write_manifest(artifact, manifest)
        self._accepted.clear()
        return Artifact.from_manifest(manifest, artifact.uri)

    def rewrite(self, artifact: Artifact, files: Mapping[str, Path], changes: Mapping[str, Any]) -> Artifact:
        """Replace some files of an artifact, for what has to be removed for good.

        files: the new ones, by relative name. changes: to the manifest. Sums and output digest follow, so what
        depends on the artifact runs again; its fingerprint stays, so it is not made anew itself.
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
        }
        target = self._strip(artifact.uri)
        for name, path in files.items():
            if self.is_local:
                # Renamed over the old name, never written into it: other artifacts may be linked to its bytes.
                beside = Path(target) / f".{os.path.basename(name)}.{os.getpid()}"
                shutil.copyfile(path, beside)
                os.replace(beside, Path(target) / name)
            else:
                self._fs.put_file(str(path), f"{target}/{name}")
        self._write_manifest(artifact, manifest)
        if not self.is_local:  # the copy that this machine keeps of what was there before
            shutil.rmtree(_cached(artifact), ignore_errors=True)
        return Artifact.from_manifest(manifest, artifact.uri)

    def write_note(self, relative: str, document: Any) -> None:
        """Keep a JSON document beside the artifacts; the first part of `relative` starts with an underscore."""
        path = f"{self._root}/{relative}"
        self._fs.makedirs(os.path.dirname(path), exist_ok=True)
        if self.is_local:
            _write_atomically(Path(path), _json(document))
        else:
            self._fs.pipe_file(path, _json(document).encode())

    def read_notes(self, folder: str) -> list[Any]:
        """Every document of a folder of notes, by name."""
        path = f"{self._root}/{folder}"
        if not self._fs.exists(path):
            return []
        return [json.loads(self._fs.cat_file(name)) for name in sorted(self._fs.ls(path, detail=False))]

    def scratch(self) -> Path:
        """A local folder for unfinished files, on the store's own disk where it is local."""
        self._work_base().mkdir(parents=True, exist_ok=True)
        return self._work_base()

    # ---- inside ------------------------------------------------------------------------------------

    def _rename_into_place(self, output: Path, relative: str) -> Artifact:
        target = Path(self._root) / relative
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

    def _write_manifest(self, artifact: Artifact, manifest: dict[str, Any]) -> None:
        if self.is_local:
            _write_atomically(Path(artifact.uri) / MANIFEST, _json(manifest))
        else:
            self._fs.pipe_file(f"{self._strip(artifact.uri)}/{MANIFEST}", _json(manifest).encode())

    def _attempts(self, stage: str, fingerprint: str, names: list[str]) -> list[Artifact]:
        """names: of all folders of the stage."""
        own = [name for name in names if name.partition(".")[0] == fingerprint]
        return [artifact for name in own if (artifact := self._load(f"{stage}/{name}")) is not None]

    def _load(self, relative: str) -> Artifact | None:
        path = f"{self._root}/{relative}"
        try:
            manifest = json.loads(self._fs.cat_file(f"{path}/{MANIFEST}"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValueError:
            raise GigaganError(
                f"{self._fs.unstrip_protocol(path)}/{MANIFEST} is not JSON; remove that folder and run the stage again"
            ) from None
        uri = path if self.is_local else self._fs.unstrip_protocol(path)
        return Artifact.from_manifest(manifest, uri)

    def _list(self, relative: str) -> list[str]:
        path = f"{self._root}/{relative}".rstrip("/")
        try:
            if self.is_local and relative:  # names alone, without asking the disk what each one is
                return sorted(os.listdir(path))
            entries = self._fs.ls(path, detail=True, refresh=True)
        except FileNotFoundError:
            return []
        except NotADirectoryError:
            raise GigaganError(f"store {self.uri} is a file; give a folder") from None
        except OSError as error:
            raise GigaganError(f"store {self.uri} cannot be read: {error}") from None
        folders = [entry["name"] for entry in entries if entry["type"] == "directory"]
        return sorted(os.path.basename(name.rstrip("/")) for name in folders)

    def _strip(self, uri: str) -> str:
        return self._fs._strip_protocol(uri)

    def _work_base(self) -> Path:
        if self.is_local:
            return Path(self._root) / WORK
        return environment.home() / "work" / digest(self.uri)[:12]


def _accepted_under(manifest: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(entry["fingerprint"] for entry in manifest.get("accepted", []))


def _output_digest(kind: str, attempt: int, files: Mapping[str, Mapping[str, Any]]) -> str:
    """Of what came out alone, so that new code which makes the same files makes nothing downstream run again; a
    forced attempt counts, so that everything which depends on it does.
    """
    sums = {name: entry["sha256"] for name, entry in files.items()}
    return digest({"kind": kind, "attempt": attempt, "files": sums})


def open_store(uri: str | None = None) -> Store:
    """Open a store by URI (default: `environment.store_uri()`), and see that it can be reached.

    Raises GigaganError where it cannot be read or, for a local one, written.
    """
    store = Store(uri or environment.store_uri())
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
        store._fs.exists(store._root)
        store._list("")
    except GigaganError:
        raise
    except Exception as error:  # every file system has errors of its own
        raise GigaganError(
            f"store {store.uri} cannot be reached: {error}; check address and credentials"
        ) from None
    return store


def local_folder(artifact: Artifact) -> Path:
    """A local folder with an artifact's files; a remote one is fetched once into the cache."""
    import fsspec

    fs, path = fsspec.core.url_to_fs(artifact.uri)
    if "file" in _protocols(fs):
        return Path(path)
    cached = _cached(artifact)
    if not (cached / MANIFEST).is_file():
        fetching = cached.with_name(f"{cached.name}.{os.getpid()}")
        for relative in [*artifact.manifest["files"], MANIFEST]:
            (fetching / relative).parent.mkdir(parents=True, exist_ok=True)
            fs.get_file(f"{path}/{relative}", str(fetching / relative))
        shutil.rmtree(cached, ignore_errors=True)
        os.rename(fetching, cached)
    return cached


def _cached(artifact: Artifact) -> Path:
    """Where a copy of a remote artifact's files lies."""
    return environment.home() / "cache" / artifact.output_digest


def _protocols(fs: Any) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=True) + "\n"


def _write_atomically(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
