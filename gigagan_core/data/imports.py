"""Import of pictures that are there already: tars of webdataset or img2dataset, and folders of pictures.

`plan_import` looks at a folder and cuts it into pieces, `read_piece` reads one, and `import_writing` makes a tar and a
parquet of it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from gigagan_core.config.ingest import ImportSettings
from gigagan_core.data.caption_tables import read_captions
from gigagan_core.data.import_tars import UNREAD_ENDINGS, Found, encodable, read_tar, sample_keys, utf8_text
from gigagan_core.data.pictures import ENDINGS
from gigagan_core.errors import GigaganError

Layout = Literal["shards", "captions", "classes"]
_PACKED = ("gz", "tgz", "bz2", "tbz2", "xz", "txz", "zst", "zip")
_TABLES = ("csv", "tsv", "parquet")
_COLUMNS = frozenset(
    {"key", "__key__", "file", "file_name", "filename", "name", "path", "image", "id", "class", "label"}
)
_END_BYTES = 2**16


@dataclass(frozen=True)
class Piece:
    """What becomes one shard: a tar, or some pictures of a folder. number: its place among all pieces.

    files: names relative to the folder, in order; one for a tar.
    """

    number: int
    files: tuple[str, ...]


@dataclass(frozen=True)
class ImportPlan:
    """How a folder is read.

    pieces: in order of names. prefix: 12 hex digits, the beginning of every key; decided by names, sizes and the ends
    of every tar or of the first picture, so that a copy of the folder gets the same keys, and another folder does not.
    captions: file, class folder, or of tars key or class number -> caption, as a table gave them.
    labels: class folder -> number, by name; empty where there are no classes. lost: files that the table names and the
    folder does not have. left_out: tars and pictures of the folder that are in no piece.
    """

    folder: Path
    layout: Layout
    pieces: tuple[Piece, ...]
    prefix: str
    captions: Mapping[str, str | None] = field(default_factory=dict)
    labels: Mapping[str, int] = field(default_factory=dict)
    lost: frozenset[str] = frozenset()
    left_out: tuple[str, ...] = ()


# ---- what is there -----------------------------------------------------------------------------------


def plan_import(folder: Path, settings: ImportSettings, captions: Path | None = None) -> ImportPlan:
    """What is in a folder, and how it is cut.

    captions: a table (see `read_captions`) whose first column names a file, relative to the folder, a class folder, or,
    of tars, a sample's key or a class's number. Raises GigaganError where the folder is missing, holds nothing to
    import, or has pictures that nothing captions.
    """
    if not folder.is_dir():
        raise GigaganError(f"{folder} is no folder; name the one that holds the tars or pictures")
    files = _files(folder)
    table = read_captions(captions, _Captionable(folder, files)) if captions else {}
    tars = [name for name in files if name.lower().endswith(".tar")]
    readable = [name for name in files if _ending(name) in ENDINGS]
    layout = _layout(folder, settings.layout, tars, readable, files, table)
    pictures = [name for name in files if _ending(name) in (*ENDINGS, *UNREAD_ENDINGS)]
    labels: dict[str, int] = {}
    lost: frozenset[str] = frozenset()
    if layout == "classes":
        pictures = [name for name in pictures if "/" in name]
        classes = sorted({_class_of(name) for name in pictures})
        labels = {name: number for number, name in enumerate(classes)}
        _require_some_named(folder, table, classes, "class folder")
    elif layout == "captions":
        # What the table names is a row, whether or not it is there and a picture.
        lost = frozenset(table) - files.keys()
        pictures = sorted({*pictures, *table})
    names, size = (tars, 1) if layout == "shards" else (pictures, settings.rows_per_shard)
    cuts = range(0, len(names), size)
    pieces = tuple(Piece(number, tuple(names[cut : cut + size])) for number, cut in enumerate(cuts))
    prefix = _prefix(folder, layout, {name: files.get(name) for name in names})
    return ImportPlan(folder, layout, pieces, prefix, table, labels, lost, _left_out(files, frozenset(names)))


class _Captionable:
    """What the first column of a table may name: a file, a class folder, or the key of a tar's sample."""

    def __init__(self, folder: Path, files: Collection[str]):
        self._folder = folder
        self._plain = {name for file in files for name in (file, _class_of(file))}
        self._tars = [name for name in files if name.lower().endswith(".tar")]

    def __contains__(self, name: object) -> bool:
        if name in self._plain:
            return True
        # The tars are read for the rare table without a header, not for the many whose first cell is a usual one.
        if not self._tars or str(name).lower() in _COLUMNS:
            return False
        return any(name in sample_keys(self._folder / tar) for tar in self._tars)


def _prefix(folder: Path, layout: Layout, names: Mapping[str, int | None]) -> str:
    """See `ImportPlan`. Small tars of equal names often have equal sizes too: their ends tell them apart."""
    there = [name for name, size in names.items() if size is not None]
    looked_at = there if layout == "shards" else there[:1]
    content = [_ends_sum(folder / name) for name in looked_at]
    return hashlib.sha256(json.dumps([*names.items(), content]).encode()).hexdigest()[:12]


def _ends_sum(path: Path) -> str:
    """sha256 (hex) of a file's first and last bytes: reading all of a thousand tars twice would take too long."""
    try:
        with open(path, "rb") as file:
            head = file.read(_END_BYTES)
            file.seek(max(path.stat().st_size - _END_BYTES, 0))
            return hashlib.sha256(head + file.read()).hexdigest()
    except OSError as error:
        raise GigaganError(
            f"{path} cannot be read ({error.strerror}); see to its rights and its disk"
        ) from None


def _left_out(files: Mapping[str, int], taken: frozenset[str]) -> tuple[str, ...]:
    """Tars, packed or not, and pictures that are in no piece."""
    kinds = {*ENDINGS, *UNREAD_ENDINGS, "tar", *_PACKED}
    return tuple(name for name in files if name not in taken and _ending(name) in kinds)


def _files(folder: Path) -> dict[str, int]:
    """Name relative to the folder -> bytes, by name; hidden files and folders are left alone."""
    found = {}
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(root, name)
            if not name.startswith(".") and path.is_file():
                found[path.relative_to(folder).as_posix()] = path.stat().st_size
    return dict(sorted(found.items()))


def folder_sum(folder: Path) -> str:
    """sha256 (hex) of every file's name, size and time of change: what is in a folder, without reading it all."""
    files = [(name, size, (folder / name).stat().st_mtime_ns) for name, size in _files(folder).items()]
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()


def _layout(
    folder: Path,
    wanted: str,
    tars: Sequence[str],
    pictures: Sequence[str],
    files: Mapping[str, int],
    table: Mapping[str, str | None],
) -> Layout:
    kinds = ", ".join(f".{ending}" for ending in ENDINGS)
    if wanted == "auto" and tars and pictures:
        raise GigaganError(
            f"{folder} holds tars ({tars[0]}) and pictures ({pictures[0]}); set layout to shards, captions or classes "
            "to say which are meant, or move the others out of it"
        )
    if wanted == "shards" or (wanted == "auto" and tars):
        if not tars:
            raise GigaganError(f"{folder} holds no .tar file; name the folder that holds the shards")
        return "shards"
    if not pictures:
        packed = next((name for name in files if _ending(name) in _PACKED), None)
        unpack = f", or unpack {packed}" if packed else ""
        raise GigaganError(
            f"{folder} holds no .tar file and no picture ({kinds}); name the folder that holds them{unpack}"
        )
    has_classes = all("/" in name for name in pictures)
    if wanted == "classes" and not has_classes:
        lost = next(name for name in pictures if "/" not in name)
        raise GigaganError(
            f"{folder}: {lost} lies in no class folder; move it into one, or set layout=captions"
        )
    if wanted != "auto":
        return wanted
    by_file = any(_caption_file(name) in files for name in pictures) or not table.keys().isdisjoint(pictures)
    if by_file or not has_classes:
        if not by_file:
            _require_some_named(folder, table, pictures, "picture")
            beside = next((name for name in files if _ending(name) in _TABLES), None)
            raise GigaganError(
                f"{folder} holds {len(pictures)} pictures and no caption for them; put a .txt beside each, give a "
                f"table of captions{f' (such as {beside}, which is there)' if beside else ''}, or sort them into one "
                "folder for each class"
            )
        return "captions"
    return "classes"


def _require_some_named(
    folder: Path, table: Mapping[str, str | None], names: Sequence[str], what: str
) -> None:
    """A table that names nothing of the folder is another folder's, or has its columns in another order."""
    if table and table.keys().isdisjoint(names):
        raise GigaganError(
            f"the table of captions names no {what} of {folder}: it has {next(iter(table))!r} where {names[0]!r} lies; "
            f"write the {what} as it is called in that folder into its first column, and the caption into the second"
        )


def _ending(name: str) -> str:
    return name.rpartition(".")[2].lower()


def _caption_file(picture: str) -> str:
    return picture.rpartition(".")[0] + ".txt"


def _class_of(picture: str) -> str:
    return picture.partition("/")[0]


# ---- reading ------------------------------------------------------------------------------------------


def read_piece(plan: ImportPlan, piece: Piece) -> Iterator[Found]:
    """The pictures of a piece, one at a time. Raises GigaganError for a tar that is damaged or cut off."""
    if plan.layout == "shards":
        yield from (_captioned(found, plan.captions) for found in read_tar(plan.folder / piece.files[0]))
        return
    for name in piece.files:
        body = None if name in plan.lost else (plan.folder / name).read_bytes()
        if plan.layout == "classes":
            class_name = _class_of(name)
            caption = plan.captions.get(class_name, encodable(class_name.replace("_", " ")))
            yield Found(name, body, caption, {"label": plan.labels[class_name]})
        else:
            yield Found(name, body, _caption_of(plan, name))


def _captioned(found: Found, captions: Mapping[str, str | None]) -> Found:
    """A sample of a tar with its caption: by the table, its own, or, where there is none, its class's.

    A class is called what the table calls its number, what `class_name` in the JSON says, or by its number; which of
    them is kept in `extra`, as `caption_from`.
    """
    if captions.get(found.name) is not None:
        return replace(found, caption=captions[found.name])
    if found.caption is not None:
        return found
    label, name = found.known.get("label"), found.known.get("class_name")
    number = str(label) if isinstance(label, int) and not isinstance(label, bool) else None
    if captions.get(number) is not None:
        origin, caption = "table of classes", captions[number]
    elif isinstance(name, str) and name.strip():
        origin, caption = "class_name", encodable(name)
    elif number is not None:
        origin, caption = "class number", f"class {number}"
    else:
        return found
    return replace(found, caption=caption, known={**found.known, "caption_from": origin})


def _caption_of(plan: ImportPlan, picture: str) -> str | None:
    if picture in plan.captions:
        return plan.captions[picture]
    path = plan.folder / _caption_file(picture)
    text = utf8_text(path.read_bytes()) if path.is_file() else None
    # Editors end a file with a new line, which is no part of the caption.
    return text.strip() if text is not None else None
