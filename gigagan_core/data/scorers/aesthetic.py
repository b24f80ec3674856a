"""LAION's two aesthetic predictors: other scales, other columns, never mixed up."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from gigagan_core.config.curate import HEAD_WIDTH, ScoreSettings
from gigagan_core.data.scorers.heads import encoder_version, load_head, unit
from gigagan_core.data.scoring import Scorer
from gigagan_core.store.fingerprint import digest, sha256_file


class AestheticScorer:
    """How much people would like the picture, about 1 to 10.

    predictor: aesthetic_v1 or aesthetic_v2. head: [N, 768] of unit length -> [N, 1]. encoder: sha256 of the CLIP.
    sha256: of the head's weight file; its first digits stand in the column's name.
    """

    image_size = None

    def __init__(self, predictor: str, encoder: str, head: nn.Module, sha256: str) -> None:
        self.name = f"{predictor}_{sha256[:8]}"
        self.version = digest({"encoder": encoder, "head": sha256})
        self._head = head

    def score(self, inputs: Tensor, captions: list[str]) -> dict[str, Tensor]:
        with torch.no_grad():
            return {self.name: self._head(unit(inputs)).squeeze(1)}


def linear_v1() -> nn.Module:
    """`sa_0_4_vit_l_14_linear.pth`: keys weight, bias."""
    return nn.Linear(HEAD_WIDTH, 1)


def mlp_v2() -> nn.Module:
    """`sac+logos+ava1-l14-linearMSE.pth`: linear layers without activations; the gaps in its names were dropouts."""
    layers = {"0": (HEAD_WIDTH, 1024), "2": (1024, 128), "4": (128, 64), "6": (64, 16), "7": (16, 1)}
    return nn.Sequential(OrderedDict((name, nn.Linear(*sizes)) for name, sizes in layers.items()))


def load(settings: ScoreSettings, places: Mapping[str, str]) -> Scorer:
    """places: "embeddings" (of ViT-L/14), "weights" (the head's file)."""
    path = Path(places["weights"])
    if settings.scorer == "aesthetic_v1":
        head = load_head(linear_v1(), path, "aesthetic predictor V1")
    else:
        head = load_head(mlp_v2(), path, "aesthetic predictor V2", prefix="layers.")
    return AestheticScorer(settings.scorer, encoder_version(places), head, sha256_file(path))
