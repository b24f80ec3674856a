"""Pictures of every kind as float images, and back: files, Pillow, numpy and torch as diffusers gives them."""

from __future__ import annotations

import contextlib
import io
import struct
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from gigagan_core.errors import GigaganError
from gigagan_core.inference.generate import to_uint8

ENDINGS = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".tif", ".tiff")
SENT = ("PNG", "JPEG", "WEBP")
"""Formats that strangers may send: few decoders, each of them well tried."""
_GREY = ("1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "F")
_PREMULTIPLIED = {"La": "LA", "RGBa": "RGBA"}


@dataclass(frozen=True)
class Apart:
    """A picture as the networks take it, and what they do not take.

    rgb: float32 [3, H, W] in [-1, 1]. alpha: its transparency, mode L, or None. grey: whether it had no colours.
    """

    rgb: Tensor
    alpha: Image.Image | None = None
    grey: bool = False

    def together(self, rgb: Tensor) -> Image.Image:
        """The picture with these pixels, float [3, H', W'] in [-1, 1]: alpha resized to them apart, grey if it was."""
        image = to_pil(rgb)
        if self.grey:
            image = image.convert("L")
        if self.alpha is not None:
            image.putalpha(self.alpha.resize(image.size, Image.Resampling.BICUBIC))
        return image


def open_picture(path: Path | str) -> Image.Image:
    """A decoded picture. Raises GigaganError where the file is missing or does not decode."""
    try:
        with warnings.catch_warnings():
            # Pillow warns of large pictures, which are the purpose here, and refuses what would be an attack.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                image.load()
                return image
    except FileNotFoundError:
        raise GigaganError(f"picture {path}: no such file; check the path") from None
    except (OSError, ValueError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise GigaganError(f"picture {path} cannot be decoded ({error}); give another file") from None


def decode_picture(body: bytes, longest_side: int) -> Image.Image:
    """A picture that a stranger sent, decoded: PNG, JPEG or WebP.

    longest_side: in pixels; what the header promises is looked at before anything is unpacked.
    Raises GigaganError for what is no such picture, does not decode, or is larger.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(body), formats=SENT) as image:
                if max(image.size) > longest_side:
                    raise GigaganError(
                        f"the picture has {image.width} x {image.height} pixels, and at most {longest_side} a side "
                        "are taken; shrink it first"
                    )
                image.load()
                return image
    except Image.DecompressionBombError:
        raise GigaganError(
            f"the picture has far more than the {longest_side} pixels a side that are taken; shrink it first"
        ) from None
    except (OSError, ValueError, SyntaxError, EOFError, struct.error) as error:
        what = "is none that is known" if isinstance(error, UnidentifiedImageError) else "cannot be decoded"
        raise GigaganError(f"the picture {what}; send a whole PNG, JPEG or WebP file") from None


def take_apart(image: Image.Image) -> Apart:
    """Upright by its EXIF orientation, where that can be read; colours, transparency and greyness told apart."""
    with contextlib.suppress(
        Exception
    ):  # Pillow raises what it meets in damaged EXIF; the picture need not be
        image = ImageOps.exif_transpose(image)
    if image.mode in _PREMULTIPLIED:  # Pillow converts these to their plain form alone
        image = image.convert(_PREMULTIPLIED[image.mode])
    alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
    grey = image.mode in _GREY
    if image.mode.startswith("I") or image.mode == "F":
        image = _eight_bits(image)
    pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).float() / 127.5 - 1
    if alpha is not None:
        visible = torch.from_numpy(np.array(alpha)) / 255
        pixels = _spread(pixels[None], visible[None, None])[0]
    return Apart(pixels, alpha, grey)


def _spread(rgb: Tensor, visible: Tensor) -> Tensor:
    """The colours around, where there is none to be seen: rgb [1, 3, H, W], visible [1, 1, H, W] from 0 to 1.

    What stands there is anything, mostly black, and enlarged it would be a fringe along the edge. Pull and push
    (Gortler et al. 1996): from a picture of half the size, in which fewer pixels are unknown.
    """
    known = visible > 0
    if known.all() or not known.any():
        return rgb
    weight = F.avg_pool2d(visible, 2, ceil_mode=True)
    half = F.avg_pool2d(rgb * visible, 2, ceil_mode=True) / weight.clamp_min(1e-6)
    around = F.interpolate(_spread(half, (weight > 0).float()), size=rgb.shape[-2:], mode="bilinear")
    return torch.where(known, rgb, around)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Greys of 16 bits, of 32 (65535, or 255 where all fit) and of floats (1.0, or 255) as 8 bits."""
    # Pillow clips at 255 when it converts them.
    values = np.asarray(image).astype(np.float64)
    largest = values[np.isfinite(values)].max(initial=0)
    if image.mode == "F":
        high = 1.0 if largest <= 1 else 255.0
    else:
        high = 65535.0 if image.mode != "I" or largest > 255 else 255.0
    values = np.nan_to_num(values, nan=0.0, posinf=high, neginf=0.0)
    return Image.fromarray((values.clip(0, high) * (255.0 / high)).round().astype(np.uint8))


def to_pil(rgb: Tensor) -> Image.Image:
    """float [3, H, W] in [-1, 1] (clamped) -> RGB."""
    return Image.fromarray(to_uint8(rgb[None])[0].permute(1, 2, 0).contiguous().numpy())


def read_images(images: Any) -> list[Apart]:
    """Pictures as people have them.

    images: a path, a Pillow image, or a list of either; a numpy array [H, W, 3] or [N, H, W, 3] (H, W alone: grey),
    or a torch tensor [3, H, W] or [N, 3, H, W], floating in [0, 1] as diffusers gives them, or uint8.
    Raises GigaganError for anything else.
    """
    if isinstance(images, (str, Path)):
        return [take_apart(open_picture(images))]
    if isinstance(images, Image.Image):
        return [take_apart(images)]
    if isinstance(images, Tensor):
        return _from_array(images.detach().cpu(), images, channels_last=False)
    if isinstance(images, np.ndarray):
        return _from_array(torch.from_numpy(np.ascontiguousarray(images)), images, channels_last=True)
    if isinstance(images, Sequence):
        return [each for image in images for each in read_images(image)]
    raise GigaganError(
        f"{type(images).__name__} is no picture; give paths, Pillow images, a numpy array or a torch tensor"
    )


def _from_array(values: Tensor, given: Any, channels_last: bool) -> list[Apart]:
    shape = tuple(given.shape)
    if channels_last and values.dim() == 2:
        values = values[..., None]
    batch = values[None] if values.dim() == 3 else values
    if batch.dim() == 4 and channels_last:
        batch = batch.permute(0, 3, 1, 2)
    if batch.dim() != 4 or batch.shape[1] not in (1, 3):
        layout = "[N, H, W, 3]" if channels_last else "[N, 3, H, W]"
        raise GigaganError(f"an array of shape {list(shape)} holds no pictures; give {layout}")
    if batch.dtype == torch.uint8:
        batch = batch.float() / 255
    elif not batch.is_floating_point():
        raise GigaganError(
            f"pictures of {batch.dtype} are not known; give uint8, or floating point in [0, 1]"
        )
    batch = batch.float()
    if not batch.numel():
        raise GigaganError(f"an array of shape {list(shape)} holds no pixel; give pictures of at least 1 x 1")
    if not (torch.isfinite(batch).all() and batch.min() >= -1e-3 and batch.max() <= 1 + 1e-3):
        raise GigaganError(
            f"floating point pictures must lie in [0, 1], and these reach from {float(batch.min()):.3g} to "
            f"{float(batch.max()):.3g}; rescale them, or give uint8"
        )
    grey = batch.shape[1] == 1
    return [Apart(image.expand(3, -1, -1) * 2 - 1, grey=grey) for image in batch.clamp(0, 1)]


def as_output(pictures: list[tuple[Apart, Tensor]], output: str) -> Any:
    """(picture, its new pixels float [3, H, W] in [-1, 1]) -> "pil": images; "np": float32 HWC in [0, 1]; "pt": CHW.

    Arrays hold the colours alone; one array for all where the sizes are equal, else a list.
    """
    if output == "pil":
        return [apart.together(rgb) for apart, rgb in pictures]
    if output not in ("np", "pt"):
        raise GigaganError(f'output {output!r} is not known; give "pil", "np" or "pt"')
    arrays = [((rgb.float().clamp(-1, 1) + 1) / 2).cpu() for _, rgb in pictures]
    same = len({tuple(array.shape) for array in arrays}) == 1
    if output == "pt":
        return torch.stack(arrays) if same else arrays
    last = [array.permute(1, 2, 0).numpy() for array in arrays]
    return np.stack(last) if same else last
