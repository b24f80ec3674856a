"""Adapters: tables as their makers publish them, to one set of columns.

Canonical columns, all of which may be null except the first and `source`: ``key`` (string, unique over all
tables), ``url``, ``caption`` (string), ``width``, ``height`` (int32, pixels, as the table says), the scores of
`SCORE_FAMILIES` (float64), ``nsfw_tag`` (string, as LAION-2B wrote it: UNLIKELY, UNSURE, NSFW), ``image_phash``
(string, the publisher's perceptual hash of the image, comparable within one schema), ``sha256`` (string, 64 hex digits,
of the image's bytes), ``source`` (string, the schema's name), ``extra`` (string, JSON of every column that has no
canonical name).

A score's column names the model that its publisher took: scores of different models are not comparable, whatever
they are called. Those that `curate` computes have columns of their own. A score that the table does not have is null,
never 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from gigagan_core.data.columns import extra_json, numbers, plain_column, sums, texts
from gigagan_core.errors import GigaganError, nearest

if TYPE_CHECKING:
    import pyarrow as pa

TEXTS = ("url", "caption", "nsfw_tag", "image_phash", "sha256")
SIZES = ("width", "height")
SCORE_FAMILIES: Mapping[str, tuple[str, ...]] = {
    # Cosine of image and caption by OpenAI's CLIP of this size.
    "clip_similarity": ("clip_similarity_b32", "clip_similarity_l14"),
    # LAION's first predictor (laion2B-en-aesthetic), and the "improved" one on other data and another scale.
    "aesthetic": ("aesthetic_laion_v1", "aesthetic_laion_v2"),
    # LAION's pwatermark, and COYO's score by a model that was not published.
    "watermark": ("watermark_laion", "watermark_coyo"),
    # LAION's punsafe, and COYO's nsfw_score_opennsfw2.
    "nsfw": ("nsfw_laion", "nsfw_coyo"),
}
"""What is judged -> the canonical columns that judge it, one for each model."""

SCORES = tuple(column for columns in SCORE_FAMILIES.values() for column in columns)
CANONICAL = ("key", "url", "caption", *SIZES, *SCORES, "nsfw_tag", "image_phash", "sha256", "source", "extra")


def canonical_schema() -> pa.Schema:
    """The canonical columns with their types."""
    import pyarrow as pa

    kinds = {**dict.fromkeys(SIZES, pa.int32()), **dict.fromkeys(SCORES, pa.float64())}
    return pa.schema([(name, kinds.get(name, pa.string())) for name in CANONICAL])


@dataclass(frozen=True)
class TableSchema:
    """One publisher's table. columns: canonical name -> column. required: the columns that tell it apart."""

    name: str
    columns: Mapping[str, str]
    required: frozenset[str]

    def spelled_as(self, columns: tuple[str, ...]) -> TableSchema | None:
        """The schema with the columns that a table of these has, under its names; None where it is none of its kind.

        Databases change the case of names and CSV files put blanks around them: a column is known in any case and
        without them, as long as only one has the name.
        """
        plain = {column: column.strip().casefold() for column in columns}
        alike = Counter(plain.values())
        unique = {name: column for column, name in plain.items() if alike[name] == 1}

        def find(name: str) -> str | None:
            return name if name in columns else unique.get(name.casefold())

        if any(find(name) is None for name in self.required):
            return None
        return replace(
            self, columns={what: there for what, name in self.columns.items() if (there := find(name))}
        )


_LAION_BASE = {
    "url": "URL",
    "caption": "TEXT",
    "width": "WIDTH",
    "height": "HEIGHT",
    "clip_similarity_b32": "similarity",
}
_LAION_TAGS = {**_LAION_BASE, "nsfw_laion": "punsafe", "watermark_laion": "pwatermark"}

LAION_BASE = TableSchema(
    "laion2B-en",
    {**_LAION_BASE, "nsfw_tag": "NSFW"},
    required=frozenset({"URL", "TEXT", "WIDTH", "HEIGHT", "NSFW", "similarity"}),
)
LAION_JOINED = TableSchema("laion2B-en-joined", _LAION_TAGS, required=frozenset(_LAION_TAGS.values()))
LAION_AESTHETIC = TableSchema(
    "laion2B-en-aesthetic",
    {**_LAION_TAGS, "aesthetic_laion_v1": "aesthetic"},
    required=LAION_JOINED.required | {"aesthetic"},
)
# LAION-Aesthetics V2 (improved_aesthetics_6plus and others): the same table, the other predictor.
LAION_IMPROVED_AESTHETIC = TableSchema(
    "laion2B-en-improved-aesthetics",
    {**_LAION_TAGS, "aesthetic_laion_v2": "AESTHETIC_SCORE"},
    required=LAION_JOINED.required | {"AESTHETIC_SCORE"},
)
RELAION = TableSchema(
    "relaion2B-en",
    {
        "url": "url",
        "caption": "caption",
        "width": "width",
        "height": "height",
        "clip_similarity_b32": "similarity",
        "nsfw_laion": "punsafe",
        "watermark_laion": "pwatermark",
    },
    required=frozenset({"url", "caption", "width", "height", "similarity"}),
)
COYO = TableSchema(
    "coyo-700m",
    {
        "url": "url",
        "caption": "text",
        "width": "width",
        "height": "height",
        "clip_similarity_b32": "clip_similarity_vitb32",
        "clip_similarity_l14": "clip_similarity_vitl14",
        "aesthetic_laion_v2": "aesthetic_score_laion_v2",
        "watermark_coyo": "watermark_score",
        "nsfw_coyo": "nsfw_score_opennsfw2",
        "image_phash": "image_phash",
    },
    required=frozenset({"url", "text", "width", "height", "clip_similarity_vitb32", "watermark_score"}),
)
DATACOMP = TableSchema(
    "datacomp-commonpool",
    {
        "url": "url",
        "caption": "text",
        "width": "original_width",
        "height": "original_height",
        "clip_similarity_b32": "clip_b32_similarity_score",
        "clip_similarity_l14": "clip_l14_similarity_score",
        "sha256": "sha256",
    },
    required=frozenset({"uid", "url", "text", "original_width", "original_height"}),
)


def _url_caption(url: str, caption: str) -> TableSchema:
    """A plain table. What else it knows by these names means the same in every table; a score's model is unknown."""
    columns = {"url": url, "caption": caption, **{name: name for name in ("width", "height", "sha256")}}
    return TableSchema("url-caption", columns, required=frozenset({url, caption}))


_URL_NAMES = ("url", "image_url")
_CAPTION_NAMES = ("caption", "text")
URL_CAPTION = tuple(_url_caption(url, caption) for url in _URL_NAMES for caption in _CAPTION_NAMES)

PUBLISHED = (
    *(LAION_AESTHETIC, LAION_IMPROVED_AESTHETIC, LAION_JOINED, LAION_BASE),
    *(RELAION, COYO, DATACOMP),
)
SCHEMAS: tuple[TableSchema, ...] = (*PUBLISHED, *URL_CAPTION)
"""Every schema known, the more particular first: the first that fits is taken."""

WITHDRAWN = {
    LAION_BASE.name: RELAION.name,
    LAION_JOINED.name: RELAION.name,
    LAION_AESTHETIC.name: RELAION.name,
    LAION_IMPROVED_AESTHETIC.name: RELAION.name,
}
"""Releases that their publisher withdrew in December 2023, after links to abuse material were found -> successor."""


def withdrawal_warning(schema: str, has_block_list: bool) -> str | None:
    """What must be said before a withdrawn release is fetched; None for every other table."""
    if schema not in WITHDRAWN:
        return None
    advice = "" if has_block_list else ", and set block_list to a file of sha256 sums of known abuse material"
    return (
        f"tables of {schema} belong to a release that LAION withdrew, because it held links to abuse material; take "
        f"its successor Re-LAION ({WITHDRAWN[schema]}), which was cleaned{advice}"
    )


def detect(
    columns: tuple[str, ...],
    where: str,
    name: str = "auto",
    url_column: str | None = None,
    caption_column: str | None = None,
) -> TableSchema:
    """The schema of a table with these columns, under the names that they have there.

    where: the table, for the sentence. name: a schema's name, or "auto". url_column, caption_column: for a
    plain table with names of its own. Raises GigaganError, naming the columns found and the schemas known.
    """
    if repeated := sorted({column for column in columns if columns.count(column) > 1}):
        raise GigaganError(
            f"{where} has the column {repeated[0]!r} more than once; write it with one of each name"
        )
    if url_column is not None and caption_column is not None:
        for column in (url_column, caption_column):
            if column not in columns:
                raise GigaganError(f"{where} has no column {column!r}; {nearest(column, columns)}")
        return _url_caption(url_column, caption_column).spelled_as(columns)
    names = {schema.name for schema in SCHEMAS}
    if name not in names | {"auto"}:
        raise GigaganError(f"table_schema {name!r} is not known; {nearest(name, names)}")
    for schema in SCHEMAS:
        if name in ("auto", schema.name) and (found := schema.spelled_as(columns)) is not None:
            return found
    if name != "auto":
        raise GigaganError(
            f"{where} has the columns {', '.join(columns) or '(none)'}, and table_schema {name!r} needs others; set "
            "table_schema=auto to have it recognised"
        )
    known = "; ".join(f"{schema.name} ({', '.join(sorted(schema.required))})" for schema in PUBLISHED)
    known += f"; url-caption (one of {'/'.join(_URL_NAMES)}, one of {'/'.join(_CAPTION_NAMES)})"
    raise GigaganError(
        f"{where} has the columns {', '.join(columns) or '(none)'}, which is no schema known here: {known}; "
        "set url_column and caption_column to name the two that hold them"
    )


def adapt(
    table: pa.Table, schema: TableSchema, table_sha256: str, start: int, where: str, judged: bool = True
) -> pa.Table:
    """A piece of a table in canonical columns.

    table_sha256: of the whole table; with the row's number in it, it makes the key. start: number of the
    piece's first row. Sizes that are NaN, below 1 or too large for int32 become null, and so do texts that are
    no UTF-8, texts that are no number in a column of numbers, and sums that are no sha256. Raises GigaganError for a
    column whose type cannot be what it stands for. judged: see `columns.numbers`.
    """
    import pyarrow as pa

    columns: dict[str, pa.Array] = {
        "key": _keys(table_sha256, start, len(table)),
        "source": pa.array([schema.name] * len(table), pa.string()),
        "extra": extra_json(table, set(schema.columns.values())),
    }
    kinds = canonical_schema()
    for canonical in (*TEXTS, *SIZES, *SCORES):
        column = schema.columns.get(canonical)
        if column is None or column not in table.column_names:
            columns[canonical] = pa.nulls(len(table), kinds.field(canonical).type)
            continue
        try:
            columns[canonical] = _cast(plain_column(table[column]), canonical, judged)
        except pa.ArrowException as error:
            raise GigaganError(
                f"{where}: column {column!r} of type {table[column].type} cannot be read as {canonical} "
                f"({str(error).splitlines()[0]}); write the table again with a fitting type"
            ) from None
    return pa.table({name: columns[name] for name in CANONICAL})


def _keys(table_sha256: str, start: int, rows: int) -> pa.Array:
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    numbers = pa.array(np.arange(start, start + rows), pa.int64()).cast(pa.string())
    return pc.binary_join_element_wise(table_sha256[:12], pc.utf8_lpad(numbers, 9, "0"), "")


def _cast(column: pa.Array, canonical: str, judged: bool) -> pa.Array:
    import pyarrow as pa
    import pyarrow.compute as pc

    if canonical == "sha256":
        return sums(column)
    if canonical == "image_phash" and pa.types.is_integer(column.type):
        return column.cast(pa.string())
    if canonical in ("nsfw_tag", "image_phash"):
        # one spelling: of a tag in capitals, of a hash as it is written in hex
        to_one_case = pc.utf8_upper if canonical == "nsfw_tag" else pc.utf8_lower
        spelled = to_one_case(pc.utf8_trim_whitespace(texts(column)))
        return pc.if_else(pc.equal(spelled, ""), None, spelled)
    if canonical in TEXTS:
        return texts(column)
    values = numbers(column, judged)
    finite = pc.fill_null(pc.is_finite(values), False)
    values = pc.if_else(finite, values, None)
    if canonical in SCORES:
        return values
    rounded = pc.round(values)
    possible = pc.and_(pc.greater_equal(values, 1), pc.less(rounded, 2**31))
    return pc.if_else(possible, rounded, None).cast(pa.int32())
