"""What LAION's heads on ViT-L/14 have in common: the embedding they read, and how they get their weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gigagan_core.config.curate import HEAD_WIDTH
from gigagan_core.data.scores import version_of
from gigagan_core.encoders.weights import read_weights
from gigagan_core.errors import GigaganError


def encoder_version(places: Mapping[str, str]) -> str:
    """sha256 of the CLIP whose embeddings lie in places["embeddings"]."""
    return version_of(next(iter(sorted(Path(places["embeddings"]).glob("*.parquet")))))


def unit(embeddings: Tensor) -> Tensor:
    """float32 [N, 768] of any length -> of length 1. Raises GigaganError for another width."""
    if embeddings.shape[1] != HEAD_WIDTH:
        raise GigaganError(
            f"clip_vit_l14 has an embedding of {embeddings.shape[1]}, the heads read {HEAD_WIDTH}; give OpenAI's "
            "ViT-L/14 as ViT-L-14-quickgelu:PATH"
        )
    return F.normalize(embeddings, dim=1)


def load_head(head: nn.Module, path: Path, what: str, prefix: str = "") -> nn.Module:
    """The head with a file's weights, frozen. prefix: what every name in the file begins with.

    Raises GigaganError where names or shapes are not this head's: V1's file in V2's place, say.
    """
    weights = {name.removeprefix(prefix): value for name, value in read_weights(path).items()}
    return fitted(head, weights, path, what)


def fitted(model: nn.Module, weights: dict[str, Tensor], path: Path, what: str) -> nn.Module:
    """The model with these weights as float32, frozen and in evaluation mode; see `load_head`."""
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    given = {name: tuple(value.shape) for name, value in weights.items()}
    if wrong := sorted(name for name in wanted | given if wanted.get(name) != given.get(name)):
        name = wrong[0]
        raise GigaganError(
            f"weight file {path} is not {what}'s: {name} has shape {given.get(name)} there and {wanted.get(name)} here "
            f"(None: no such name; {len(wrong)} differ); give {what}'s own file"
        )
    whole = {
        name: value.to(torch.float32) if value.is_floating_point() else value
        for name, value in weights.items()
    }
    model.load_state_dict(whole)
    return model.eval().requires_grad_(False)
