"""Tables from outside: found, summed, and read a piece at a time."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gigagan_core.errors import GigaganError
from gigagan_core.store.artifact import ExternalTable

if TYPE_CHECKING:
    import pyarrow as pa

Metadata = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
ENDING = ".parquet"


@dataclass(frozen=True)
class TableHead:
    """What a table's footer says; columns: their names in order."""

    rows: int
    columns: tuple[str, ...]


def find_tables(metadata: Metadata) -> list[ExternalTable]:
    """The tables named by a file, a folder, a URI or a list of them, each with sha256 and number of rows.

    A folder stands for its ``*.parquet`` files, by name. Tables of equal content are taken once, empty
    ones not at all. Raises GigaganError where there is none, where one is no parquet file, and where no
    table has a row.
    """
    given = [metadata] if isinstance(metadata, (str, os.PathLike)) else list(metadata)
    uris = [uri for item in given for uri in _expand(os.fspath(item))]
    if not uris:
        raise GigaganError("no metadata was given; name a parquet file or a folder of them")
    found: dict[str, ExternalTable] = {}
    for uri in uris:
        head = read_head(uri)
        if head.rows:
            sha256 = _sha256(uri)
            found.setdefault(sha256, ExternalTable(uri=uri, sha256=sha256, rows=head.rows))
    if not found:
        what = uris[0] if len(uris) == 1 else f"each of the {len(uris)} tables from {uris[0]} on"
        raise GigaganError(f"{what} is a parquet table without a row; give one that has rows")
    return list(found.values())


def read_head(uri: str) -> TableHead:
    """Rows and columns of a parquet file. Raises GigaganError where it is none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with _open(uri) as file:
        try:
            parquet = pq.ParquetFile(file)
        except (pa.ArrowException, OSError) as error:
            raise _unreadable(uri, error) from None
        return TableHead(parquet.metadata.num_rows, tuple(parquet.schema_arrow.names))


def read_rows(uri: str, start: int, rows: int) -> pa.Table:
    """Rows [start, start + rows) of a parquet file; only the row groups that hold them are read.

    Raises GigaganError where the file is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with _open(uri) as file:
        try:
            parquet = pq.ParquetFile(file)
            groups, first = [], None
            position = 0
            for index in range(parquet.num_row_groups):
                count = parquet.metadata.row_group(index).num_rows
                if position < start + rows and start < position + count:
                    first = position if first is None else first
                    groups.append(index)
                position += count
            return parquet.read_row_groups(groups).slice(start - (first or 0), rows)
        except (pa.ArrowException, OSError) as error:
            raise _unreadable(uri, error) from None


def _expand(uri: str) -> list[str]:
    import fsspec

    try:
        fs, path = fsspec.core.url_to_fs(uri)
        if not fs.exists(path):
            raise GigaganError(f"metadata {uri} does not exist; name a parquet file or a folder of them")
        if not fs.isdir(path):
            return [_name(fs, path)]
        listed = sorted(fs.glob(f"{path.rstrip('/')}/*{ENDING}"))
    except (ImportError, ValueError, OSError) as error:
        raise GigaganError(f"metadata {uri} cannot be read: {error}; check address and rights") from None
    if not listed:
        raise GigaganError(f"folder {uri} holds no *{ENDING} file; name the folder that holds the tables")
    return [_name(fs, path) for path in listed]


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
    return GigaganError(
        f"table {uri} is not a whole parquet file ({str(error).splitlines()[0]}); copy it again from its source"
    )
