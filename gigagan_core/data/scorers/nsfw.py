"""LAION's CLIP-based NSFW detector (punsafe)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from gigagan_core.config.curate import ScoreSettings
from gigagan_core.data.scorers.embedding import WIDTH, load_clip, load_head, unit_embedding
from gigagan_core.encoders.protocol import Encoder
from gigagan_core.store.fingerprint import digest, sha256_file


class NsfwScorer:
    """Probability that a picture is not safe for work, in [0, 1]. sha256: of the head's weight file."""

    def __init__(self, encoder: Encoder, head: nn.Module, sha256: str) -> None:
        self.name = f"nsfw_clip_l14_{sha256[:8]}"
        self.version = digest({"encoder": encoder.sha256, "head": sha256})
        self.image_size = encoder.image_size
        self._encoder, self._head = encoder, head

    def score(self, images: Tensor, captions: list[str]) -> dict[str, Tensor]:
        with torch.no_grad():
            return {self.name: self._head(unit_embedding(self._encoder, images)).squeeze(1)}


class Standardised(nn.Module):
    """Mean and variance of the training embeddings, as Keras' normalisation layer kept them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("variance", torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.variance.sqrt()


class NsfwHead(nn.Module):
    """[N, 768] of unit length -> [N, 1] in [0, 1]; keys norm.mean, norm.variance, linear_1 to linear_4."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = Standardised(WIDTH)
        self.linear_1 = nn.Linear(WIDTH, 64)
        self.linear_2 = nn.Linear(64, 512)
        self.linear_3 = nn.Linear(512, 256)
        self.linear_4 = nn.Linear(256, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        for layer in (self.linear_1, self.linear_2, self.linear_3):
            x = layer(x).relu()
        return self.linear_4(x).sigmoid()


def load(settings: ScoreSettings, places: Mapping[str, str]) -> NsfwScorer:
    """places: "encoder" (ARCH:PATH of ViT-L/14), "weights" (the head's file)."""
    path = Path(places["weights"])
    head = load_head(NsfwHead(), path, "the NSFW detector")
    return NsfwScorer(load_clip(places["encoder"]), head, sha256_file(path))
