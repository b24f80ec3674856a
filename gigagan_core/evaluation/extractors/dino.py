"""DINOv2 (Oquab et al. 2023) from a weight file, in timm's network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gigagan_core.errors import GigaganError
from gigagan_core.evaluation.extractors.base import Extractor, checked_sha256, published_sums, resized_float
from gigagan_core.evaluation.names import by_weights

NETWORKS = {
    "dinov2-vits14": "vit_small_patch14_dinov2",
    "dinov2-vitb14": "vit_base_patch14_dinov2",
    "dinov2-vitl14": "vit_large_patch14_dinov2",
    "dinov2-vitg14": "vit_giant_patch14_dinov2",
}
SIZE = 224
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class DinoV2(Extractor):
    """The class token after the last norm; images of 224 px as Stein et al. 2023 take them (their rule: R).

    name: a key of NETWORKS. path: Meta's `dinov2_vitX14_pretrain.pth` or timm's .safetensors. Position embeddings are
    resampled to 16 x 16 patches by timm, which differs a little from Meta's own code. Weights of another sum than
    Meta's file have it in their name.
    Raises GigaganError where the file does not fit or has not the expected sum.
    """

    def __init__(
        self, name: str, path: Path, sha256: str | None = None, device: torch.device | str = "cpu"
    ) -> None:
        import timm
        from timm.models.vision_transformer import checkpoint_filter_fn

        from gigagan_core.encoders.weights import read_weights

        self.sha256 = checked_sha256(path, sha256, name)
        self.name, self.device = by_weights(name, self.sha256, published_sums(name)), device
        self.rule = "each channel as float, PIL bicubic to 224 x 224 px, not rounded; ImageNet mean and std"
        network = timm.create_model(NETWORKS[name], pretrained=False, num_classes=0, img_size=SIZE)
        try:
            network.load_state_dict(checkpoint_filter_fn(read_weights(path), network))
        except (RuntimeError, KeyError) as error:
            raise GigaganError(
                f"{name}: {path} does not fit ({' '.join(str(error).split())[:120]}); give the weights of this size"
            ) from error
        self._network = network.requires_grad_(False).eval().to(device)
        self.width = network.num_features
        self._mean = torch.tensor(_MEAN, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(_STD, device=device).view(1, 3, 1, 1)

    def prepare(self, picture: np.ndarray) -> np.ndarray:
        """uint8 [H, W, 3] to float32 [3, 224, 224] in 0 to 255."""
        return resized_float(picture, SIZE)

    def embed(self, batch: Tensor) -> Tensor:
        """float32 [N, 3, 224, 224] in 0 to 255 to [N, D]."""
        return self._network((batch / 255 - self._mean) / self._std)
