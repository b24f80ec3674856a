"""Inception as clean-fid runs it, from its weight files: the only network whose distance may be called FID."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gigagan_core.encoders.weights import quiet_torchscript
from gigagan_core.errors import GigaganError
from gigagan_core.evaluation.extractors.base import Extractor, checked_sha256, resized_float
from gigagan_core.evaluation.names import INCEPTION, LEGACY, PUBLISHED_INCEPTION, by_weights, extractor_name

SIZE = 299
WIDTH = 2048


class InceptionClean(Extractor):
    """clean-fid's mode "clean": the TorchScript file `inception-2015-12-05.pt` on images resized without quantising.

    path: that file, or one like it: its module has `layers` (images [N, 3, 299, 299] to 2048 features) and, for the
    Inception Score, `output` (a linear layer). A file of another sha256 is named after its sum and never called FID.
    Raises GigaganError for a file that is no such module, or has not the expected sum.
    """

    width = WIDTH
    rule = "each channel as float, PIL bicubic to 299 px, clipped to 0..255, not rounded; (x - 128) / 128"

    def __init__(self, path: Path, sha256: str | None = None, device: torch.device | str = "cpu") -> None:
        self.sha256 = checked_sha256(path, sha256, "inception")
        self.name = by_weights(INCEPTION, self.sha256, PUBLISHED_INCEPTION)
        self.published = self.sha256 in PUBLISHED_INCEPTION
        self.device = device
        try:
            with quiet_torchscript():
                network = torch.jit.load(str(path), map_location=device).eval()
            self._output = getattr(network, "output", None)
            self.has_logits = self._output is not None
            self._layers = _frozen(network.layers)
        except (RuntimeError, AttributeError, ValueError) as error:
            raise GigaganError(
                f"inception: {path} is no TorchScript Inception as clean-fid uses it "
                f"({' '.join(str(error).split())[:120]}); fetch inception-2015-12-05.pt again"
            ) from error

    def prepare(self, picture: np.ndarray) -> np.ndarray:
        """uint8 [H, W, 3] to float32 [3, 299, 299] in 0 to 255."""
        return resized_float(picture, SIZE)

    def embed(self, batch: Tensor) -> Tensor:
        """float32 [N, 3, 299, 299] in 0 to 255 to [N, 2048]."""
        # on a CPU this order of memory, with the weights frozen, takes two thirds of the time
        images = ((batch - 128) / 128).contiguous(memory_format=torch.channels_last)
        return self._layers(images).reshape(len(batch), WIDTH)

    def logits(self, features: Tensor) -> Tensor:
        """[N, 2048] to logits [N, classes], without the bias, as in the original Inception Score."""
        if self._output is None:
            raise GigaganError(f"{self.name}: its file has no classifier, so it gives no Inception Score")
        return F.linear(features, self._output.weight.detach().to(features.dtype).to(features.device))


class InceptionLegacy(Extractor):
    """clean-fid's mode "legacy_pytorch": pytorch-fid's weights on images resized by torch's bilinear interpolation.

    path: `pt_inception-2015-12-05-6726825d.pth`. Aliasing makes its numbers differ from those of mode "clean".
    Raises GigaganError as `InceptionClean` does.
    """

    width = WIDTH
    rule = "torch bilinear to 299 px without antialiasing, clipped to 0..255, not rounded; x / 127.5 - 1"
    has_logits = True

    def __init__(self, path: Path, sha256: str | None = None, device: torch.device | str = "cpu") -> None:
        self.sha256 = checked_sha256(path, sha256, "inception")
        self.name = by_weights(extractor_name(f"{INCEPTION}-{LEGACY}"), self.sha256, PUBLISHED_INCEPTION)
        self.published = self.sha256 in PUBLISHED_INCEPTION
        self.device = device
        try:
            weights = torch.load(path, map_location="cpu", weights_only=True)
            self._network = _pytorch_inception(weights).to(device)
            self._classifier = weights["fc.weight"].to(device)
        except Exception as error:
            raise GigaganError(
                f"inception: {path} does not fit pytorch-fid's network "
                f"({' '.join(str(error).split())[:120]}); give pt_inception-2015-12-05-6726825d.pth"
            ) from error

    def prepare(self, picture: np.ndarray) -> np.ndarray:
        """uint8 [H, W, 3] to float32 [3, 299, 299] in 0 to 255."""
        image = torch.from_numpy(picture.transpose(2, 0, 1).astype(np.float32))[None]
        resized = F.interpolate(image, size=(SIZE, SIZE), mode="bilinear", align_corners=False)
        return resized[0].clamp(0, 255).numpy()

    def embed(self, batch: Tensor) -> Tensor:
        """float32 [N, 3, 299, 299] in 0 to 255 to [N, 2048]."""
        return self._network(batch / 255)[0].reshape(len(batch), WIDTH)

    def logits(self, features: Tensor) -> Tensor:
        """[N, 2048] to logits [N, classes], without the bias, as in the original Inception Score."""
        return F.linear(features, self._classifier.to(features.dtype).to(features.device))


def _frozen(layers: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    """The same network with its weights as constants; as it is where TorchScript cannot do that."""
    try:
        with quiet_torchscript():
            return torch.jit.freeze(layers.eval())
    except RuntimeError:
        return layers


def _pytorch_inception(weights: dict[str, Tensor]) -> nn.Module:
    """clean-fid's copy of pytorch-fid's network with these weights; its own constructor would download them."""
    from cleanfid import inception_pytorch

    original = inception_pytorch.load_state_dict_from_url
    inception_pytorch.load_state_dict_from_url = lambda *args, **options: weights
    try:
        network = inception_pytorch.InceptionV3(output_blocks=[3], resize_input=False)
    finally:
        inception_pytorch.load_state_dict_from_url = original
    return network.requires_grad_(False).eval()
