"""A CLIP's image embedding: computed once, and read by every head and similarity on it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from gigagan_core.config.curate import ScoreSettings
from gigagan_core.data.scoring import in_unit_range
from gigagan_core.encoders.open_clip_encoder import load_encoder
from gigagan_core.encoders.protocol import Encoder
from gigagan_core.errors import GigaganError


class ImageEmbedding:
    """The embedding as the encoder gives it, not normalised: float32 [N, E]."""

    name = "embedding"

    def __init__(self, encoder: Encoder, device: str = "cpu") -> None:
        self.version = encoder.sha256
        self.image_size = encoder.image_size
        self._encoder, self._device = encoder, device

    def score(self, inputs: Tensor, captions: list[str]) -> dict[str, Tensor]:
        with torch.no_grad():
            images = 2 * in_unit_range(inputs.to(self._device)) - 1
            return {self.name: self._encoder.image_embed(images).float().cpu()}


def load(settings: ScoreSettings, places: Mapping[str, str]) -> ImageEmbedding:
    """places["encoder"]: an encoder's folder or ARCH:PATH. Raises GigaganError for a width that is not the wanted."""
    encoder = load_encoder(places["encoder"], settings.device)
    if settings.width not in (None, encoder.embed_dim):
        raise GigaganError(
            f"clip_vit_l14 {places['encoder']} has an embedding of {encoder.embed_dim}, the heads read "
            f"{settings.width}; give OpenAI's ViT-L/14 as ViT-L-14-quickgelu:PATH"
        )
    return ImageEmbedding(encoder, settings.device)
