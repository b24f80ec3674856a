"""Image pyramids: lists of [N, 3, r, r] in [-1, 1], from high to low resolution, each half the one before."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor

from gigagan_core.models.layers import downsample


def image_pyramid(images: Tensor, resolutions: Sequence[int]) -> list[Tensor]:
    """Real images as the discriminator takes them.

    images: [N, 3, r, r] in [-1, 1], r = resolutions[0]; resolutions: from high to low, each half the one before
    (`DiscriminatorSettings.input_resolutions`). Every level is the 2x2 mean of the level above (I: the paper
    names no filter), which is what the mean of the pixels underneath looks like from afar.
    """
    if tuple(images.shape[-2:]) != (resolutions[0], resolutions[0]):
        raise ValueError(
            f"images are {tuple(images.shape[-2:])} px, but the pyramid starts at {resolutions[0]}"
        )
    levels = [images]
    for above, resolution in pairwise(resolutions):
        if 2 * resolution != above:
            raise ValueError(f"each level must be half the one above, not {resolution} below {above}")
        levels.append(downsample(levels[-1]))
    return levels


def resize(images: Tensor, size: int, mode: str = "bicubic") -> Tensor:
    """images [N, 3, H, W] -> [N, 3, size, size], antialiased where it shrinks; not clamped (bicubic overshoots).

    mode: "bicubic" or "bilinear". The identity where the size is right already.
    """
    if tuple(images.shape[-2:]) == (size, size):
        return images
    return F.interpolate(images, size=(size, size), mode=mode, align_corners=False, antialias=True)
