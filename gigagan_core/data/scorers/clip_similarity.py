"""Cosine of image and caption, by any encoder of the protocol."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from gigagan_core.config.curate import ScoreSettings
from gigagan_core.data.scoring import Scorer
from gigagan_core.encoders.open_clip_encoder import load_encoder
from gigagan_core.encoders.protocol import Encoder


class ClipSimilarityScorer:
    """Cosine of the picture's embedding and the caption's, in [-1, 1]; the picture's is read, not computed."""

    image_size = None

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        # Its own column by encoder: a table's clip_similarity comes from another model and is not comparable.
        self.name = f"clip_similarity_{encoder.name}"
        self.version = encoder.sha256

    def score(self, inputs: Tensor, captions: list[str]) -> dict[str, Tensor]:
        with torch.no_grad():
            texts = self._encoder.text_embed(self._encoder.tokenize(captions))
            return {self.name: F.cosine_similarity(inputs.to(texts.device), texts, dim=1).cpu()}


def load(settings: ScoreSettings, places: Mapping[str, str]) -> Scorer:
    """places["encoder"]: an encoder's folder or ARCH:PATH, the one that the embeddings are of."""
    return ClipSimilarityScorer(load_encoder(places["encoder"], settings.device))
