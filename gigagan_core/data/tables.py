"""Tables from outside: found, summed, and read a piece at a time."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gigagan_core import console
from gigagan_core.errors import GigaganError
from gigagan_core.store.artifact import ExternalTable
from gigagan_core.store.uris import require_slashes
from gigagan_core.text import some_of

if TYPE_CHECKING:
    import pyarrow as pa

Metadata = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
ENDING = ".parquet"
OTHER_ENDINGS = tuple(
    f".{kind}{packed}"
    for kind in ("csv", "tsv", "json", "jsonl", "ndjson", "arrow", "feather", "orc", "avro", "parquet")
    for packed in ("", ".gz", ".zst", ".bz2", ".xz")
)
"""Of tables that are not read."""

BATCH_ROWS = 16_384
READ_BUFFER = 2**20


@dataclass(frozen=True)
class TableHead:
    """What a table's footer says; columns: their names in order."""

    rows: int
    columns: tuple[str, ...]


def find_tables(metadata: Metadata, warn: Callable[[str], None] = console.warn) -> list[ExternalTable]:
    """The tables named by a file, a folder, a URI or a list of them, each with sha256 and number of rows.

    A folder stands for its ``*.parquet`` files, by name; hidden ones are left alone. Tables of equal content are
    taken once, empty ones not at all. warn: told what is left out: folders and other tables beside those taken, and a
    table whose content another one has. Raises GigaganError where there is none, where one is no parquet file, and
    where no table has a row.
    """
    given = [metadata] if isinstance(metadata, (str, os.PathLike)) else list(metadata)
    uris = [uri for item in given for uri in _expand(os.fspath(item), warn)]
    if not uris:
        raise GigaganError("no metadata was given; name a parquet file or a folder of them")
    found: dict[str, ExternalTable] = {}
    for uri in uris:
        head = read_head(uri)
        if head.rows:
            table = ExternalTable(uri=uri, sha256=_sha256(uri), rows=head.rows)
            if (same := found.setdefault(table.sha256, table)).uri != uri:
                warn(f"table {uri} has the content of {same.uri} and is left out")
    if not found:
        what = uris[0] if len(uris) == 1 else f"each of the {len(uris)} tables from {uris[0]} on"
        raise GigaganError(f"{what} is a parquet table without a row; give one that has rows")
    return list(found.values())


def read_head(uri: str) -> TableHead:
    """Rows and columns of a parquet file. Raises GigaganError where it is none."""
    with _reading(uri) as parquet:
        return TableHead(parquet.metadata.num_rows, tuple(parquet.schema_arrow.names))


def read_rows(uri: str, start: int, rows: int) -> pa.Table:
    """Rows [start, start + rows) of a parquet file; only the row groups that hold them are read, batch by batch.

    Raises GigaganError where the file is damaged.
    """
    import pyarrow as pa

    with _reading(uri) as parquet:
        position, groups = _groups(parquet, start, start + rows)
        pieces = []
        for batch in parquet.iter_batches(BATCH_ROWS, row_groups=groups):
            # Even an empty slice holds on to its batch.
            if position + len(batch) > start:
                first = max(start - position, 0)
                pieces.append(batch.slice(first, start + rows - position - first))
            position += len(batch)
            if position >= start + rows:
                break
        return pa.Table.from_batches(pieces, parquet.schema_arrow)


def batches_before(uri: str, start: int, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """These columns of the rows before `start` in the row group that holds it, batch by batch.

    These are the rows that reading from `start` on passes anyway. Raises GigaganError where the file is damaged.
    """
    with _reading(uri) as parquet:
        position, groups = _groups(parquet, start, start + 1)
        if position >= start:
            return
        for batch in parquet.iter_batches(BATCH_ROWS, row_groups=groups, columns=list(columns)):
            yield batch.slice(0, start - position)
            position += len(batch)
            if position >= start:
                return


@contextlib.contextmanager
def _reading(uri: str) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with _open(uri) as file:
        try:
            # Without a buffer, all of a row group's bytes are in memory, and some tables have one row group.
            yield pq.ParquetFile(file, buffer_size=READ_BUFFER)
        except (pa.ArrowException, OSError) as error:
            raise _unreadable(uri, error) from None


def _groups(parquet: Any, start: int, end: int) -> tuple[int, list[int]]:
    """The row groups that hold rows [start, end), and the number of their first row."""
    first, groups, position = 0, [], 0
    for index in range(parquet.num_row_groups):
        count = parquet.metadata.row_group(index).num_rows
        if position < end and start < position + count:
            first = first if groups else position
            groups.append(index)
        position += count
    return first, groups


def _expand(uri: str, warn: Callable[[str], None]) -> list[str]:
    import fsspec

    if not uri:
        raise GigaganError("metadata '' is no place; name a parquet file or a folder of them")
    require_slashes(uri, "metadata")
    try:
        fs, path = fsspec.core.url_to_fs(uri)
        if not fs.exists(path):
            raise GigaganError(f"metadata {uri} does not exist; name a parquet file or a folder of them")
        if not fs.isdir(path):
            return [_name(fs, path)]
        # Not by a pattern, which a folder's own name may look like.
        entries = sorted(fs.ls(path, detail=True), key=lambda entry: entry["name"])
        # Object stores may list the folder itself.
        entries = [entry for entry in entries if entry["name"].rstrip("/") != path.rstrip("/")]
    except (ImportError, ValueError, OSError) as error:
        raise GigaganError(f"metadata {uri} cannot be read: {error}; check address and rights") from None
    listed = [entry["name"] for entry in entries if _is_table(entry)]
    if not listed:
        raise GigaganError(f"folder {uri} holds no *{ENDING} file; name the folder that holds the tables")
    if others := [_file_name(entry) for entry in entries if _is_left_out(entry)]:
        warn(f"folder {uri}: left out, since only its own *{ENDING} files are tables: {some_of(others)}")
    return [_name(fs, path) for path in listed]


def _file_name(entry: Mapping[str, Any]) -> str:
    return os.path.basename(entry["name"].rstrip("/"))


def _is_table(entry: Mapping[str, Any]) -> bool:
    """Whether what a folder lists is a table; copying between systems leaves hidden files beside them."""
    name = _file_name(entry)
    return entry["type"] != "directory" and name.lower().endswith(ENDING) and not name.startswith(".")


def _is_left_out(entry: Mapping[str, Any]) -> bool:
    """Whether it may hold rows that a person believes to be taken."""
    name = _file_name(entry)
    may_hold_rows = entry["type"] == "directory" or name.lower().endswith(OTHER_ENDINGS)
    return may_hold_rows and not _is_table(entry) and not name.startswith((".", "_"))


def _name(fs: Any, path: str) -> str:
    return path if "file" in fs.protocol else fs.unstrip_protocol(path)


def _open(uri: str) -> Any:
    import fsspec

    try:
        return fsspec.open(uri, "rb").open()
    except OSError as error:
        raise GigaganError(f"table {uri} cannot be opened: {error}; check address and rights") from None


def _sha256(uri: str) -> str:
    with _open(uri) as file:
        digest = hashlib.sha256()
        while piece := file.read(2**22):
            digest.update(piece)
    return digest.hexdigest()


def _unreadable(uri: str, error: Exception) -> GigaganError:
    advice = "copy it again from its source"
    if not uri.lower().endswith(ENDING):
        advice += ", or write it as parquet where it is a CSV or JSON table"
    return GigaganError(f"table {uri} is not a whole parquet file ({str(error).splitlines()[0]}); {advice}")
