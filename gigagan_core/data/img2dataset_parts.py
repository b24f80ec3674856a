"""img2dataset's resizer and sample writer, without the rest of its imports.

Importing the package runs its `__init__`, which brings torch (through webdataset), wandb and pandas: 16 s
and 690 MB in every worker on two busy cores, against 4 s and 130 MB for the two modules that are used.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import io
import sys
import threading
import types
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gigagan_core import environment

if TYPE_CHECKING:
    import numpy as np

_LOCK = threading.Lock()
_PACKAGES = ("webdataset", "img2dataset")


@dataclass(frozen=True)
class Img2datasetParts:
    """The modules `img2dataset.resizer` and `img2dataset.writer`."""

    resizer: types.ModuleType
    writer: types.ModuleType


@functools.cache
def load() -> Img2datasetParts:
    """The two modules of img2dataset 1.47, for this process alone."""
    # albumentations, which the resizer imports, asks the network for updates otherwise.
    environment.set_defaults()
    with _LOCK, _placeholder_packages(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # imghdr
        tar_writer = importlib.import_module("webdataset.writer").TarWriter
        # All that img2dataset.writer takes from the package.
        sys.modules["webdataset"].TarWriter = tar_writer
        writer = importlib.import_module("img2dataset.writer")
        resizer = importlib.import_module("img2dataset.resizer")
    return Img2datasetParts(resizer, writer)


def make_resizer(image_size: int, encode_format: str, quality: int, own_process: bool) -> Any:
    """img2dataset's `Resizer`: centre crop, shrink by area, never enlarge, on white; upright, in eight bits.

    own_process: whether this process only downloads. The resizer silences file descriptors 1 and 2 while
    it decodes; where other threads print, decoding may be heard instead.
    """
    module = load().resizer
    if not own_process:
        module.SuppressStdoutStderr = nullcontext
    if not isinstance(module.cv2, _Decoder):
        module.cv2 = _Decoder(module.cv2)
    return module.Resizer(
        image_size=image_size,
        resize_mode="center_crop",
        resize_only_if_bigger=True,
        encode_quality=quality,
        encode_format=encode_format,
    )


class _Decoder:
    """OpenCV for the resizer, which takes pictures as they lie in the file: sideways where a camera was held so, and
    with 16 bits a channel, which become white when they are kept in eight."""

    def __init__(self, cv2: types.ModuleType):
        self._cv2 = cv2

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cv2, name)

    def imdecode(self, encoded: np.ndarray, flags: int) -> np.ndarray | None:
        """uint8 [H, W] or [H, W, 3 or 4] as it is to be seen, or None."""
        image = self._cv2.imdecode(encoded, flags)
        if image is None:
            return None
        transposed, *flips = _UPRIGHT[_orientation(encoded)]
        if transposed:
            image = self._cv2.transpose(image)
        for axis in flips:
            image = self._cv2.flip(image, axis)
        return image if image.dtype == "uint8" else _in_eight_bits(image)


# EXIF's orientation -> whether rows and columns change places, and what is mirrored then: OpenCV's 0 is top and bottom,
# 1 left and right.
_UPRIGHT: dict[int, tuple] = {
    1: (False,),
    2: (False, 1),
    3: (False, 0, 1),
    4: (False, 0),
    5: (True,),
    6: (True, 1),
    7: (True, 0, 1),
    8: (True, 0),
}
_ORIENTATION = 0x0112
_EXIF_HEAD = 2**17  # a JPEG's EXIF is in one of its first segments, which have 64 KB at most


def _orientation(encoded: np.ndarray) -> int:
    """EXIF's, 1 where there is none that is known."""
    from PIL import Image

    body = encoded.tobytes()
    head, mark = (_EXIF_HEAD, b"Exif") if body.startswith(b"\xff\xd8") else (len(body), b"eXIf")
    if mark not in body[:head] and not (body.startswith(b"RIFF") and b"EXIF" in body):
        return 1
    try:
        with Image.open(io.BytesIO(body)) as image:
            found = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # Pillow's plug-ins raise whatever they meet in a damaged header
        return 1
    return found if found in _UPRIGHT else 1


def _in_eight_bits(image: np.ndarray) -> np.ndarray:
    """uint16 by its upper byte; other types by what they can hold of 0 to 255."""
    import numpy as np

    if image.dtype == np.uint16:
        return (image >> 8).astype(np.uint8)
    return np.nan_to_num(image).clip(0, 255).astype(np.uint8)


@contextmanager
def _placeholder_packages() -> Iterator[None]:
    """Let submodules be imported without the `__init__` of their packages, and forget them afterwards."""
    before = {name: module for name, module in sys.modules.items() if name.split(".")[0] in _PACKAGES}
    for name in before:
        del sys.modules[name]
    try:
        for name in _PACKAGES:
            spec = importlib.util.find_spec(name)
            placeholder = types.ModuleType(name)
            placeholder.__path__ = list(spec.submodule_search_locations)
            placeholder.__spec__ = spec
            sys.modules[name] = placeholder
        yield
    finally:
        # Who imports webdataset later gets the real one.
        for name in [name for name in sys.modules if name.split(".")[0] in _PACKAGES]:
            del sys.modules[name]
        sys.modules.update(before)
