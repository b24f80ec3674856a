"""Local copies of a remote store's artifacts, one a content."""

from __future__ import annotations

import os
import shutil
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
        fetching = cached.with_name(f"{cached.name}.{os.getpid()}")
        for relative in [*artifact.manifest["files"], MANIFEST]:
            (fetching / relative).parent.mkdir(parents=True, exist_ok=True)
            fs.get_file(f"{path}/{relative}", str(fetching / relative))
        shutil.rmtree(cached, ignore_errors=True)
        os.rename(fetching, cached)
    return cached


def drop(artifact: Artifact) -> None:
    """Remove the copy that this machine keeps."""
    shutil.rmtree(_cached(artifact), ignore_errors=True)


def protocols(fs: Any) -> tuple[str, ...]:
    """The names of an fsspec file system."""
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)


def _cached(artifact: Artifact) -> Path:
    """Where a copy of a remote artifact's files lies."""
    return environment.home() / "cache" / artifact.output_digest
