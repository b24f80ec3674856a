"""Odd picture files: decoded as clean-fid's own loader does, or refused where it would make nonsense of them."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gigagan_core.evaluation.picture_folder import decode, list_pictures

# Pillow's, for a palette with many alphas: clean-fid drops them, and so do we
pytestmark = pytest.mark.filterwarnings("ignore:Palette images with Transparency:UserWarning")

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 4), dtype=np.uint8)
COLOUR, ALPHA = Image.fromarray(PIXELS[:, :, :3]), Image.fromarray(PIXELS)


def turned(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    COLOUR.save(path, exif=exif)


def moving(path: Path, kind: str) -> None:
    frames = [COLOUR, COLOUR.rotate(180), COLOUR.rotate(180).transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    frames[0].save(path, kind, save_all=True, append_images=frames[1:], duration=50)


def sixteen_bits(path: Path) -> None:
    """A PNG of 16 bits a channel, which Pillow reads and does not write."""
    values = np.random.default_rng(1).integers(0, 65536, (4, 5, 3)).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in values)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 5, 4, 16, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


ODD = {
    "plain.jpg": COLOUR.save,
    "cmyk.jpg": lambda path: COLOUR.convert("CMYK").save(path),
    "cmyk.tif": lambda path: COLOUR.convert("CMYK").save(path),
    "grey.jpg": lambda path: COLOUR.convert("L").save(path),
    "one-bit.png": lambda path: COLOUR.convert("1").save(path),
    "alpha.png": ALPHA.save,
    "alpha.webp": lambda path: ALPHA.save(path, lossless=True),
    "grey-alpha.png": lambda path: ALPHA.convert("LA").save(path),
    "palette.png": lambda path: COLOUR.quantize(16).save(path),
    "palette-one-clear.png": lambda path: COLOUR.quantize(16).save(path, transparency=3),
    "palette-alphas.png": lambda path: COLOUR.quantize(16).save(path, transparency=bytes(range(0, 160, 10))),
    "turned.jpg": turned,
    "moving.webp": lambda path: moving(path, "WEBP"),
    "moving.png": lambda path: moving(path, "PNG"),
    "a-gif.png": lambda path: moving(path, "GIF"),
    "sixteen-bits.png": sixteen_bits,
    "dot.png": lambda path: COLOUR.crop((3, 3, 4, 4)).save(path),
}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_file_is_decoded_as_by_clean_fids_loader(tmp_path, name):
    from cleanfid.utils import ResizeDataset

    ODD[name](tmp_path / name)
    (picture,) = list_pictures(tmp_path)
    found = decode(picture, None)
    # this mode of clean-fid leaves resizing to the network, so that its loader gives the decoded pixels
    theirs = ResizeDataset([tmp_path / name], mode="legacy_tensorflow")[0]
    np.testing.assert_array_equal(found, theirs.round().permute(1, 2, 0).numpy())
    assert found.dtype == np.uint8


@pytest.mark.parametrize("dtype", ["uint16", "int32", "float32"])
def test_deep_greys_are_refused_where_clean_fid_makes_them_white(tmp_path, dtype):
    from cleanfid.utils import ResizeDataset

    path = tmp_path / "deep.tif"
    Image.fromarray(np.full((4, 5), 30_000, dtype)).save(path)
    (picture,) = list_pictures(tmp_path)
    assert "greys of more than 8 bits" in decode(picture, None)
    assert (ResizeDataset([path], mode="legacy_tensorflow")[0] == 255).all()
