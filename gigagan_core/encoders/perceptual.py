"""LPIPS (Zhang et al. 2018) from files: the `lpips` package's network, with a backbone that is never downloaded."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import nn

from gigagan_core.assets.folder import resolve_named
from gigagan_core.errors import GigaganError
from gigagan_core.store.fingerprint import sha256_file

BACKBONES = ("vgg", "alex")
SMALLEST = {"vgg": 16, "alex": 31}
"""Side of the smallest images, pixels: below it a pooling layer has nothing left."""


def load_lpips(place: str, device: torch.device | str = "cpu") -> nn.Module:
    """A frozen LPIPS: called with images [N, 3, H, W] in [-1, 1] twice -> [N, 1, 1, 1]; differentiable.

    place: ``asset:lpips-vgg``, or BACKBONE:PATH, where BACKBONE is vgg (the paper's training loss; R) or alex and PATH
    is torchvision's ImageNet weight file of it. The linear heads (version 0.1) are part of the package.
    Raises GigaganError for what is missing or does not fit.
    """
    backbone, colon, file = resolve_named(place).partition(":")
    if not colon or backbone not in BACKBONES:
        raise GigaganError(
            f"LPIPS weights {place!r}: write BACKBONE:PATH, BACKBONE being {' or '.join(BACKBONES)}"
        )
    path = Path(file).expanduser()
    if not path.is_file():
        raise GigaganError(
            f"LPIPS weights {path}: no such file; give torchvision's ImageNet weights of {backbone}"
        )
    from lpips import LPIPS

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision's, about the package's old names of arguments
        # pnet_rand: the package would fetch the backbone from the network otherwise
        network = LPIPS(net=backbone, pnet_rand=True, verbose=False)
    _load_backbone(network.net, path)
    return network.requires_grad_(False).eval().to(device)


def lpips_sha256(place: str) -> str | None:
    """The sha256 of the backbone's file, None where there is none. place: as `load_lpips` takes it."""
    path = Path(resolve_named(place).partition(":")[2]).expanduser()
    return sha256_file(path) if path.is_file() else None


def _load_backbone(backbone: nn.Module, path: Path) -> None:
    """Torchvision's `features.N.*` into the package's slices, whose layers keep their number N."""
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
        for name, parameter in backbone.named_parameters():
            _, number, kind = name.rsplit(".", 2)
            parameter.data.copy_(stored[f"features.{number}.{kind}"])
    except Exception as error:
        raise GigaganError(
            f"LPIPS weights {path} do not fit ({type(error).__name__}: {error}); give torchvision's ImageNet weights "
            "of the named backbone"
        ) from error
