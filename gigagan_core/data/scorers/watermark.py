"""LAION's watermark detector (pwatermark): an EfficientNet-B3 of its own, no CLIP."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from gigagan_core.config.curate import ScoreSettings
from gigagan_core.data.scorers.heads import fitted
from gigagan_core.data.scoring import in_unit_range
from gigagan_core.encoders.weights import read_weights
from gigagan_core.errors import GigaganError
from gigagan_core.store.fingerprint import sha256_file

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class WatermarkScorer:
    """Probability of a watermark, in [0, 1]. Not comparable with COYO's watermark_score, another model's."""

    image_size = 256

    def __init__(self, model: nn.Module, sha256: str, device: str = "cpu") -> None:
        self.name = f"watermark_efficientnet_b3_{sha256[:8]}"
        self.version = sha256
        self._model, self._device = model.to(device), device

    def score(self, inputs: Tensor, captions: list[str]) -> dict[str, Tensor]:
        images = in_unit_range(inputs.to(self._device))
        mean, std = (images.new_tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
        with torch.no_grad():
            logits = self._model((images - mean) / std)
        return {self.name: logits.softmax(dim=1)[:, 0].cpu()}


def network() -> nn.Module:
    """timm's EfficientNet-B3 (once called efficientnet_b3a) with a head of 1536, 625, 256, 2 (0: watermark)."""
    import timm

    model = timm.create_model("efficientnet_b3", pretrained=False, num_classes=2)
    model.classifier = nn.Sequential(
        nn.Linear(1536, 625), nn.ReLU(), nn.Dropout(0.3), nn.Linear(625, 256), nn.ReLU(), nn.Linear(256, 2)
    )
    return model


def load(settings: ScoreSettings, places: Mapping[str, str]) -> WatermarkScorer:
    """places["weights"]: the detector's file."""
    path = Path(places["weights"])
    model = fitted(network(), _read(path), path, "the watermark detector")
    return WatermarkScorer(model, sha256_file(path), settings.device)


def _read(path: Path) -> dict[str, Tensor]:
    """Name -> tensor; the published file keeps them one level deeper than others do, under `weights`."""
    try:
        return read_weights(path)
    except GigaganError:
        nested = _under_weights(path)
        if nested is None:
            raise
        return nested


def _under_weights(path: Path) -> dict[str, Tensor] | None:
    try:
        return dict(torch.load(path, map_location="cpu", weights_only=True)["weights"])
    except Exception:  # whatever else is wrong with the file, `read_weights` has a sentence for it
        return None
