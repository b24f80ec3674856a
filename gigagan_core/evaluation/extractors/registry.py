"""An extractor by its place: one string that a command line, a setting or a Ray task can carry."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from gigagan_core.assets.folder import resolve_named
from gigagan_core.errors import GigaganError, nearest
from gigagan_core.evaluation.extractors.base import Extractor, weight_file
from gigagan_core.evaluation.names import INCEPTION, LEGACY

DINO = ("dinov2-vits14", "dinov2-vitb14", "dinov2-vitl14", "dinov2-vitg14")


@dataclass(frozen=True)
class ExtractorPlace:
    """What `load_extractor` needs, picklable.

    place: ``inception:FILE``, ``inception-legacy_pytorch:FILE``, ``dinov2-vitl14:FILE`` (and vits, vitb, vitg),
    ``ARCH:FILE`` of open_clip, ``asset:NAME`` of such a file, or an encoder's folder. sha256: what the file must have,
    or None. prefix, truncate: of open_clip models, see `OpenClip`; a folder's captions are never prefixed.
    """

    place: str
    sha256: str | None = None
    prefix: bool = True
    truncate: bool = False


def with_weights(name: str, weights: str | None) -> str:
    """`name` joined with its weight file, where the two are given apart."""
    return f"{name}:{weights}" if weights else name


def load_extractor(place: ExtractorPlace | str, device: torch.device | str = "cpu") -> Extractor:
    """The extractor at a place.

    Raises GigaganError for an unknown name, for a missing, damaged or wrong file, and for a folder with `truncate`.
    """
    place = ExtractorPlace(place) if isinstance(place, str) else place
    if not Path(place.place).expanduser().is_dir():
        place = replace(place, place=resolve_named(place.place))
    name, _, file = place.place.partition(":")
    if name in (INCEPTION, f"{INCEPTION}-{LEGACY}"):
        from gigagan_core.evaluation.extractors.inception import InceptionClean, InceptionLegacy

        kind = InceptionClean if name == INCEPTION else InceptionLegacy
        return kind(weight_file(file, name), place.sha256, device)
    if name in DINO:
        from gigagan_core.evaluation.extractors.dino import DinoV2

        return DinoV2(name, weight_file(file, name), place.sha256, device)
    from gigagan_core.evaluation.extractors.clip import EmbeddedEncoder, OpenClip

    if Path(place.place).expanduser().is_dir():
        if place.truncate:
            raise GigaganError(
                f"{place.place} is an encoder's folder, fed as `gigagan evaluate` does, and the authors' truncation is "
                "of CLIP's weight files; name ARCH:FILE, or leave --clip-protocol authors out"
            )
        return EmbeddedEncoder(place.place, place.sha256, device)
    _require_known(name)
    path = weight_file(file, name)
    return OpenClip(
        f"{name}:{os.fspath(path)}",
        place.sha256,
        prefix=place.prefix,
        truncate=place.truncate,
        device=device,
    )


def _require_known(name: str) -> None:
    from gigagan_core.encoders.weights import architectures

    own = (INCEPTION, f"{INCEPTION}-{LEGACY}", *DINO)
    known = architectures()
    if name not in known:
        near = nearest(name, [*own, *known]).partition(" (valid:")[0]
        hint = f"; {near}" if near.startswith("did you mean") else ""
        raise GigaganError(
            f"no extractor {name!r}{hint}; there are {', '.join(own)}, open_clip's architectures, and encoders' folders"
        )
