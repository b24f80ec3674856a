"""LAION's CLIP-based NSFW detector (punsafe)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from gigagan_core.config.curate import HEAD_WIDTH, ScoreSettings
from gigagan_core.data.scorers.heads import encoder_version, load_head, unit
from gigagan_core.data.scoring import Scorer
from gigagan_core.store.fingerprint import digest, sha256_file


class NsfwScorer:
    """Probability that a picture is not safe for work, in [0, 1].

    encoder, sha256: sums of the CLIP's weight file and of the head's.
    """

    image_size = None

    def __init__(self, encoder: str, head: nn.Module, sha256: str) -> None:
        self.name = f"nsfw_clip_l14_{sha256[:8]}"
        self.version = digest({"encoder": encoder, "head": sha256})
        self._head = head

    def score(self, inputs: Tensor, captions: list[str]) -> dict[str, Tensor]:
        with torch.no_grad():
            return {self.name: self._head(unit(inputs)).squeeze(1)}


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
        self.norm = Standardised(HEAD_WIDTH)
        self.linear_1 = nn.Linear(HEAD_WIDTH, 64)
        self.linear_2 = nn.Linear(64, 512)
        self.linear_3 = nn.Linear(512, 256)
        self.linear_4 = nn.Linear(256, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        for layer in (self.linear_1, self.linear_2, self.linear_3):
            x = layer(x).relu()
        return self.linear_4(x).sigmoid()


def load(settings: ScoreSettings, places: Mapping[str, str]) -> Scorer:
    """places: "embeddings" (of ViT-L/14), "weights" (the head's file)."""
    path = Path(places["weights"])
    head = load_head(NsfwHead(), path, "the NSFW detector")
    return NsfwScorer(encoder_version(places), head, sha256_file(path))
