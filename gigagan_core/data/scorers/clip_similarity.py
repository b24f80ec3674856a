"""Cosine of image and caption, by any encoder of the protocol."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from gigagan_core.config.curate import ScoreSettings
from gigagan_core.data.scoring import in_unit_range
from gigagan_core.encoders.open_clip_encoder import load_encoder
from gigagan_core.encoders.protocol import Encoder


class ClipSimilarityScorer:
    """Cosine of image and caption, in [-1, 1]."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        # Its own column by encoder: a table's clip_similarity comes from another model and is not comparable.
        self.name = f"clip_similarity_{encoder.name}"
        self.version = encoder.sha256
        self.image_size = encoder.image_size

    def score(self, images: Tensor, captions: list[str]) -> dict[str, Tensor]:
        with torch.no_grad():
            texts = self._encoder.text_embed(self._encoder.tokenize(captions))
            pictures = self._encoder.image_embed(2 * in_unit_range(images).to(texts.device) - 1)
            return {self.name: F.cosine_similarity(pictures, texts, dim=1).cpu()}


def load(settings: ScoreSettings, places: Mapping[str, str]) -> ClipSimilarityScorer:
    """places["encoder"]: an encoder's folder or ARCH:PATH."""
    return ClipSimilarityScorer(load_encoder(places["encoder"]))
