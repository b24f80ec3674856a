"""A table of captions beside pictures: which file, or which class, is called what."""

from __future__ import annotations

import csv
from pathlib import Path

from gigagan_core.errors import GigaganError


def read_captions(path: Path) -> dict[str, str | None]:
    """The table (.csv, .tsv, .parquet, or a .txt of lines NAME CAPTION), as {first column: second column}.

    Raises GigaganError where it cannot be read or has fewer than two columns.
    """
    ending = path.suffix.lower()
    try:
        if ending == ".parquet":
            import pyarrow.parquet as pq

            table = pq.read_table(path)
            rows = list(zip(*(table[name].to_pylist() for name in table.column_names[:2]), strict=True))
        elif ending in (".csv", ".tsv"):
            with open(path, encoding="utf-8-sig", newline="") as file:
                rows = list(csv.reader(file, delimiter="\t" if ending == ".tsv" else ","))[1:]
        else:
            rows = [
                line.split(maxsplit=1)
                for line in path.read_text(encoding="utf-8").splitlines()
                if line.strip()
            ]
        return {str(name): None if caption is None else str(caption) for name, caption, *_ in rows}
    except (OSError, ValueError, csv.Error) as error:
        raise GigaganError(
            f"captions {path} cannot be read ({str(error).splitlines()[0]}); give a .csv, .tsv or .parquet whose first "
            "two columns are file and caption, or a .txt with both on a line"
        ) from None
