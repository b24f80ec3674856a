"""Adapters: tables as their makers publish them, to one set of columns.

Canonical columns, all of which may be null except the first: ``key`` (string, unique over all tables),
``url``, ``caption`` (string), ``width``, ``height`` (int32, pixels, as the table says), ``clip_similarity``,
``aesthetic``, ``watermark``, ``nsfw`` (float64), ``sha256`` (string, of the image's bytes), ``source``
(string, the schema's name), ``extra`` (string, JSON of every column that has no canonical name).

A score that the table does not have is null, never 0.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gigagan_core.errors import GigaganError, nearest

if TYPE_CHECKING:
    import pyarrow as pa

TEXTS = ("url", "caption", "sha256")
SIZES = ("width", "height")
SCORES = ("clip_similarity", "aesthetic", "watermark", "nsfw")
CANONICAL = (
    *("key", "url", "caption", "width", "height", "clip_similarity", "aesthetic", "watermark", "nsfw"),
    *("sha256", "source", "extra"),
)


@dataclass(frozen=True)
class TableSchema:
    """One publisher's table. columns: canonical name -> column. required: the columns that tell it apart."""

    name: str
    columns: Mapping[str, str]
    required: frozenset[str]

    def fits(self, columns: tuple[str, ...]) -> bool:
        """Whether a table with these columns is one of its kind."""
        return self.required <= set(columns)


LAION_JOINED = TableSchema(
    "laion2B-en-joined",
    {
        "url": "URL",
        "caption": "TEXT",
        "width": "WIDTH",
        "height": "HEIGHT",
        "clip_similarity": "similarity",
        "nsfw": "punsafe",
        "watermark": "pwatermark",
    },
    required=frozenset({"URL", "TEXT", "WIDTH", "HEIGHT", "similarity", "punsafe", "pwatermark"}),
)
_URL_NAMES = ("url", "URL", "image_url")
_CAPTION_NAMES = ("caption", "CAPTION", "text", "TEXT")
URL_CAPTION = tuple(
    TableSchema("url-caption", {"url": url, "caption": caption}, required=frozenset({url, caption}))
    for url in _URL_NAMES
    for caption in _CAPTION_NAMES
)

SCHEMAS: tuple[TableSchema, ...] = (LAION_JOINED, *URL_CAPTION)
"""Every schema known, the more particular first: the first that fits is taken."""


def detect(
    columns: tuple[str, ...],
    where: str,
    name: str = "auto",
    url_column: str | None = None,
    caption_column: str | None = None,
) -> TableSchema:
    """The schema of a table with these columns.

    where: the table, for the sentence. name: a schema's name, or "auto". url_column, caption_column: for a
    plain table with names of its own. Raises GigaganError, naming the columns found and the schemas known.
    """
    if url_column is not None and caption_column is not None:
        for column in (url_column, caption_column):
            if column not in columns:
                raise GigaganError(f"{where} has no column {column!r}; {nearest(column, columns)}")
        wanted = frozenset({url_column, caption_column})
        return TableSchema("url-caption", {"url": url_column, "caption": caption_column}, wanted)
    names = {schema.name for schema in SCHEMAS}
    if name not in names | {"auto"}:
        raise GigaganError(f"table_schema {name!r} is not known; {nearest(name, names)}")
    for schema in SCHEMAS:
        if name in ("auto", schema.name) and schema.fits(columns):
            return schema
    known = (
        f"{LAION_JOINED.name} ({', '.join(LAION_JOINED.columns.values())}), "
        f"url-caption (one of {'/'.join(_URL_NAMES)}, one of {'/'.join(_CAPTION_NAMES)})"
    )
    raise GigaganError(
        f"{where} has the columns {', '.join(columns) or '(none)'}, which is no schema known here: {known}; "
        "set url_column and caption_column to name them"
    )


def adapt(table: pa.Table, schema: TableSchema, table_sha256: str, start: int, where: str) -> pa.Table:
    """A piece of a table in canonical columns.

    table_sha256: of the whole table; with the row's number in it, it makes the key. start: number of the
    piece's first row. Sizes that are NaN, below 1 or no whole number of pixels become null. Raises
    GigaganError for a column whose type cannot be what it stands for.
    """
    import pyarrow as pa

    columns: dict[str, pa.Array] = {
        "key": pa.array([f"{table_sha256[:12]}{start + row:09d}" for row in range(len(table))], pa.string()),
        "source": pa.array([schema.name] * len(table), pa.string()),
        "extra": _extra(table, set(schema.columns.values())),
    }
    for canonical in (*TEXTS, *SIZES, *SCORES):
        kind = pa.string() if canonical in TEXTS else pa.int32() if canonical in SIZES else pa.float64()
        column = schema.columns.get(canonical)
        if column is None or column not in table.column_names:
            columns[canonical] = pa.nulls(len(table), kind)
            continue
        try:
            columns[canonical] = _cast(table[column].combine_chunks(), canonical)
        except pa.ArrowException as error:
            raise GigaganError(
                f"{where}: column {column!r} of type {table[column].type} cannot be read as {canonical} ({error}); "
                "write the table again with a fitting type"
            ) from None
    return pa.table({name: columns[name] for name in CANONICAL})


def _cast(column: pa.Array, canonical: str) -> pa.Array:
    import pyarrow as pa
    import pyarrow.compute as pc

    if canonical in TEXTS:
        return column.cast(pa.string())
    values = column.cast(pa.float64())
    finite = pc.fill_null(pc.is_finite(values), False)
    values = pc.if_else(finite, values, None)
    if canonical in SCORES:
        return values
    possible = pc.and_(pc.greater_equal(values, 1), pc.less(values, 2**31))
    return pc.if_else(possible, pc.round(values), None).cast(pa.int32())


def _extra(table: pa.Table, used: set[str]) -> pa.Array:
    import pyarrow as pa

    names = [name for name in table.column_names if name not in used]
    if not names:
        return pa.nulls(len(table), pa.string())
    rows = table.select(names).to_pylist()
    # What JSON has no form for (bytes, dates) is kept as text.
    return pa.array(
        [json.dumps(present, default=str) if (present := _present(row)) else None for row in rows],
        pa.string(),
    )


def _present(row: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in row.items() if value is not None and value == value}
