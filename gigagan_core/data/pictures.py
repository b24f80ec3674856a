"""Pictures out of shards: where each lies in its tar, and how its bytes become pixels."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import tarfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from PIL import Image, ImageOps

from gigagan_core.data.shards import Shard, read_index, read_table
from gigagan_core.data.status import SUCCESS
from gigagan_core.errors import GigaganError

if TYPE_CHECKING:
    import pyarrow as pa

# A large scan is no attack, and twice as many pixels are refused with an error. Not around each picture: threads share
# the filters.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

ENDINGS = ("png", "jpg", "jpeg", "jfif", "webp")
LOST = -1
"""The size of a picture whose bytes are not there."""

NO_LABEL = -1
_Place = tuple[int, int]
_TAR_BLOCK = 512
_UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
_OCTAL = re.compile(rb"[0-7]+")
_TIME_RECORD = re.compile(rb"\d+ mtime=[\d.]+\n")  # what webdataset's writer puts before every member


class CorruptPicture(Exception):
    """Bytes that do not decode to a picture; says shard and key."""


@dataclass(frozen=True)
class Sample:
    """One picture of a shard set: its bytes are [offset, offset + size) of the tar."""

    key: str
    caption: str
    tar: Path
    offset: int
    size: int


@dataclass(frozen=True)
class Samples:
    """The selected samples of shard sets as columns: 16 bytes a sample, its key and caption, and 4 for a label.

    tars: the files; tar: int32 [N], which of them. offset: int64 [N] and size: int32 [N], the picture's bytes; size is
    `LOST` where they are not there. label: int32 [N], `NO_LABEL` where a sample has none. key, caption: strings [N].
    damage: a sentence for every damaged shard.
    """

    tars: tuple[Path, ...]
    tar: np.ndarray
    offset: np.ndarray
    size: np.ndarray
    label: np.ndarray | None
    key: pa.ChunkedArray
    caption: pa.ChunkedArray
    damage: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.offset)

    def __getitem__(self, position: int) -> Sample:
        return Sample(
            self.key[position].as_py(),
            self.caption[position].as_py() or "",
            self.tars[self.tar[position]],
            int(self.offset[position]),
            int(self.size[position]),
        )

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the columns take."""
        labels = 0 if self.label is None else self.label.nbytes
        numbers = self.tar.nbytes + self.offset.nbytes + self.size.nbytes
        return labels + numbers + self.key.nbytes + self.caption.nbytes

    def where(self, keep: np.ndarray) -> Samples:
        """Those samples for which `keep` (bool [N]) is true."""
        import pyarrow as pa

        mask = pa.array(keep)
        return replace(
            self,
            tar=self.tar[keep],
            offset=self.offset[keep],
            size=self.size[keep],
            label=None if self.label is None else self.label[keep],
            key=self.key.filter(mask),
            caption=self.caption.filter(mask),
        )


def read_samples(shard_set: Any) -> Samples:
    """Every selected sample of a shard set, by shard and then in the order of its table.

    A damaged tar or table leaves its samples `LOST` and a sentence in `damage`. Raises GigaganError where the folder
    is no shard set or a file is missing.
    """
    return join([_samples_of(shard) for shard in read_index(shard_set)])


def join(parts: list[Samples]) -> Samples:
    """The samples of several parts, one part after the other."""
    import pyarrow as pa

    firsts = np.cumsum([0, *(len(part.tars) for part in parts)])
    labelled = any(part.label is not None for part in parts)
    text = pa.chunked_array([], pa.string())
    return Samples(
        tars=tuple(tar for part in parts for tar in part.tars),
        tar=_concatenate([part.tar + first for part, first in zip(parts, firsts)], np.int32),
        offset=_concatenate([part.offset for part in parts], np.int64),
        size=_concatenate([part.size for part in parts], np.int32),
        label=_concatenate([_label_column(part) for part in parts], np.int32) if labelled else None,
        key=pa.chunked_array([chunk for part in parts for chunk in part.key.chunks], text.type),
        caption=pa.chunked_array([chunk for part in parts for chunk in part.caption.chunks], text.type),
        damage=tuple(sentence for part in parts for sentence in part.damage),
    )


def _concatenate(columns: list[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate([np.empty(0, dtype), *columns], dtype=dtype)


def _label_column(part: Samples) -> np.ndarray:
    return np.full(len(part), NO_LABEL, np.int32) if part.label is None else part.label


def selected(shard: Shard, columns: tuple[str, ...]) -> pa.Table:
    """The rows of a shard that count, in the table's order; a column that the table lacks is left out.

    Raises GigaganError where the parquet is damaged.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    wanted = [*dict.fromkeys([*columns, "status", "selected"])]
    try:
        present = set(pq.read_schema(shard.parquet).names)
    except (pa.ArrowException, OSError):
        present = set(wanted)  # `read_table` says what is wrong
    table = read_table(shard, [name for name in wanted if name in present])
    counts = pc.fill_null(pc.and_(pc.equal(table["status"], SUCCESS), table["selected"]), False)
    return table.filter(counts).select([name for name in columns if name in present])


def _samples_of(shard: Shard) -> Samples:
    import pyarrow as pa

    try:
        rows = selected(shard, ("key", "caption", "label", "extra"))
    except GigaganError as error:
        return _all_lost(shard, str(error))
    keys = rows["key"].to_pylist()
    pictures, notes, damage = _members(shard) if keys else ({}, {}, None)
    places = np.array([pictures.get(key, (0, LOST)) for key in keys], np.int64).reshape(-1, 2)
    lost = np.flatnonzero(places[:, 1] == LOST)
    if len(lost) and damage is None:
        damage = (
            f"shard {shard.tar} lacks the picture of {len(lost)} of {len(keys)} rows (first: {keys[lost[0]]})"
        )
    return Samples(
        tars=(shard.tar,),
        tar=np.zeros(len(keys), np.int32),
        offset=places[:, 0],
        size=places[:, 1].astype(np.int32),
        label=_labels(rows, shard.tar, [notes.get(key) for key in keys]),
        key=rows["key"].cast(pa.string()),
        caption=rows["caption"].cast(pa.string()),
        damage=(damage,) if damage else (),
    )


def _all_lost(shard: Shard, damage: str) -> Samples:
    """In the place of a shard whose table cannot be read: as many samples as the index counts, without their bytes."""
    import pyarrow as pa

    count = shard.selected
    texts = pa.chunked_array([pa.nulls(count, pa.string())])
    numbers = np.zeros(count, np.int32)
    return Samples(
        (shard.tar,), numbers, numbers.astype(np.int64), numbers + LOST, None, texts, texts, (damage,)
    )


def _members(shard: Shard) -> tuple[dict[str, _Place], dict[str, _Place], str | None]:
    """Key -> (offset, size) of the picture and of the JSON, as far as the tar can be read; what is wrong with it."""
    pictures: dict[str, _Place] = {}
    notes: dict[str, _Place] = {}
    damage = None
    try:
        for name, offset, size in list_tar(shard.tar):
            key, _, ending = name.rpartition(".")
            if ending.lower() in ENDINGS:
                pictures[key] = (offset, size)
            elif ending == "json":
                notes[key] = (offset, size)
    except (tarfile.TarError, EOFError) as error:
        damage = f"shard {shard.tar} is a damaged tar ({error})"
    return pictures, notes, damage


def list_tar(path: Path) -> Iterator[tuple[str, int, int]]:
    """(name, offset, size) of every file in a tar; raises TarError where it is damaged, after the files before that."""
    plain = _list_plain_tar(path)
    if plain is not None:
        yield from plain
        return
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            yield member.name, member.offset_data, member.size


def _list_plain_tar(path: Path) -> list[tuple[str, int, int]] | None:
    """The same for a whole tar of regular files with short names, as webdataset writes them; None for any other one.

    `tarfile` takes ten times as long, which is hours for a hundred million samples.
    """
    members = []
    with open(path, "rb", buffering=0) as file:
        number, at = file.fileno(), 0
        length = os.fstat(number).st_size
        while (header := os.pread(number, _TAR_BLOCK, at)) != bytes(_TAR_BLOCK):
            digits, kind = header[124:135], header[156:157]
            # POSIX, without a directory in the prefix, size in octal digits
            if header[257:263] != b"ustar\0" or header[345:346] != b"\0" or not _OCTAL.fullmatch(digits):
                return None
            start, size = at + _TAR_BLOCK, int(digits, 8)
            at = start + -(-size // _TAR_BLOCK) * _TAR_BLOCK
            if at > length:
                return None
            if kind == b"0":
                name = header[:100].rstrip(b"\0").decode("utf-8", "surrogateescape")
                members.append((name, start, size))
            elif kind != b"x" or not _TIME_RECORD.fullmatch(os.pread(number, size, start)):
                return None
    return members


def _labels(rows: pa.Table, tar: Path, notes: list[_Place | None]) -> np.ndarray | None:
    """int32 [rows]: the classes by the column `label`, by `extra`, or by the JSON in the tar; None: not one has any.

    Whether the tar's JSON has labels is told by the first sample's: reading it all would cost a pass over the tar.
    """
    import pyarrow.compute as pc

    if "label" in rows.column_names:
        values = rows["label"].to_pylist()
    elif "extra" in rows.column_names and pc.any(pc.match_substring(rows["extra"], '"label"')).as_py():
        values = [_label_in(text) for text in rows["extra"].to_pylist()]
    else:
        with open(tar, "rb") as file:
            if not notes or _label_in(_read_at(file, notes[0])) is None:
                return None
            values = [_label_in(_read_at(file, place)) for place in notes]
    labels = [value if _is_class(value) else NO_LABEL for value in values]
    return np.array(labels, np.int32) if any(label != NO_LABEL for label in labels) else None


def _read_at(file: BinaryIO, place: _Place | None) -> bytes | None:
    if place is None:
        return None
    file.seek(place[0])
    return file.read(place[1])


def _label_in(text: str | bytes | None) -> Any:
    try:
        found = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return None
    return found.get("label") if isinstance(found, Mapping) else None


def _is_class(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def read_bytes(sample: Sample) -> bytes:
    """The encoded picture."""
    return _read_part(sample.tar, sample.offset, sample.size)


def _read_part(tar: Path, offset: int, size: int) -> bytes:
    file = os.open(tar, os.O_RDONLY)
    try:
        return os.pread(file, size, offset)
    finally:
        os.close(file)


def decode(sample: Sample, image_size: int) -> np.ndarray:
    """uint8 [image_size, image_size, 3] of a sample: see `to_square`. Raises CorruptPicture."""
    try:
        return np.asarray(_open_square(read_bytes(sample), image_size, None))
    except _UNREADABLE as error:
        raise _corrupt(sample, error) from None


def decode_planes(
    samples: Samples, position: int, out: np.ndarray, place: float | None = None, mirrored: bool = False
) -> None:
    """Write a picture, or its mirror image, to out, uint8 [3, size, size]: see `to_square`. Raises CorruptPicture."""
    tar = samples.tars[samples.tar[position]]
    encoded = _read_part(tar, int(samples.offset[position]), int(samples.size[position]))
    size = out.shape[-1]
    try:
        image = _open_square(encoded, size, place)
    except _UNREADABLE as error:
        raise _corrupt(samples[position], error) from None
    if mirrored:  # by Pillow, in a fraction of the time that numpy needs
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for plane, channel in zip(out, "RGB", strict=True):
        # Pillow takes the channels apart four times as fast as numpy transposes them.
        plane[:] = np.frombuffer(image.tobytes("raw", channel), np.uint8).reshape(size, size)


def _open_square(encoded: bytes, image_size: int, place: float | None) -> Image.Image:
    with Image.open(io.BytesIO(encoded), formats=("PNG", "JPEG", "WEBP")) as image:
        return to_square(image, image_size, place)


def _corrupt(sample: Sample, error: Exception) -> CorruptPicture:
    return CorruptPicture(f"shard {sample.tar.name}, sample {sample.key}: {error}")


def to_square(image: Image.Image, image_size: int, place: float | None = None) -> Image.Image:
    """RGB image_size x image_size: upright, on white, cut square, resized by PIL's antialiased bicubic.

    The square is as long as the shorter side. place: where along the longer one, in [0, 1); None: at the centre.
    """
    if "exif" in image.info:
        with contextlib.suppress(Exception):  # of EXIF that is damaged; the picture need not be
            image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits of grey, which Pillow would cut off at 255
        image = Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    if image.mode != "RGB":
        image = image.convert("RGB")
    image.load()
    side, spare = min(image.size), max(image.size) - min(image.size)
    if spare:
        start = spare // 2 if place is None else int(place * (spare + 1))
        left, top = (start, 0) if image.width > side else (0, start)
        # Cropped first: resizing with a box would look at pixels beyond it.
        image = image.crop((left, top, left + side, top + side))
    if side != image_size:
        image = image.resize((image_size, image_size), Image.Resampling.BICUBIC)
    return image
