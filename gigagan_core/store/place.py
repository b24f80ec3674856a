"""Where a store lies: folders and small documents on a disk or on any other file system of fsspec."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from gigagan_core.errors import GigaganError
from gigagan_core.store import cache
from gigagan_core.store.uris import require_slashes

READ_AT_ONCE = 500
"""Files asked of an object store in one go."""


class Place:
    """A folder of this machine or a URI that fsspec can open; names in it are relative, with slashes.

    uri, fs, root: its address, its file system and its path there. is_local: whether it is a folder of this machine.
    Raises GigaganError for a URI that nothing can open.
    """

    def __init__(self, uri: str):
        import fsspec

        self.uri = uri.rstrip("/")
        require_slashes(self.uri, "store")
        try:
            self.fs, self.root = fsspec.core.url_to_fs(self.uri)
        except (ImportError, ValueError) as error:
            raise GigaganError(f"store {uri}: {error}; give a folder or a URI that fsspec can open") from None
        self.root = self.root.rstrip("/")
        self.is_local = "file" in cache.protocols(self.fs)
        if self.is_local:
            self.uri = self.root

    def path(self, relative: str) -> str:
        """A name's path in the file system."""
        return f"{self.root}/{relative}".rstrip("/")

    def folders(self, relative: str) -> list[str]:
        """The names of the folders below a place, sorted. Raises GigaganError where they cannot be listed."""
        path = self.path(relative)
        try:
            if self.is_local:  # fsspec would ask the disk about every entry
                with os.scandir(path) as entries:
                    return sorted(entry.name for entry in entries if entry.is_dir())
            entries = self.fs.ls(path, detail=True, refresh=True)
        except FileNotFoundError:
            return []
        except NotADirectoryError:
            raise GigaganError(f"store {self.uri} is a file; give a folder") from None
        except OSError as error:
            raise GigaganError(f"store {self.uri} cannot be read: {error}") from None
        folders = [entry["name"] for entry in entries if entry["type"] == "directory"]
        return sorted(os.path.basename(name.rstrip("/")) for name in folders)

    def read(self, relative: str) -> bytes | None:
        """A file's contents; None where there is none."""
        try:
            return self.fs.cat_file(self.path(relative))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def read_all(self, relatives: list[str]) -> dict[str, bytes]:
        """The contents of those files that are there, in order; an object store is asked for many at a time.

        Raises GigaganError where one that is there cannot be read.
        """
        found: dict[str, bytes] = {}
        for start in range(0, len(relatives), READ_AT_ONCE):
            names = relatives[start : start + READ_AT_ONCE]
            paths = [self.path(name) for name in names]
            read = self._read_local(paths) if self.is_local else self.fs.cat(paths, on_error="return")
            for name, path in zip(names, paths, strict=True):
                raw = read[path]
                if isinstance(raw, bytes):
                    found[name] = raw
                elif not isinstance(raw, (FileNotFoundError, NotADirectoryError)):
                    raise GigaganError(f"store {self.uri} cannot be read: {raw}") from raw
        return found

    def _read_local(self, paths: list[str]) -> dict[str, bytes | OSError]:
        read: dict[str, bytes | OSError] = {}
        for path in paths:
            try:
                read[path] = self.fs.cat_file(path)
            except OSError as error:
                read[path] = error
        return read

    def write_document(self, relative: str, document: Any) -> None:
        """Keep a JSON document, whole or not at all, in a folder that is there."""
        if self.is_local:
            write_atomically(Path(self.path(relative)), as_json(document))
        else:
            self.fs.pipe_file(self.path(relative), as_json(document).encode())

    # ---- notes: documents in folders whose name begins with an underscore --------------------------

    def write_note(self, relative: str, document: Any) -> None:
        """Keep a JSON document beside the artifacts; the first part of `relative` starts with an underscore."""
        self.fs.makedirs(os.path.dirname(self.path(relative)), exist_ok=True)
        self.write_document(relative, document)

    def remove_note(self, relative: str) -> bool:
        """Remove a document; whether it was there."""
        path = self.path(relative)
        if not self.fs.exists(path):
            return False
        self.fs.rm_file(path)
        return True

    def read_note(self, relative: str) -> Any:
        """What `write_note` kept; None where there is none."""
        raw = self.read(relative)
        return None if raw is None else json.loads(raw)

    def read_notes(self, folder: str) -> list[Any]:
        """Every document of a folder of notes, by name."""
        names = [f"{folder}/{name}" for name in self.note_names(folder)]
        return [json.loads(raw) for raw in self.read_all(names).values()]

    def note_names(self, folder: str) -> list[str]:
        """The names of a folder's documents, sorted; one that is being written, or never was to its end, is none."""
        path = self.path(folder)
        if not self.fs.exists(path):
            return []
        names = (name.rpartition("/")[2] for name in self.fs.ls(path, detail=False, refresh=True))
        return sorted(name for name in names if not name.startswith("."))


def as_json(value: Any) -> str:
    """A line for each key at the top: Python's own indentation would take as long as all else of a small commit."""
    if not isinstance(value, dict):
        return json.dumps(value, sort_keys=True) + "\n"
    lines = (f" {json.dumps(key)}: {json.dumps(value[key], sort_keys=True)}" for key in sorted(value))
    return "{\n" + ",\n".join(lines) + "\n}\n"


def write_atomically(path: Path, text: str) -> None:
    """Write a file under a hidden name, have the disk take it, and rename it: whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
