"""Images and captions to an encoder's features, each set once, in batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

    from gigagan_core.encoders.protocol import Encoder


def to_unit_range(images: Tensor) -> Tensor:
    """uint8 [N, 3, H, W] to float32 in [-1, 1]."""
    return images.to(torch.float32) / 127.5 - 1


@torch.no_grad()
def image_features(
    encoder: Encoder,
    images: Tensor,
    *,
    batch_size: int = 128,
    normalise: bool = True,
    on_batch: Callable[[int], None] = lambda done: None,
) -> Tensor:
    """Features [N, E] float32 of images uint8 [N, 3, H, W], on the CPU.

    normalise: scale each to unit length. A contrastively trained encoder is only ever compared by
    cosine, so the length of its features carries no meaning, and a distance should not see it.
    on_batch: called with the number of images just done. Raises ValueError unless images are uint8 RGB.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"expected uint8 images [N, 3, H, W], got {images.dtype} {list(images.shape)}")
    pieces = []
    for batch in images.split(batch_size):
        pieces.append(_finish(encoder.image_embed(to_unit_range(batch)), normalise))
        on_batch(len(batch))
    return torch.cat(pieces)


@torch.no_grad()
def caption_features(
    encoder: Encoder, captions: list[str], *, batch_size: int = 256, normalise: bool = True
) -> Tensor:
    """Features [N, E] float32 of captions, on the CPU; equal captions are encoded once."""
    distinct = list(dict.fromkeys(captions))
    row = {caption: position for position, caption in enumerate(distinct)}
    pieces = [
        _finish(encoder.text_embed(encoder.tokenize(distinct[start : start + batch_size])), normalise)
        for start in range(0, len(distinct), batch_size)
    ]
    return torch.cat(pieces)[[row[caption] for caption in captions]]


def _finish(features: Tensor, normalise: bool) -> Tensor:
    features = features.detach().to("cpu", torch.float32)
    return torch.nn.functional.normalize(features, dim=1) if normalise else features
