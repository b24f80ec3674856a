"""What is imported, as a tar and a parquet: the form of a downloaded partition (`download.py`) with one more column,
``label``.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gigagan_core.config.ingest import ImportSettings
from gigagan_core.data.forget import Forgotten
from gigagan_core.data.import_tars import Found, encodable
from gigagan_core.data.imports import ImportPlan, Layout, Piece, read_piece
from gigagan_core.data.schemas import PUBLISHED, SCORES
from gigagan_core.data.status import FORGOTTEN, SUCCESS

if TYPE_CHECKING:
    import pyarrow as pa

NOTHING_FORGOTTEN = Forgotten()

FORMATS = ("PNG", "JPEG", "WEBP")
"""What is read, by Pillow's names."""

# Pillow's name -> the ending in a tar; MPO is a JPEG with further views behind it.
_ENDING = {"PNG": "png", "JPEG": "jpg", "MPO": "jpg", "WEBP": "webp"}

_CANONICAL_NUMBERS = frozenset({"width", "height", "label", *SCORES})
_CANONICAL_TEXTS = frozenset({"url", "nsfw_tag"})


def import_schema() -> pa.Schema:
    """The columns of a partition, and `label` (int32): the class, counted from 0, null where there is none."""
    import pyarrow as pa

    from gigagan_core.data.download import partition_schema

    return partition_schema().append(pa.field("label", pa.int32()))


def import_piece(
    plan: ImportPlan,
    piece: Piece,
    settings: ImportSettings,
    tar: Path,
    parquet: Path,
    forgotten: Forgotten = NOTHING_FORGOTTEN,
) -> int:
    """Write a piece's pictures to a tar (key.ending, key.txt, key.json) and every row to a parquet; returns the rows.

    Status is `success` or one of `no_picture`, `no_caption`, `not_an_image`, `forgotten`; of what is forgotten, the
    row says nothing else. Raises GigaganError for a damaged tar.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = import_schema()
    keep = _keeper(settings)
    rows: list[dict[str, Any]] = []
    with tarfile.open(tar, "w", format=tarfile.USTAR_FORMAT) as out:
        for number, found in enumerate(read_piece(plan, piece)):
            key = f"{plan.prefix}{piece.number:05d}{number:06d}"
            row = {**dict.fromkeys(schema.names), **_row(found, plan.layout), "key": key}
            body, ending = None, ""
            if found.body is not None:
                row["sha256"] = hashlib.sha256(found.body).hexdigest()
            if forgotten.names(row["url"], row["sha256"]):
                row = {
                    **dict.fromkeys(schema.names),
                    "key": key,
                    "source": row["source"],
                    "status": FORGOTTEN,
                }
            elif found.body is None:
                row["status"] = "no_picture"
            elif found.caption is None:
                row["status"] = "no_caption"
            else:
                body, ending, seen = keep(found.body)
                row |= seen
            row["selected"] = row["status"] == SUCCESS
            if body is not None:
                _add(out, f"{key}.{ending}", body)
                _add(out, f"{key}.txt", found.caption.encode())
                _add(out, f"{key}.json", json.dumps(row, indent=4).encode())
            rows.append(row)
    pq.write_table(pa.Table.from_pylist(rows, schema), parquet)
    return len(rows)


def _keeper(settings: ImportSettings) -> Callable[[bytes], tuple[bytes | None, str, dict[str, Any]]]:
    """bytes -> (bytes to keep or None, their ending, columns of the row)."""
    from gigagan_core.data.img2dataset_parts import make_resizer
    from gigagan_core.data.perceptual_hash import difference_hash

    resize = None
    if settings.image_size is not None:
        resize = make_resizer(
            settings.image_size, settings.encode_format, settings.quality, own_process=False
        )

    def keep(body: bytes) -> tuple[bytes | None, str, dict[str, Any]]:
        kind, size, error = _look_at(body)
        if error is None and resize is not None:
            body, *_, error = resize(io.BytesIO(body))
            kind = settings.encode_format
        if error is not None:
            return None, "", {"status": "not_an_image", "error_message": error}
        seen = {"status": SUCCESS, "original_width": size[0], "original_height": size[1]}
        return body, kind, {**seen, "phash": difference_hash(body)}

    return keep


def _look_at(body: bytes) -> tuple[str, tuple[int, int], str | None]:
    """(ending, (width, height), None) of a picture that decodes; the message otherwise."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(body), formats=FORMATS) as image:
            image.load()
            return _ENDING[image.format], image.size, None
    except UnidentifiedImageError:  # its message holds an address in memory, other in every run
        return "", (0, 0), f"it is no {', '.join(FORMATS)}"
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return "", (0, 0), str(error)[:300]


def _row(found: Found, layout: Layout) -> dict[str, Any]:
    """What a maker's JSON says under a name of the canonical columns, and all of it in `extra`."""
    scores = _published_scores(found.known)
    said = {**found.known, **scores}
    row: dict[str, Any] = {"caption": found.caption, "source": f"import-{layout}"}
    for name in _CANONICAL_NUMBERS:
        value = said.get(name)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            if name in SCORES and abs(value) < 2**31:
                row[name] = float(value)
            elif name not in SCORES and 0 <= value < 2**31:
                row[name] = int(value)
    row |= {name: encodable(said[name]) for name in _CANONICAL_TEXTS if isinstance(said.get(name), str)}
    row["extra"] = json.dumps({**found.known, "imported_from": found.name}, default=str)
    return row


def _published_scores(known: Mapping[str, Any]) -> dict[str, Any]:
    """Scores under their publisher's names, known as his table is: `aesthetic` alone does not say which model's."""
    for schema in PUBLISHED:
        # img2dataset writes these under names of its own.
        renamed = {column for name, column in schema.columns.items() if name not in SCORES}
        if schema.required - renamed <= known.keys():
            return {name: known.get(column) for name, column in schema.columns.items() if name in SCORES}
    return {}


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
