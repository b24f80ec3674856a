"""What decides features and images that are kept, beside the pictures and captions, and whether a node has the same."""

from __future__ import annotations

import functools
import importlib.metadata
import platform
from typing import TYPE_CHECKING

from gigagan_core.errors import GigaganError
from gigagan_core.store.fingerprint import code_digest, digest

if TYPE_CHECKING:
    from gigagan_core.evaluation.extractors.base import Extractor

PACKAGES = ("pillow", "torch", "torchvision", "timm", "open-clip-torch", "lpips", "clean-fid")
"""They decode and resize, and hold the networks."""


@functools.cache
def makers_digest(*modules: str) -> str:
    """Digest of the modules' source, with all that they import of ours, and of the versions of PACKAGES.

    modules: dotted names. Read once a process. Comments and docstrings decide nothing, see `code_digest`.
    """
    return digest(
        [[code_digest(module)[0] for module in modules], {name: _version(name) for name in PACKAGES}]
    )


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def extractor_key(extractor: Extractor) -> str:
    """Digest of what decides an extractor's features, beside the source."""
    return digest([extractor.name, extractor.sha256, extractor.rule, extractor.configuration])[:24]


def require_same_extractor(place: str, found: Extractor, key: str, sha256: str) -> None:
    """Raise GigaganError where this machine's extractor is not the one that kept features are named by.

    key: its `extractor_key`. sha256: of its weights.
    """
    if extractor_key(found) != key:
        what = "its configuration" if found.sha256 == sha256 else _sums(found.sha256, sha256)
        raise _another(place, what)


@functools.lru_cache(maxsize=2)
def require_same_lpips(place: str, sha256: str) -> None:
    """Raise GigaganError where this machine's file of LPIPS has another sum; read once a process."""
    from gigagan_core.encoders.perceptual import lpips_sha256

    found = lpips_sha256(place)
    if found not in (None, sha256):
        raise _another(place, _sums(str(found), sha256))


def _sums(found: str, expected: str) -> str:
    return f"sha256 {found[:12]}, not {expected[:12]}"


def _another(place: str, what: str) -> GigaganError:
    return GigaganError(
        f"{place} on {platform.node()} is not what this run began with ({what}); give every machine the same file "
        "there and the same command again"
    )
