"""What strangers serve as pictures: each becomes RGB pixels of the size kept, or one named reason."""

from __future__ import annotations

import io
import resource
import struct
import subprocess
import sys
import tarfile
import zlib
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from gigagan_core.config.ingest import IngestSettings, PartitionSettings
from gigagan_core.data.download import PartitionJob, PartitionResult, _PartitionWriter, partition_schema
from gigagan_core.data.fetch import Fetched
from gigagan_core.data.img2dataset_parts import make_resizer
from gigagan_core.data.pictures import to_square

from .importing import write_files

SIDE = 32


def encoded(mode: str, kind: str, **options: object) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(out, kind, **options)
    return out.getvalue()


def sixteen_bit_png() -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)).save(out, "PNG")
    return out.getvalue()


def animated_gif() -> bytes:
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "green")]
    out = io.BytesIO()
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:])
    return out.getvalue()


def deep_png(mode: str) -> bytes:
    """64 x 64, from black at the top to white at the bottom, 16 bits a channel."""
    import cv2

    rows = np.linspace(0, 65535, 64).astype(np.uint16)[:, None].repeat(64, axis=1)
    layers = {"grey": rows, "colour": np.stack([rows] * 3, axis=2)}
    layers["transparent"] = np.concatenate([layers["colour"], np.full((64, 64, 1), 65535, np.uint16)], axis=2)
    return cv2.imencode(".png", layers[mode])[1].tobytes()


def turned(orientation: int, kind: str) -> bytes:
    """64 x 48 as it is to be seen, blue at the top left; saved as a camera held otherwise does it."""
    seen = Image.new("RGB", (64, 48), "red")
    seen.paste("blue", (0, 0, 32, 24))
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # EXIF's orientation -> Pillow's way to undo it
    held = seen.transpose(Image.Transpose(back[orientation])) if orientation in back else seen
    exif, out = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    held.save(out, kind, exif=exif)
    return out.getvalue()


def bomb(side: int = 30_000) -> bytes:
    """A PNG of side x side equal pixels: a few KB on the wire, 2.7 GB as colours."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    compressor, row = zlib.compressobj(9), b"\0" * (1 + side // 8)
    rows = b"".join(compressor.compress(row) for _ in range(side)) + compressor.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def by_opencv(ending: str) -> bytes:
    """A white picture that is large enough to be kept, in a format of which Pillow may know nothing."""
    pixels = np.ones((2 * SIDE, 3 * SIDE, 3), np.uint8 if ending == ".pam" else np.float32)
    made, body = cv2.imencode(ending, pixels)
    assert made
    assert cv2.imdecode(body, cv2.IMREAD_UNCHANGED) is not None
    return body.tobytes()


SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="64" height="64"><rect width="9" height="9"/></svg>'
JPEG = encoded("RGB", "JPEG")
PROGRESSIVE = encoded("RGB", "JPEG", progressive=True)
PICTURES = {
    "a JPEG": (JPEG, {"success"}),
    "a grey JPEG": (encoded("L", "JPEG"), {"success"}),
    "a CMYK JPEG": (encoded("CMYK", "JPEG"), {"success"}),
    "a palette PNG": (encoded("P", "PNG"), {"success"}),
    "a transparent PNG": (encoded("RGBA", "PNG"), {"success"}),
    "a 16-bit PNG": (sixteen_bit_png(), {"success"}),
    "a WebP": (encoded("RGB", "WEBP"), {"success"}),
    # Decoders differ by version: the first frame, or no picture.
    "an animated GIF": (animated_gif(), {"success", "not_an_image"}),
    "an SVG": (SVG, {"not_an_image"}),
    "half a JPEG": (JPEG[: len(JPEG) // 2], {"not_an_image"}),
    "half a progressive JPEG": (PROGRESSIVE[: len(PROGRESSIVE) // 2], {"not_an_image"}),
    "nearly all of a PNG": (encoded("RGB", "PNG")[:-200], {"not_an_image"}),
    "a page": (b"<html>not found</html>", {"not_an_image"}),
    "half a header": (JPEG[:40], {"not_an_image"}),
    "nothing but zeros": (bytes(5000), {"not_an_image"}),
    # OpenCV decodes these, and nothing would hold their size to `max_pixels`.
    "a Radiance picture": (by_opencv(".hdr"), {"not_an_image"}),
    "a PFM": (by_opencv(".pfm"), {"not_an_image"}),
    "a PAM": (by_opencv(".pam"), {"not_an_image"}),
    "a bomb": (bomb(), {"too_many_pixels"}),
    "a smaller bomb": (bomb(12_000), {"too_many_pixels"}),
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, dict], dict[str, Image.Image]]:
    """Every picture through the writer of a partition: rows and kept pictures, by name."""
    folder = tmp_path_factory.mktemp("hostile")
    settings = PartitionSettings.of(IngestSettings(image_size=SIDE), 0, len(PICTURES))
    empty = dict.fromkeys(partition_schema().names)
    rows = [{**empty, "key": f"{n:04d}", "caption": name} for n, name in enumerate(PICTURES)]
    result = PartitionResult(rows=len(rows))
    with _PartitionWriter(
        folder, rows, PartitionJob("t", "0", settings), result, own_process=False
    ) as writer:
        for number, (body, _) in enumerate(PICTURES.values()):
            writer.add(Fetched(number, "http://a.example", "success", body, f"{number:064x}", None, 1))
    assert result.done == len(PICTURES)
    table = {row["caption"]: row for row in pq.read_table(folder / "00000.parquet").to_pylist()}
    kept = {}
    with tarfile.open(folder / "00000.tar") as tar:
        for member in tar:
            if member.name.endswith(".jpg"):
                name = list(PICTURES)[int(member.name[:4])]
                kept[name] = Image.open(io.BytesIO(tar.extractfile(member).read()))
                kept[name].load()
    return table, kept


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_kept_as_rgb_or_refused_by_name(name: str, written) -> None:
    rows, kept = written
    status = rows[name]["status"]
    assert status in PICTURES[name][1], rows[name]["error_message"]
    assert (name in kept) == (status == "success")
    if status == "success":
        assert kept[name].size == (SIDE, SIDE)
        assert kept[name].mode in ("RGB", "L")


def kept_by_the_resizer(body: bytes, encode_format: str) -> Image.Image:
    resize = make_resizer(SIDE, encode_format, 9 if encode_format == "png" else 95, own_process=False)
    encoded, *_, error = resize(io.BytesIO(body))
    assert error is None
    return Image.open(io.BytesIO(encoded)).convert("RGB")


@pytest.mark.parametrize("mode", ["grey", "colour", "transparent"])
@pytest.mark.parametrize("encode_format", ["png", "jpg", "webp"])
def test_sixteen_bits_a_channel_become_eight(mode: str, encode_format: str) -> None:
    body = deep_png(mode)
    for image in (kept_by_the_resizer(body, encode_format), to_square(Image.open(io.BytesIO(body)), SIDE)):
        grey = np.asarray(image)[:, SIDE // 2].mean(axis=1)
        np.testing.assert_allclose(grey, np.linspace(0, 255, SIDE), atol=12)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8, 99])
def test_a_picture_is_kept_upright_however_the_camera_was_held(orientation: int, kind: str) -> None:
    body = turned(orientation, kind)
    for image in (kept_by_the_resizer(body, "png"), to_square(Image.open(io.BytesIO(body)), SIDE)):
        corners = [image.getpixel(place) for place in ((2, 2), (29, 2), (2, 29), (29, 29))]
        blue = [pixel[2] > 150 > pixel[0] for pixel in corners]
        assert blue == [True, False, False, False]


def test_damaged_exif_spoils_no_picture() -> None:
    body = (
        turned(6, "JPEG")
        .replace(b"Exif\0\0MM\0*", b"Exif\0\0MM\0\xff")
        .replace(b"Exif\0\0II*", b"Exif\0\0XX*")
    )
    assert b"Exif" in body
    assert kept_by_the_resizer(body, "png").size == (SIDE, SIDE)
    assert to_square(Image.open(io.BytesIO(body)), SIDE).size == (SIDE, SIDE)


def test_a_bomb_is_never_unpacked(written) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert len(PICTURES["a bomb"][0]) < 200_000
    rows, _ = written
    assert rows["a bomb"]["original_width"] is None
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000, "KiB"


def test_every_picture_has_one_fate(written) -> None:
    rows, _ = written
    assert Counter(row["key"] for row in rows.values()) == {f"{n:04d}": 1 for n in range(len(PICTURES))}


LARGE_SCAN = """
import sys
from pathlib import Path
from PIL import Image
from gigagan_core.config.ingest import ImportSettings
from gigagan_core.data.reader import load_all
from gigagan_core.stages import import_data
from gigagan_core.stages.base import RunContext
Image.MAX_IMAGE_PIXELS = 300
with RunContext.open("store") as context:
    for settings in (ImportSettings(), ImportSettings(image_size=16)):
        made = import_data.run(settings, {"source": Path("in")}, context)
        assert made.manifest["counts"] == {"in": 1, "out": 1, "rejected": {}}, made.manifest["counts"]
        assert load_all(made, 16)[0].shape == (1, 3, 16, 16)
"""


def test_a_large_scan_is_imported_and_read_without_a_word_of_attacks(tmp_path: Path) -> None:
    scan = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (24, 20), "red").save(scan, "JPEG", exif=exif)
    write_files(tmp_path / "in", {"scans/a.jpg": scan.getvalue()})
    # A process of its own: pytest has its own filters of warnings.
    done = subprocess.run(
        [sys.executable, "-c", LARGE_SCAN], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "Decompression" not in done.stderr
