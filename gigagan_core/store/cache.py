"""Local copies of a remote store's artifacts, one a content."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import uuid
from pathlib import Path
from typing import Any

from gigagan_core import environment
from gigagan_core.store.artifact import MANIFEST, Artifact


def local_folder(artifact: Artifact) -> Path:
    """A local folder with an artifact's files; a remote one is fetched once into the cache."""
    import fsspec

    fs, path = fsspec.core.url_to_fs(artifact.uri)
    if "file" in protocols(fs):
        return Path(path)
    cached = _cached(artifact)
    if not (cached / MANIFEST).is_file():
        fetching = _beside(cached)
        try:
            for relative in [*artifact.manifest["files"], MANIFEST]:
                (fetching / relative).parent.mkdir(parents=True, exist_ok=True)
                fs.get_file(f"{path}/{relative}", str(fetching / relative))
            _put_in_place(fetching, cached)
        finally:
            shutil.rmtree(fetching, ignore_errors=True)
    return cached


def drop(artifact: Artifact) -> None:
    """Remove the copy that this machine keeps, in one step: without its manifest it would count as none."""
    cached = _cached(artifact)
    dropped = _beside(cached)
    with contextlib.suppress(FileNotFoundError):
        os.rename(cached, dropped)
        shutil.rmtree(dropped, ignore_errors=True)


def protocols(fs: Any) -> tuple[str, ...]:
    """The names of an fsspec file system."""
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)


def _put_in_place(fetched: Path, cached: Path) -> None:
    """Whoever comes first stays: its copy may be read already."""
    try:
        os.rename(fetched, cached)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        if not (cached / MANIFEST).is_file():  # somebody has removed a part of it by hand
            shutil.rmtree(cached)
            os.rename(fetched, cached)


def _beside(cached: Path) -> Path:
    """A name of its own for each process and thread."""
    return cached.with_name(f"{cached.name}.{uuid.uuid4().hex[:8]}")


def _cached(artifact: Artifact) -> Path:
    """Where a copy of a remote artifact's files lies."""
    return environment.home() / "cache" / artifact.output_digest
