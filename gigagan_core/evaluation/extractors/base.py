"""What every extractor offers, and the picture rules that several share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gigagan_core.assets.catalogue import CATALOGUE
from gigagan_core.errors import GigaganError
from gigagan_core.store.fingerprint import sha256_file


class Extractor(ABC):
    """A frozen network that turns images into features.

    name: for the names of metrics, without `_`; another weight file or resizing rule has another name, but for our own
    encoders, which their folders name. width: D.
    sha256: of the weight file. rule: how images reach the network, in words, for the record. configuration: what else
    decides features and comes from a file, JSON-able. is_clip: has captions
    too (`caption_features`), so CLIP score and CMMD can be taken. has_logits: is a classifier too
    (`logits`), so the Inception Score can be taken. clip_score_name: of the score with its way of reading
    captions. published: of the weights and rule that the field
    calls by this name; False makes no difference but in the names of results.
    """

    name: str
    width: int
    sha256: str
    rule: str
    configuration: dict[str, Any] | None = None
    is_clip: bool = False
    has_logits: bool = False
    clip_score_name: str = "clip-score"
    published: bool = False
    device: torch.device | str = "cpu"

    @abstractmethod
    def prepare(self, picture: np.ndarray) -> np.ndarray:
        """One picture uint8 [H, W, 3] of any size to the network's input [3, h, w], uint8 or float32.

        Thread-safe: many run at a time while the network works.
        """

    @abstractmethod
    def embed(self, batch: Tensor) -> Tensor:
        """A batch of prepared pictures [N, 3, h, w] to features [N, D] on the extractor's device."""

    @torch.inference_mode()
    def features_of(self, prepared: Sequence[np.ndarray]) -> np.ndarray:
        """Features float32 [N, D] of N prepared pictures, which are one batch."""
        batch = torch.from_numpy(np.stack(prepared)).to(self.device)
        return self.embed(batch).to("cpu", torch.float32).numpy()

    def features(self, images: Tensor, batch_size: int = 64) -> Tensor:
        """Features float32 [N, D] of images uint8 [N, 3, H, W], on the CPU."""
        pictures = images.permute(0, 2, 3, 1).contiguous().cpu().numpy()
        pieces = [
            self.features_of([self.prepare(picture) for picture in pictures[start : start + batch_size]])
            for start in range(0, len(pictures), batch_size)
        ]
        return torch.from_numpy(np.concatenate(pieces))

    def caption_features(self, captions: list[str]) -> np.ndarray:
        """Features float32 [N, D] of captions, for a CLIP. Raises GigaganError for another network."""
        raise GigaganError(f"{self.name} knows no captions; name a CLIP as extractor, such as ViT-B-32:FILE")

    def logits(self, features: Tensor) -> Tensor:
        """Class logits of features [N, D], for Inception. Raises GigaganError for another network."""
        raise GigaganError(f"{self.name} is no classifier; the Inception Score needs the extractor inception")


def weight_file(place: str, what: str) -> Path:
    """The path of a weight file. Raises GigaganError where there is none."""
    path = Path(place).expanduser()
    if not place or not path.is_file():
        where = f"{path}: no such file" if place else "no weight file is given"
        raise GigaganError(f"{what}: {where}; name one with --weights FILE, nothing is ever downloaded")
    return path


def checked_sha256(path: Path, expected: str | None, what: str) -> str:
    """A file's sha256. Raises GigaganError where another one is expected."""
    return require_sha256(sha256_file(path), expected, f"{what}: {path}")


def require_sha256(found: str, expected: str | None, what: str) -> str:
    """`found`. Raises GigaganError where another sum is expected."""
    if expected is not None and found != expected.lower():
        raise GigaganError(
            f"{what} has sha256 {found}, expected {expected.lower()}; fetch the file again or correct --sha256"
        )
    return found


def published_sums(reader: str) -> set[str | None]:
    """sha256 of the weight files that the catalogue of assets has for a network: as it is named before a colon."""
    return {each.sha256 for each in CATALOGUE.values() if each.reader == reader}


def resized_float(picture: np.ndarray, size: int) -> np.ndarray:
    """uint8 [H, W, 3] to float32 [3, size, size] in 0 to 255: bicubic on each channel as float, clipped, not rounded.

    clean-fid's rule of mode "clean" (Parmar et al. 2022): PIL's antialiased kernel, no quantising.
    """
    channels = [
        np.asarray(
            Image.fromarray(picture[:, :, channel].astype(np.float32)).resize(
                (size, size), Image.Resampling.BICUBIC
            )
        ).clip(0, 255)
        for channel in range(3)
    ]
    return np.stack(channels).astype(np.float32)


def resized_short_side(picture: np.ndarray, size: int) -> np.ndarray:
    """uint8 [H, W, 3] to uint8 [3, size, size]: PIL bicubic to the short side, then the centre square, as CLIP's."""
    height, width = picture.shape[:2]
    if (height, width) != (size, size):
        short = min(height, width)
        # torchvision's rounding: the long side is truncated
        target = (size, int(size * height / short)) if width == short else (int(size * width / short), size)
        picture = np.asarray(Image.fromarray(picture).resize(target, Image.Resampling.BICUBIC))
    return centre_square(picture, size).transpose(2, 0, 1)


def centre_square(picture: np.ndarray, side: int | None = None) -> np.ndarray:
    """The centre square [side, side, 3] of a picture [H, W, 3], rounding as torchvision does; side None: the short."""
    height, width = picture.shape[:2]
    side = min(height, width) if side is None else side
    top, left = round((height - side) / 2.0), round((width - side) / 2.0)
    return picture[top : top + side, left : left + side]
