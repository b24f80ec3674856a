"""The embedding that LAION's heads were trained on, and how a head gets its weights."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gigagan_core.data.scoring import in_unit_range
from gigagan_core.encoders.open_clip_encoder import load_encoder
from gigagan_core.encoders.protocol import Encoder
from gigagan_core.encoders.weights import read_weights
from gigagan_core.errors import GigaganError

WIDTH = 768
"""Of ViT-L/14's image embedding."""


def load_clip(place: str) -> Encoder:
    """OpenAI's ViT-L/14 from ARCH:PATH. Raises GigaganError where its embedding has another width."""
    encoder = load_encoder(place)
    if encoder.embed_dim != WIDTH:
        raise GigaganError(
            f"clip_vit_l14 {place} has an embedding of {encoder.embed_dim}, the heads read {WIDTH}; give OpenAI's "
            "ViT-L/14 as ViT-L-14-quickgelu:PATH"
        )
    return encoder


def unit_embedding(encoder: Encoder, images: Tensor) -> Tensor:
    """uint8 [N, 3, S, S] -> float32 [N, 768] of unit length."""
    return F.normalize(encoder.image_embed(2 * in_unit_range(images) - 1).float(), dim=1)


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
