"""CLIP's byte-pair tokenizer, as open_clip bundles it: no network, no Hugging Face."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from types import ModuleType

from torch import Tensor

from gigagan_core.errors import GigaganError

NAME = "open_clip/SimpleTokenizer"
"""How an encoder's folder names this tokenizer."""


def tokenize(captions: list[str], context_length: int) -> Tensor:
    """N captions -> int64 [N, context_length]: start, tokens, end, zeros.

    A longer caption is cut and its last token is the end. Captions are lower-cased, entities unescaped.
    """
    if any(not isinstance(caption, str) for caption in captions):
        raise TypeError("a caption must be a string; leave rows without one out")
    return _module().tokenize(captions, context_length=context_length)


@functools.cache
def _module() -> ModuleType:
    """open_clip's tokenizer.py by itself: its package imports timm and torchvision, which takes 8 s."""
    path = open_clip_folder() / "tokenizer.py"
    spec = importlib.util.spec_from_file_location("gigagan_open_clip_tokenizer", path)
    if spec is None or spec.loader is None:
        raise GigaganError(f"{path} cannot be loaded; install open-clip-torch again (`make install`)")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def open_clip_folder() -> Path:
    """Where open_clip is installed, found without importing it."""
    spec = importlib.util.find_spec("open_clip")
    if spec is None or not spec.submodule_search_locations:
        raise GigaganError("open_clip is not installed; run `make install`, or pip install open-clip-torch")
    return Path(spec.submodule_search_locations[0])
