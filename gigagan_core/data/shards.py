"""A shard set on disk: tars of pictures, parquet files of every row, and `shards.json`, which names them.

``shards.json`` is a list of ``{"tar", "parquet", "rows", "selected"}``. A path is relative to the folder or
absolute, so a set can point at the tars of another one and have its own parquet files. A row counts where
its status is `success` and it is selected.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gigagan_core.data.status import SUCCESS
from gigagan_core.errors import GigaganError

if TYPE_CHECKING:
    import pyarrow as pa

INDEX = "shards.json"
ATTRIBUTION_FILE = "ATTRIBUTION.txt"


@dataclass(frozen=True)
class Shard:
    """One tar with its table. rows: all of them; selected: those that a reader yields."""

    tar: Path
    parquet: Path
    rows: int
    selected: int

    @property
    def name(self) -> str:
        """The tar's file name, for sentences."""
        return self.tar.name


def folder_of(shard_set: Any) -> Path:
    """The folder of an artifact (anything with a `path`) or of a path."""
    return Path(getattr(shard_set, "path", shard_set))


def read_index(shard_set: Any) -> list[Shard]:
    """The shards of a set. Raises GigaganError where the folder is no shard set or a file is missing."""
    folder = folder_of(shard_set)
    try:
        entries = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        shards = [
            Shard(folder / entry["tar"], folder / entry["parquet"], entry["rows"], entry["selected"])
            for entry in entries
        ]
    except FileNotFoundError:
        raise GigaganError(f"{folder} holds no {INDEX}; name the folder of a shard set") from None
    except (ValueError, KeyError, TypeError) as error:
        raise GigaganError(
            f"{folder / INDEX} is damaged ({error!r}); run the stage that made it again"
        ) from None
    for shard in shards:
        for path in (shard.tar, shard.parquet):
            if not path.is_file():
                raise GigaganError(f"shard {path} is missing; run ingest again to make it anew")
    return shards


def read_table(shard: Shard, columns: Sequence[str] | None = None) -> pa.Table:
    """Every row of a shard. Raises GigaganError where the parquet is damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(shard.parquet, columns=list(columns) if columns else None)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise GigaganError(
            f"shard table {shard.parquet} is damaged ({reason}); remove its artifact and run the stage again"
        ) from None


def selected_rows(shard: Shard, columns: Sequence[str]) -> list[dict[str, Any]]:
    """The rows that count, in the table's order, with the columns asked for."""
    table = read_table(shard, [*dict.fromkeys([*columns, "status", "selected"])])
    rows = table.to_pylist()
    return [
        {name: row[name] for name in columns} for row in rows if row["status"] == SUCCESS and row["selected"]
    ]


def write_shard(folder: Path, index: int, tar: Path, rows: pa.Table) -> Shard:
    """Add a shard to a folder: its parquet is written, its tar linked, or copied where it cannot be.

    rows: every row of the shard, with at least the columns key, caption, status and selected.
    """
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    name = f"{index:05d}"
    parquet, own_tar = folder / f"{name}.parquet", folder / f"{name}.tar"
    own_tar.unlink(missing_ok=True)
    try:
        os.link(tar, own_tar)
    except OSError:  # another file system, or one without links
        shutil.copyfile(tar, own_tar)
    pq.write_table(rows, parquet)
    counted = pc.and_(pc.equal(rows["status"], SUCCESS), rows["selected"])
    return Shard(own_tar, parquet, len(rows), pc.sum(counted).as_py() or 0)


def write_index(folder: Path, shards: Iterable[Shard]) -> None:
    """Write `shards.json`; files inside the folder are named relative to it."""
    entries = [
        {
            "tar": _relative(shard.tar, folder),
            "parquet": _relative(shard.parquet, folder),
            "rows": shard.rows,
            "selected": shard.selected,
        }
        for shard in shards
    ]
    (folder / INDEX).write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")


def _relative(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path.absolute())
