"""Frozen networks of a training that is planned: their architecture alone, since weights change no count."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

from torch import nn

from gigagan_core.config.encoder import EncoderSettings
from gigagan_core.encoders.clip_model import ClipArchitecture, ClipModel
from gigagan_core.encoders.open_clip_encoder import ClipEncoder, Preprocessing
from gigagan_core.encoders.training import architecture_of
from gigagan_core.encoders.weights import architecture_config
from gigagan_core.errors import GigaganError


@dataclass(frozen=True)
class FrozenNetworks:
    """What training is given besides settings. vision_encoder: None where it is the encoder itself."""

    encoder: ClipArchitecture
    encoder_name: str
    vision_encoder: ClipArchitecture | None = None
    vision_encoder_name: str | None = None


def architecture(name: str) -> ClipArchitecture:
    """An open_clip architecture by name. Raises GigaganError for an unknown one, or one that is no plain CLIP."""
    found = ClipArchitecture.from_config(architecture_config(name))
    if found is None:
        raise GigaganError(
            f"{name} is not a plain CLIP, and a plan counts those alone; name one such as ViT-L-14"
        )
    return found


def trained_here(settings: EncoderSettings) -> ClipArchitecture:
    """The architecture of an encoder that `train-encoder` makes."""
    return architecture_of(settings)


def build(of: ClipArchitecture, name: str) -> ClipEncoder:
    """The encoder without its weights' values."""
    return ClipEncoder(ClipModel(of), Preprocessing(), name=name, sha256="0" * 64)


def build_lpips() -> nn.Module:
    """LPIPS on VGG-16 (the paper's training loss; R) without its weights' values."""
    from lpips import LPIPS

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision's, about the package's old names of arguments
        # pretrained, pnet_rand: nothing is read and nothing fetched
        network = LPIPS(net="vgg", pretrained=False, pnet_rand=True, verbose=False)
    return network.requires_grad_(False).eval()
