"""Pictures of every kind go in and come out as they were, only larger."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gigagan_core.errors import GigaganError
from gigagan_core.inference.pictures import decode_picture, open_picture, read_images, take_apart


@pytest.fixture
def colours() -> np.ndarray:
    """uint8 [6, 9, 3]: upper half red, lower half blue, so that turning shows."""
    pixels = np.zeros((6, 9, 3), np.uint8)
    pixels[:3, :, 0] = 255
    pixels[3:, :, 2] = 255
    return pixels


def test_a_picture_stays_what_it_is_when_nothing_is_done(colours) -> None:
    apart = take_apart(Image.fromarray(colours))
    assert np.array_equal(np.asarray(apart.together(apart.rgb)), colours)


@pytest.mark.parametrize("mode", ["L", "LA", "La", "1", "P", "PA", "CMYK", "RGBA", "I;16"])
def test_every_mode_is_taken(upsampler, mode: str) -> None:
    grey = Image.fromarray((np.arange(48).reshape(6, 8) * 5).astype(np.uint8))
    image = (
        Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
        if mode == "I;16"
        else grey.convert({"La": "LA", "PA": "P"}.get(mode, mode)).convert(mode)
    )
    large = upsampler(image, scale=4)[0]
    assert large.size == (32, 24)
    expected = {"L": "L", "LA": "LA", "La": "LA", "1": "L", "I;16": "L", "RGBA": "RGBA", "PA": "RGBA"}
    assert large.mode == expected.get(mode, "RGB")


def test_a_grey_of_16_bits_keeps_its_range() -> None:
    values = np.array([[0, 32768, 65535]], np.uint16)
    assert np.allclose(take_apart(Image.fromarray(values)).rgb[0].numpy(), [[-1, 0, 1]], atol=0.01)


def test_a_dark_grey_of_16_bits_stays_dark() -> None:
    values = np.full((2, 2), 200, np.uint16)
    assert take_apart(Image.fromarray(values)).rgb.max() < -0.98


@pytest.mark.parametrize("high", [1.0, 255.0])
def test_greys_of_floats_reach_to_one_or_to_255(high: float) -> None:
    values = np.array([[0.0, 0.5, 1.0]], np.float32) * np.float32(high)
    assert np.allclose(take_apart(Image.fromarray(values)).rgb[0].numpy(), [[-1, 0, 1]], atol=0.01)


@pytest.mark.parametrize("high", [1.0, 255.0])
def test_what_is_no_finite_number_leaves_the_other_greys_alone(high: float) -> None:
    values = np.array([[0.0, 0.5, 1.0, np.inf, -np.inf, np.nan]], np.float32) * np.float32(high)
    assert np.allclose(take_apart(Image.fromarray(values)).rgb[0].numpy(), [[-1, 0, 1, 1, -1, -1]], atol=0.01)


@pytest.mark.parametrize("hidden", [0, 128, 255])
@pytest.mark.parametrize("size", [(32, 32), (33, 17), (1, 40)])
def test_what_transparency_hides_does_not_show_at_its_edge(hidden: int, size: tuple[int, int]) -> None:
    alpha = Image.new("L", size, 0)
    alpha.paste(255, (0, 8, size[0], 14))
    colours = Image.new("RGB", size, (hidden,) * 3)
    colours.paste((250, 200, 20), mask=alpha)
    colours.putalpha(alpha)
    apart = take_apart(colours)
    seen = torch.tensor([250, 200, 20]) / 127.5 - 1
    assert (apart.rgb - seen[:, None, None]).abs().max() < 1e-3
    assert apart.alpha.tobytes() == alpha.tobytes()


def test_colours_that_are_seen_are_not_touched() -> None:
    values = np.random.default_rng(0).integers(0, 256, (9, 7, 4), np.uint8)
    values[..., 3] = np.where(values[..., 3] < 128, 0, values[..., 3])
    rgb = ((take_apart(Image.fromarray(values)).rgb + 1) * 127.5).permute(1, 2, 0)
    seen = values[..., 3] > 0
    assert np.allclose(rgb.numpy()[seen], values[seen][:, :3], atol=1e-3)
    assert rgb.isfinite().all()
    assert rgb.min() >= -1e-3
    assert rgb.max() <= 255.001


def test_a_picture_that_shows_nothing_is_taken_as_it_is() -> None:
    assert torch.equal(
        take_apart(Image.new("RGBA", (5, 3), (255, 0, 255, 0))).rgb[:, 0, 0], torch.tensor([1.0, -1, 1])
    )


def test_transparency_is_resized_apart(upsampler, colours) -> None:
    alpha = np.full((6, 9), 255, np.uint8)
    alpha[:, :4] = 1  # hardly to be seen; under a 0 there is no colour to keep
    opaque = upsampler(Image.fromarray(colours))[0]
    image = upsampler(Image.fromarray(np.dstack([colours, alpha])))[0]
    assert image.mode == "RGBA"
    assert np.array_equal(np.asarray(image)[..., :3], np.asarray(opaque))
    made = np.asarray(image.getchannel("A"))
    assert (made[:, :24] < 5).all()
    assert (made[:, 48:] > 250).all()


def test_palettes_with_a_transparent_colour_have_alpha(upsampler, colours) -> None:
    image = Image.fromarray(colours).quantize(4)
    image.info["transparency"] = image.getpixel((0, 0))
    alpha = np.asarray(upsampler(image, scale=2)[0].getchannel("A"))
    assert alpha[0, 0] == 0
    assert alpha[-1, -1] == 255


def test_exif_orientation_is_applied(tmp_path: Path, upsampler, colours) -> None:
    image = Image.fromarray(colours)
    exif = image.getexif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    image.save(tmp_path / "turned.png", exif=exif)
    rgb = take_apart(open_picture(tmp_path / "turned.png")).rgb
    assert rgb.shape == (3, 9, 6)
    assert rgb[0, 4, 5] == 1, "what was above is at the right"
    assert rgb[2, 4, 0] == 1
    large = upsampler(tmp_path / "turned.png")[0]
    assert large.size == (48, 72)
    assert 0x0112 not in large.getexif()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("exif", [b"Exif\0\0no header of TIFF", b"Exif\0\0MM\0*"], ids=["another", "cut off"])
def test_a_picture_with_damaged_exif_is_taken_as_it_stands(tmp_path: Path, kind: str, exif: bytes) -> None:
    stored = tmp_path / "picture"
    # with a resolution, or else Pillow looks for one in the EXIF when it opens a JPEG, and forgets what it met there
    Image.new("RGB", (9, 6), "red").save(stored, kind, exif=exif, dpi=(72, 72))
    with pytest.raises((SyntaxError, struct.error)):
        open_picture(stored).getexif()
    for image in (open_picture(stored), decode_picture(stored.read_bytes(), longest_side=9)):
        rgb = take_apart(image).rgb
        assert rgb.shape == (3, 6, 9)
        assert rgb[0].min() > 0.9


def test_pictures_of_diffusers_are_welcome_in_each_of_its_forms(upsampler, colours) -> None:
    """`output_type` "pil", "np" (float NHWC in [0, 1]) and "pt" (float NCHW in [0, 1])."""
    as_pil = [Image.fromarray(colours)] * 2
    as_numpy = np.stack([colours] * 2).astype(np.float32) / 255
    as_torch = torch.from_numpy(as_numpy).permute(0, 3, 1, 2)
    expected = np.stack([np.asarray(image) for image in upsampler(as_pil)]).astype(int)
    assert expected.shape == (2, 48, 72, 3)
    assert np.array_equal(expected[0], expected[1]), "a picture does not depend on its place in a list"
    for images in (as_numpy, as_torch, list(as_numpy), list(as_torch), as_torch.half()):
        found = np.stack([np.asarray(image) for image in upsampler(images)]).astype(int)
        assert abs(found - expected).max() <= 1
    array = upsampler(as_numpy, output="np")
    assert array.shape == (2, 48, 72, 3)
    assert array.dtype == np.float32
    assert abs(array * 255 - expected).max() <= 1.01
    tensor = upsampler(as_torch, output="pt")
    assert torch.equal(tensor, torch.from_numpy(array).permute(0, 3, 1, 2))


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        (np.full((4, 4, 3), 2.0), r"must lie in \[0, 1\]"),
        (np.full((4, 4, 3), np.nan), r"must lie in \[0, 1\]"),
        (np.zeros((4, 4, 3), np.int64), "torch.int64 are not known"),
        (np.zeros((4, 4, 5)), r"\[4, 4, 5\] holds no pictures; give \[N, H, W, 3\]"),
        (torch.zeros(4, 4, 3), r"\[4, 4, 3\] holds no pictures; give \[N, 3, H, W\]"),
        (np.zeros((0, 4, 3), np.uint8), r"\[0, 4, 3\] holds no pixel"),
        (7, "int is no picture"),
        ("nowhere.png", "no such file"),
    ],
)
def test_what_is_no_picture_is_one_sentence(images, sentence: str) -> None:
    with pytest.raises(GigaganError, match=sentence):
        read_images(images)


@pytest.mark.parametrize("content", [b"", b"text", b"\x89PNG\r\n\x1a\n" + b"\0" * 50])
def test_a_corrupt_file_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.png").write_bytes(content)
    with pytest.raises(GigaganError, match=r"bad\.png cannot be decoded"):
        open_picture(tmp_path / "bad.png")


def test_a_cut_file_is_one_sentence(tmp_path: Path, colours) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(GigaganError, match="cannot be decoded"):
        open_picture(tmp_path / "cut.png")
