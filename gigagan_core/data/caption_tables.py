"""A table of captions beside pictures: which file, or which class, is called what."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Container, Iterable
from pathlib import Path

from gigagan_core.data.columns import plain_column, texts
from gigagan_core.data.import_tars import UNREAD_ENDINGS
from gigagan_core.data.pictures import ENDINGS
from gigagan_core.errors import GigaganError
from gigagan_core.text import lines

Pair = tuple[str | None, str | None]

_UNREAD = (".json", ".jsonl", ".ndjson", ".arrow", ".feather", ".xlsx", ".ods")


def read_captions(path: Path, there: Container[str] = ()) -> dict[str, str | None]:
    """The table (.csv, .tsv, .parquet, or a .txt of lines NAME CAPTION), as {first column: second column}.

    The first line of a .csv or .tsv is its header, unless its first cell is one of `there` (names of what is
    captioned), a picture's file name or a number, as no column is called. A row without a name captions nothing and is
    passed over. Raises GigaganError where the table cannot be read, has fewer than two columns or no row, holds no
    texts, or names something twice: a picture has one caption.
    """
    ending = path.suffix.lower()
    try:
        if ending in _UNREAD:
            raise ValueError(f"{ending} is not read")
        if ending == ".parquet":
            pairs = _of_parquet(path)
        elif ending in (".csv", ".tsv"):
            with open(path, encoding="utf-8-sig", newline="") as file:
                rows = list(csv.reader(file, delimiter="\t" if ending == ".tsv" else ","))
            pairs = _first_two(rows if _is_headless(rows, there) else rows[1:])
        else:
            text = path.read_text(encoding="utf-8-sig")
            pairs = _first_two(line.split(maxsplit=1) for line in lines(text))
    except (OSError, ValueError, csv.Error) as error:
        raise GigaganError(
            f"captions {path} cannot be read ({str(error).splitlines()[0]}); give a .csv, .tsv or .parquet whose first "
            "two columns are file and caption, or a .txt with both on a line; texts in UTF-8, a .csv with commas"
        ) from None
    named = [(name, caption) for name, caption in pairs if name]
    if not named:
        raise GigaganError(f"captions {path} has no row with a name; write file and caption into each")
    _require_single(path, (name for name, _ in named))
    return dict(named)


def _is_headless(rows: list[list[str]], there: Container[str]) -> bool:
    """Whether a table begins with what it captions; taken for a header, that row would be lost without a word."""
    first = next((row[0] for row in rows[:1] if row), "")
    is_picture = first.rpartition(".")[2].lower() in (*ENDINGS, *UNREAD_ENDINGS) and "." in first
    return is_picture or first.isdecimal() or first in there


def _first_two(rows: Iterable[list[str]]) -> list[Pair]:
    """Of each row that is not empty."""
    pairs: list[Pair] = []
    for row in rows:
        if len(row) == 1:
            raise ValueError(f"{row[0][:80]!r} stands alone in its row")
        if row:
            pairs.append((row[0], row[1]))
    return pairs


def _of_parquet(path: Path) -> list[Pair]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    if table.num_columns < 2:
        raise ValueError("it has one column only")
    names, captions = (plain_column(table.column(number)) for number in range(2))
    if pa.types.is_integer(names.type):  # numbers of classes
        names = names.cast(pa.string())
    return list(zip(texts(names).to_pylist(), texts(captions).to_pylist(), strict=True))


def _require_single(path: Path, names: Iterable[str]) -> None:
    repeated = [(name, count) for name, count in Counter(names).items() if count > 1]
    if repeated:
        name, count = repeated[0]
        others = f", and {len(repeated) - 1} others more than once" if len(repeated) > 1 else ""
        raise GigaganError(
            f"captions {path} names {name} {count} times{others}; keep one caption for each picture in it"
        )
