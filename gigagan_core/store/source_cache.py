"""What was read out of source files before, kept across processes: parsing the package takes a second."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

FILE = "source-digests.json"
_ENTRIES = 2_000


class Source(NamedTuple):
    """digest: sha256 (hex) of what decides a result. imported: dotted names of the package's modules it asks for."""

    digest: str
    imported: tuple[str, ...]


class SourceCache:
    """Sources by the sha256 of the bytes they were read from, in one JSON file.

    A file that is lost, damaged or cannot be written costs a second, nothing else. reader: source of the code that
    reads; its edit, or another Python, makes every entry unknown.
    """

    def __init__(self, folder: Path, reader: bytes):
        self._path = folder / FILE
        self._salt = hashlib.sha256(reader + sys.version.encode()).digest()
        self._known = self._read()
        self._is_new = False

    def key(self, name: str, source: bytes) -> str:
        """Under which a module's source is known; relative imports mean what they do by its name."""
        return hashlib.sha256(self._salt + name.encode() + b"\0" + source).hexdigest()

    def get(self, key: str) -> Source | None:
        """What is known of a source."""
        found = self._known.get(key)
        return None if found is None else Source(found[0], tuple(found[1]))

    def add(self, key: str, source: Source) -> None:
        """Know a source from now on; in other processes after `save`."""
        self._known[key] = [source.digest, list(source.imported)]
        self._is_new = True

    def save(self) -> None:
        """Write the file, where there is something new."""
        if not self._is_new:
            return
        self._is_new = False
        temporary = None
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=self._path.parent, prefix=FILE, delete=False) as file:
                temporary = file.name
                # the newest ones; every edit of a module adds one
                json.dump(dict(list(self._known.items())[-_ENTRIES:]), file)
            os.replace(temporary, self._path)
        except OSError:  # a full disk, a folder of others
            if temporary is not None:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)

    def _read(self) -> dict[str, list]:
        try:
            known = json.loads(self._path.read_bytes())
            return {
                key: [str(digest), [str(name) for name in names]] for key, (digest, names) in known.items()
            }
        except (OSError, ValueError, TypeError, AttributeError):
            return {}
