"""Which machine fills a folder of an object store, so that no two write their files among each other's.

Leases (`leases`) are seen by the processes of one machine alone. A claim is an object in the folder, and stays there.
"""

from __future__ import annotations

import errno
import uuid
from pathlib import Path
from typing import Any

_CLAIM = ".claim"
_TOKEN_BYTES = 32


def owner_of(work: Path) -> bytes:
    """The owner of the work in a leased folder: the same after a kill, and no other machine's."""
    path = work / _CLAIM
    known = path.read_bytes() if path.is_file() else b""
    if len(known) == _TOKEN_BYTES:
        return known
    fresh = uuid.uuid4().hex.encode()
    path.write_bytes(fresh)
    return fresh


def claim(fs: Any, folder: str, owner: bytes) -> bool:
    """Whether a folder is its owner's to fill: nobody has claimed it, or this owner has before.

    fs: an fsspec file system. Raises OSError where it cannot be written.
    """
    place = f"{folder}/{_CLAIM}"
    if (holder := _read(fs, place)) is None:
        fs.makedirs(folder, exist_ok=True)
        try:
            fs.pipe_file(place, owner, mode="create")
        except OSError as error:
            if error.errno == errno.ENOSYS:  # an S3 server without conditional writes
                fs.pipe_file(place, owner)
            elif _read(fs, place) is None:
                raise
        holder = _read(fs, place)
    return holder == owner


def _read(fs: Any, place: str) -> bytes | None:
    try:
        return fs.cat_file(place)
    except (FileNotFoundError, NotADirectoryError):
        return None
