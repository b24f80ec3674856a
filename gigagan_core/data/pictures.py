"""Pictures out of shards: where each lies in its tar, and how its bytes become pixels."""

from __future__ import annotations

import io
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gigagan_core.data.shards import Shard, read_index, selected_rows
from gigagan_core.errors import GigaganError

ENDINGS = ("png", "jpg", "jpeg", "webp")


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


def list_samples(shard_set: Any) -> list[Sample]:
    """Every selected sample of a shard set, by shard and then in the order of its table.

    Raises GigaganError for a damaged tar or table, naming it, and for a row whose picture is not there.
    """
    return [sample for shard in read_index(shard_set) for sample in _samples_of(shard)]


def _samples_of(shard: Shard) -> list[Sample]:
    rows = selected_rows(shard, ["key", "caption"])
    places = _members(shard) if rows else {}
    lost = [row["key"] for row in rows if row["key"] not in places]
    if lost:
        raise GigaganError(
            f"shard {shard.tar} lacks the picture of {len(lost)} of {len(rows)} rows (first: {lost[0]}); "
            "remove its artifact and run ingest again"
        )
    return [Sample(row["key"], row["caption"] or "", shard.tar, *places[row["key"]]) for row in rows]


def _members(shard: Shard) -> dict[str, tuple[int, int]]:
    """Key -> (offset, size) of the picture's bytes."""
    places = {}
    try:
        with tarfile.open(shard.tar, "r:") as tar:
            for member in tar:
                key, _, ending = member.name.rpartition(".")
                if ending.lower() in ENDINGS:
                    places[key] = (member.offset_data, member.size)
    except (tarfile.TarError, EOFError) as error:
        raise GigaganError(
            f"shard {shard.tar} is a damaged tar ({error}); remove its artifact and run ingest again"
        ) from None
    return places


def read_bytes(sample: Sample) -> bytes:
    """The encoded picture."""
    with open(sample.tar, "rb") as file:
        file.seek(sample.offset)
        return file.read(sample.size)


def decode(sample: Sample, image_size: int) -> np.ndarray:
    """uint8 [image_size, image_size, 3]: on white, centre square, resized by PIL's antialiased bicubic.

    Raises CorruptPicture.
    """
    encoded = read_bytes(sample)
    try:
        with Image.open(io.BytesIO(encoded), formats=("PNG", "JPEG", "WEBP")) as image:
            return to_square(image, image_size)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise CorruptPicture(f"shard {sample.tar.name}, sample {sample.key}: {error}") from None


def to_square(image: Image.Image, image_size: int) -> np.ndarray:
    """uint8 [image_size, image_size, 3] of a PIL image; see `decode`."""
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    # Cropped first: resizing with a box would look at pixels beyond it.
    image = image.crop((left, top, left + side, top + side))
    if side != image_size:
        image = image.resize((image_size, image_size), Image.Resampling.BICUBIC)
    return np.asarray(image)
