"""CLIPs as extractors: outside weight files the way their authors feed them, and the embedded encoder."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gigagan_core.encoders.open_clip_encoder import ClipEncoder, Preprocessing, load_encoder
from gigagan_core.encoders.weights import architectures
from gigagan_core.evaluation.captions import prefixed_tokens
from gigagan_core.evaluation.extractors.base import (
    Extractor,
    published_sums,
    require_sha256,
    resized_short_side,
)
from gigagan_core.evaluation.features import to_unit_range
from gigagan_core.evaluation.names import by_weights, extractor_name

PLAIN = "clip-score-plain"
"""The score of captions as they are, where by its name one would expect \"A photo depicts\" before them."""


class OpenClip(Extractor):
    """An open_clip model from a weight file; images as CLIP's own preprocessing, features not normalised.

    place: ARCH:PATH. prefix: put "A photo depicts" before captions, as Hessel et al. 2021 and GigaGAN's authors do.
    truncate: pass images through floats as the authors' released code does, which lowers 63 of the 256 pixel values by
    one; the name then ends in `-truncated`. Weights that are not the catalogue's of that architecture have their sum in
    the name. Raises GigaganError as `load_encoder` does.
    """

    is_clip = True

    def __init__(
        self,
        place: str,
        sha256: str | None = None,
        *,
        prefix: bool = True,
        truncate: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        encoder = load_encoder(place, device=device)
        require_sha256(encoder.sha256, sha256, place)
        self._encoder, self.device = encoder, device
        self._prefix, self._truncate = prefix, truncate
        self.name = by_weights(extractor_name(encoder.name), encoder.sha256, published_sums(encoder.name))
        self.name += "-truncated" if truncate else ""
        self.clip_score_name = "clip-score" if prefix else PLAIN
        self.width, self.sha256 = encoder.embed_dim, encoder.sha256
        self.configuration = encoder.configuration
        self.rule = (
            f"PIL bicubic, short side to {encoder.image_size} px, centre square, on uint8"
            + (", after the authors' truncation" if truncate else "")
            + f"; {_normalisation(encoder.preprocessing)}"
            + ('; captions after "A photo depicts"' if prefix else "")
        )

    def prepare(self, picture: np.ndarray) -> np.ndarray:
        """uint8 [H, W, 3] to uint8 [3, S, S]."""
        if self._truncate:
            picture = TRUNCATED[picture]
        return resized_short_side(picture, self._encoder.image_size)

    def embed(self, batch: Tensor) -> Tensor:
        """uint8 [N, 3, S, S] to float32 [N, E], not normalised."""
        return self._encoder.image_embed(to_unit_range(batch))

    @torch.inference_mode()
    def caption_features(self, captions: list[str]) -> np.ndarray:
        """float32 [N, E], not normalised."""
        tokens = self._encoder.tokenize(captions)
        if self._prefix:
            tokens = prefixed_tokens(tokens, self._encoder.tokenize)
        return self._encoder.caption_embed(tokens).to("cpu", torch.float32).numpy()


class EmbeddedEncoder(Extractor):
    """An encoder's folder, fed and normalised as the evaluate stage does, so that equal names mean equal figures.

    Captions are read as they are. place: the folder. Raises GigaganError as `load_encoder` does.
    """

    is_clip = True

    def __init__(self, place: str, sha256: str | None = None, device: torch.device | str = "cpu") -> None:
        self._encoder, self.device = load_encoder(place, device=device), device
        require_sha256(self._encoder.sha256, sha256, place)
        self.name = embedded_name(self._encoder)
        self.clip_score_name = "clip-score" if self.name == extractor_name(self._encoder.name) else PLAIN
        self.width, self.sha256 = self._encoder.embed_dim, self._encoder.sha256
        self._size = self._encoder.image_size
        self.configuration = self._encoder.configuration
        self.rule = (
            f"antialiased float {self._encoder.interpolation} resize to {self._size} px, squeezed to a square; "
            f"{_normalisation(self._encoder.preprocessing)}; features of unit length"
        )

    def prepare(self, picture: np.ndarray) -> np.ndarray:
        """uint8 [H, W, 3] to float32 [3, S, S] in [-1, 1]."""
        image = to_unit_range(torch.from_numpy(np.array(picture.transpose(2, 0, 1), order="C"))[None])
        if image.shape[-2:] != (self._size, self._size):
            size = (self._size, self._size)
            # the encoder's own rule, done here one by one because pictures differ in size
            mode = self._encoder.interpolation
            image = F.interpolate(image, size=size, mode=mode, align_corners=False, antialias=True)
        return image[0].numpy()

    def embed(self, batch: Tensor) -> Tensor:
        """float32 [N, 3, S, S] in [-1, 1] to float32 [N, E] of unit length."""
        return F.normalize(self._encoder.image_embed(batch), dim=1)

    @torch.inference_mode()
    def caption_features(self, captions: list[str]) -> np.ndarray:
        """float32 [N, E] of unit length."""
        features = self._encoder.caption_embed(self._encoder.tokenize(captions))
        return F.normalize(features, dim=1).to("cpu", torch.float32).numpy()


def embedded_name(encoder: ClipEncoder) -> str:
    """For the names of figures by an encoder whose images are squeezed and whose features have unit length.

    Our own encoders are named by what they were trained on. Others go by an architecture or a folder, and without more
    words their figures would be taken for those of CLIP's own preprocessing.
    """
    name = extractor_name(encoder.name)
    if encoder.own and encoder.name not in architectures():
        return name
    return by_weights(f"{name}-squeezed", encoder.sha256)


def _normalisation(preprocessing: Preprocessing) -> str:
    mean, std = (
        " ".join(f"{each:.8g}" for each in values) for values in (preprocessing.mean, preprocessing.std)
    )
    return f"mean {mean}, std {std}"


def _truncation_table() -> np.ndarray:
    """What the authors' evaluation code makes of the pixel values 0 to 255 on the way to CLIP, uint8 [256].

    uint8 -> [0, 1] -> [-1, 1] in float32, and back by truncating (tensor2pil) instead of rounding.
    """
    unit = torch.arange(256, dtype=torch.uint8).to(torch.float32).div(255)
    signed = unit.sub(0.5).div(0.5)
    return ((signed + 1.0) * 127.5).clamp(0.0, 255.0).to(torch.uint8).numpy()


TRUNCATED = _truncation_table()
