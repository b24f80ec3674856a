"""Samples of a webdataset's tar: files of one key that follow each other."""

from __future__ import annotations

import contextlib
import json
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gigagan_core.data.columns import finite
from gigagan_core.data.pictures import ENDINGS
from gigagan_core.errors import GigaganError

UNREAD_ENDINGS = ("avif", "bmp", "gif", "heic", "heif", "jp2", "jxl", "pgm", "ppm", "tif", "tiff")
"""Of pictures in formats that are not read: each has a row, and the status `not_an_image`."""

_PICTURES = (*ENDINGS, *UNREAD_ENDINGS)
_PARTS = frozenset({*_PICTURES, "txt", "json", "cls"})
_BLOCK = 2**20
_APPLE_DOUBLE = "._"  # what a Mac's tar puts before each file, for what other systems have no place for

_Members = dict[str, tarfile.TarInfo]


@dataclass(frozen=True)
class Found:
    """One picture as it was found. name: for a person, kept in `extra`. body: None where the picture is missing.

    known: what else its maker knew (the JSON beside it); sources' own names.
    """

    name: str
    body: bytes | None
    caption: str | None
    known: Mapping[str, Any] = field(default_factory=dict)


def read_tar(path: Path) -> Iterator[Found]:
    """Every sample of a tar, one at a time. Raises GigaganError where the tar is damaged, cut off, or more than one.

    Its key ends at the first dot of a file's name, as webdataset has it; where that leaves no plain picture, text or
    label (``photo.2021.png``), at the last one. No picture goes without a row.
    """
    count = 0
    try:
        with tarfile.open(path, "r:") as tar:
            for key, members in _samples(tar):
                parts = {ending: tar.extractfile(member).read() for ending, member in members.items()}
                count += 1
                yield _found(key, parts)
            _check_end(path, tar.offset)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise GigaganError(
            f"{path} is no whole tar ({error}; {count} samples could be read); copy it again from its source, or move "
            "it out of the folder"
        ) from None


def sample_keys(path: Path) -> Iterator[str]:
    """Each sample's key, as far as the tar can be read."""
    with contextlib.suppress(tarfile.TarError, EOFError, OSError), tarfile.open(path, "r:") as tar:
        for key, _ in _samples(tar):
            yield key


def _check_end(path: Path, offset: int) -> None:
    """Nothing but zeros may follow the last file, and some must.

    tarfile ends at a damaged header, and where another tar was put behind this one, without a word; and a tar that was
    cut between two files reads like a whole one.
    """
    with open(path, "rb") as file:
        file.seek(offset)
        if not file.read(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("its end is missing")
        file.seek(offset)
        while block := file.read(_BLOCK):
            if block.strip(b"\0"):
                raise tarfile.ReadError(f"after byte {offset:,} something follows that is no file of it")


def _samples(tar: tarfile.TarFile) -> Iterator[tuple[str, _Members]]:
    """Each sample's key and its files by ending. Only headers are held: a key may have a whole tar of files."""
    for stem, members in _groups(tar):
        whole = {ending: member for ending, member in members.items() if ending in _PARTS}
        dotted = _by_prefix(members)
        if whole:
            yield stem, whole
            # Beside a whole sample, pictures alone are its masks and the like.
            dotted = {prefix: parts for prefix, parts in dotted.items() if _is_pair(parts)}
        elif _is_one_pair(dotted):
            yield stem, {last: member for parts in dotted.values() for last, member in parts.items()}
            continue
        for prefix, parts in dotted.items():
            yield f"{stem}.{prefix}", parts


def _groups(tar: tarfile.TarFile) -> Iterator[tuple[str, _Members]]:
    """Files that follow each other and are equal up to the first dot; an ending that comes again begins anew."""
    stem, members = "", {}
    for member in tar:
        folder, slash, file = member.name.rpartition("/")
        if not member.isfile() or file.startswith(_APPLE_DOUBLE):
            continue
        name, _, ending = file.partition(".")
        ending = ending.lower()
        if members and (folder + slash + name != stem or ending in members):
            yield stem, members
            members = {}
        stem = folder + slash + name
        members[ending] = member
    if members:
        yield stem, members


def _by_prefix(members: _Members) -> dict[str, _Members]:
    """Members whose endings have dots themselves (``2021.png``): what is before the last -> members by the last."""
    found: dict[str, _Members] = {}
    for ending, member in members.items():
        prefix, dot, last = ending.rpartition(".")
        if dot and last in _PARTS:
            found.setdefault(prefix, {})[last] = member
    return found


def _is_pair(parts: _Members) -> bool:
    return "txt" in parts and any(ending in parts for ending in _PICTURES)


def _is_one_pair(dotted: Mapping[str, _Members]) -> bool:
    """Whether it is one picture and one text by names in words (``image.png``, ``caption.txt``), each ending once.

    Numbers tell samples apart, and what belongs to another sample must not caption this one.
    """
    lasts = Counter(last for parts in dotted.values() for last in parts)
    pictures = sum(lasts[ending] for ending in _PICTURES)
    once = pictures == 1 and lasts["txt"] == 1 and max(lasts.values()) == 1
    return once and not any(letter.isdecimal() for prefix in dotted for letter in prefix)


def _found(key: str, parts: Mapping[str, bytes]) -> Found:
    body = next((parts[ending] for ending in _PICTURES if ending in parts), None)
    known = _json(parts.get("json"))
    caption = utf8_text(parts["txt"]) if "txt" in parts else known.get("caption")
    if "cls" in parts and (label := utf8_text(parts["cls"]) or "").strip().isdecimal():
        known["label"] = int(label)
    return Found(key, body, encodable(caption) if isinstance(caption, str) else None, known)


def _json(encoded: bytes | None) -> dict[str, Any]:
    try:
        known = finite(json.loads(encoded or b"{}"))
    except (ValueError, RecursionError):
        return {}
    return known if isinstance(known, dict) else {}


def encodable(text: str) -> str:
    """The text with a question mark for half a character, as JSON and names of files may have them."""
    return text.encode("utf-8", "replace").decode()


def utf8_text(encoded: bytes) -> str | None:
    """The text of these bytes; None where they are no UTF-8."""
    try:
        return encoded.decode()
    except UnicodeDecodeError:
        return None
