"""Pictures found on disk and written to it: whole or not there, each with a record of what made it."""

from __future__ import annotations

import glob
import hashlib
import io
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from gigagan_core.errors import GigaganError
from gigagan_core.inference.pictures import ENDINGS

RECORD = "gigagan"
"""The text chunk of a PNG that holds the record."""

_LONGEST_SLUG = 40


class Found(NamedTuple):
    """An input picture, and the name of its output without ending, relative to the output folder."""

    path: Path
    name: str


def find_pictures(places: Sequence[str], leave_out: Path | None = None) -> list[Found]:
    """Pictures by files, folders (those below too) and globs, in order, each once.

    leave_out: a folder whose pictures are not meant, since the results go there. Raises GigaganError where a place
    holds none.
    """
    found: dict[Path, str] = {}
    for place in places:
        for path, name in _pictures_of(place, leave_out):
            found.setdefault(path.absolute(), name)
    taken = [Path(name).with_suffix("").as_posix() for name in found.values()]
    # Two pictures that differ in their ending alone keep it.
    names = [
        short if taken.count(short) == 1 else name for name, short in zip(found.values(), taken, strict=True)
    ]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise GigaganError(f"two of the pictures are called {twice}; give them in several commands")
    return [Found(path, name) for path, name in zip(found, names)]


def _pictures_of(place: str, leave_out: Path | None) -> list[tuple[Path, str]]:
    path = Path(place).expanduser()
    if path.is_file():
        return [(path, path.name)]
    if path.is_dir():
        listed = sorted(each for each in path.rglob("*") if _is_picture(each.relative_to(path), each))
        if not listed:
            raise GigaganError(f"folder {place} holds no pictures ({', '.join(ENDINGS)}); give one that does")
        kept = _outside(listed, leave_out, place)
        return [(each, each.relative_to(path).as_posix()) for each in kept]
    matches = sorted(Path(match) for match in glob.glob(str(path), recursive=True))
    matches = [match for match in matches if match.is_file()]
    if not matches:
        raise GigaganError(f"{place}: no such picture; give a file, a folder or a glob that matches some")
    return [(match, match.name) for match in _outside(matches, leave_out, place)]


def _outside(paths: list[Path], leave_out: Path | None, place: str) -> list[Path]:
    """Those that do not lie in the folder of results, however the two were written."""
    if leave_out is None:
        return paths
    results = Path(os.path.abspath(leave_out))
    kept = [path for path in paths if not Path(os.path.abspath(path)).is_relative_to(results)]
    if not kept:
        raise GigaganError(
            f"the pictures of {place} all lie in {leave_out}, where results go; give another --out"
        )
    return kept


def _is_picture(relative: Path, path: Path) -> bool:
    hidden = any(part.startswith(".") for part in relative.parts)
    return path.suffix.lower() in ENDINGS and not hidden and path.is_file()


class OutputFolder:
    """Where results go. Raises GigaganError at once where nothing can be written there."""

    def __init__(self, folder: Path):
        self.folder = folder.expanduser().absolute()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise GigaganError(
                f"output folder {folder} cannot be made ({error.strerror}); choose another --out"
            ) from None
        if not os.access(self.folder, os.W_OK | os.X_OK):
            raise GigaganError(f"output folder {folder} cannot be written; choose another --out")

    def path(self, name: str, ending: str = ".png") -> Path:
        """Of a result by its name without ending."""
        return self.folder / f"{name}{ending}"

    def holds(self, name: str, record: dict[str, Any]) -> bool:
        """Whether the result is there and was made by the same settings.

        Raises GigaganError where a picture of that name was made by others, or not by us.
        """
        path = self.path(name)
        if not path.exists():
            return False
        if read_record(path) == json.loads(json.dumps(record)):
            return True
        raise GigaganError(f"{path} is there and was made otherwise; give --overwrite, or another --out")

    def save(self, name: str, image: Image.Image, record: dict[str, Any]) -> Path:
        """Write a PNG with its record, replacing what is there."""
        path = self.path(name)
        partial = path.with_name(f".{path.name}.partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(partial, format="PNG", pnginfo=_chunk(record))
            os.replace(partial, path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise GigaganError(
                f"{path} cannot be written ({error.strerror}); make room, or choose another --out"
            ) from None
        return path


def png(image: Image.Image, record: dict[str, Any]) -> bytes:
    """A PNG with its record, for whoever waits for it: compressed little and so sooner there."""
    file = io.BytesIO()
    image.save(file, format="PNG", pnginfo=_chunk(record), compress_level=1)
    return file.getvalue()


def _chunk(record: dict[str, Any]) -> PngInfo:
    info = PngInfo()
    info.add_itxt(RECORD, json.dumps(record, ensure_ascii=False))
    return info


def read_record(path: Path | BinaryIO) -> dict[str, Any] | None:
    """What made a picture; None where it does not say."""
    try:
        with Image.open(path) as image:
            image.load()  # the chunk may stand after the pixels
            return json.loads(image.info[RECORD])
    except (OSError, ValueError, KeyError, SyntaxError):
        return None


def name_of(words: str, record: dict[str, Any]) -> str:
    """A file name that people can read, and that differs wherever the record does."""
    slug = re.sub(r"[^\w]+", "-", words.lower()).strip("-_")[:_LONGEST_SLUG].strip("-_") or "picture"
    text = json.dumps(record, sort_keys=True, ensure_ascii=False)
    return f"{slug}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
