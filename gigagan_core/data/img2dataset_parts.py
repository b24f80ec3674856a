"""img2dataset's resizer and sample writer, without the rest of its imports.

Importing the package runs its `__init__`, which brings torch (through webdataset), wandb and pandas: 16 s
and 690 MB in every worker on two busy cores, against 4 s and 130 MB for the two modules that are used.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
import threading
import types
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from gigagan_core import environment

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
    """img2dataset's `Resizer`: centre crop, shrink by area, never enlarge, on white.

    own_process: whether this process only downloads. The resizer silences file descriptors 1 and 2 while
    it decodes; where other threads print, decoding may be heard instead.
    """
    module = load().resizer
    if not own_process:
        module.SuppressStdoutStderr = nullcontext
    return module.Resizer(
        image_size=image_size,
        resize_mode="center_crop",
        resize_only_if_bigger=True,
        encode_quality=quality,
        encode_format=encode_format,
    )


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
