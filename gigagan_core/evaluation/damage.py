"""Pictures with other generators' kinds of damage, which no upsampler's training made: a test set by seed.

A function takes uint8 [N, 3, H, W] and gives as many of the same size. What is drawn is keyed by (seed, index), so a
picture is damaged alike in whatever batch it stands.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gigagan_core.config.damage import (
    Blur,
    DamageKind,
    DamageSettings,
    Jpeg,
    LatentGrid,
    ResidualNoise,
    Resized,
)
from gigagan_core.evaluation.features import to_unit_range
from gigagan_core.inference.generate import to_uint8
from gigagan_core.inference.pictures import take_apart
from gigagan_core.models.randomness import keyed_normal

WHAT: dict[DamageKind, str] = {
    "blur": "A generator without fine detail, or a lens out of focus: a Gaussian.",
    "jpeg": "Compressed at low quality: steps at the edges of blocks of 8 pixels, coarse colours.",
    "residual_noise": "What a diffusion model leaves that stops early.",
    "latent_grid": "A latent decoder's ringing and steps on the grid of its latents, shifted colours.",
    "resized_nearest": "Shrunk and enlarged again by repeating pixels.",
    "resized_bicubic": "Shrunk and enlarged again bicubically.",
}


def damaged(images: Tensor, kind: DamageKind, settings: DamageSettings, indices: Tensor) -> Tensor:
    """uint8 [N, 3, H, W] -> uint8 [N, 3, H, W]. indices: int64 [N], with the seed they key what is drawn."""
    return _KINDS[kind](images, getattr(settings, kind), settings.seed, indices)


def damaged_picture(
    picture: Image.Image, kind: DamageKind, settings: DamageSettings, index: int = 0
) -> Image.Image:
    """One picture of any mode: upright, its transparency untouched, grey if it was."""
    apart = take_apart(picture)
    made = damaged(to_uint8(apart.rgb[None]), kind, settings, torch.tensor([index]))
    return apart.together(to_unit_range(made)[0])


def blur(images: Tensor, settings: Blur) -> Tensor:
    """Convolved with a Gaussian, the picture mirrored at its edges as far as it reaches."""
    from torchvision.transforms.v2.functional import gaussian_blur

    # torchvision mirrors, which takes a kernel smaller than twice the picture
    radius = min(math.ceil(3 * settings.sigma), min(images.shape[-2:]) - 1)
    made = gaussian_blur(to_unit_range(images), [2 * radius + 1] * 2, [settings.sigma] * 2)
    return to_uint8(made)


def jpeg(images: Tensor, settings: Jpeg) -> Tensor:
    """Written and read again by Pillow, chroma 4:2:0."""

    def through(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=settings.quality, subsampling="4:2:0")
        return Image.open(file)

    return _each(images, through)


def residual_noise(images: Tensor, settings: ResidualNoise, seed: int, indices: Tensor) -> Tensor:
    """A step of the forward diffusion: less of the picture by as much as there is noise, so variances add to one."""
    noise = keyed_normal(seed, "damage/noise", indices, tuple(images.shape[1:]))
    kept = math.sqrt(1 - settings.level**2)
    return to_uint8(kept * to_unit_range(images) + settings.level * noise)


def latent_grid(images: Tensor, settings: LatentGrid, seed: int, indices: Tensor) -> Tensor:
    """Cosines of the grid's period along both axes, an offset a cell, an offset a channel."""
    height, width = images.shape[-2:]
    down, across = (
        torch.cos(2 * math.pi * (torch.arange(side) + 0.5) / settings.period) for side in (height, width)
    )
    ringing = settings.ringing * (down[:, None] + across)
    cells = [-(-side // settings.period) for side in (height, width)]
    offsets = settings.blocks * keyed_normal(seed, "damage/cells", indices, (1, *cells))
    blocks = offsets.repeat_interleave(settings.period, -2).repeat_interleave(settings.period, -1)
    colour = settings.colour * keyed_normal(seed, "damage/colour", indices, (3, 1, 1))
    return to_uint8(to_unit_range(images) + ringing + blocks[..., :height, :width] + colour)


def resized(images: Tensor, settings: Resized, filter_: Image.Resampling) -> Tensor:
    """Shrunk by the factor and enlarged to the old size by one of Pillow's filters."""

    def through(image: Image.Image) -> Image.Image:
        small = [max(1, side // settings.factor) for side in image.size]
        return image.resize((small[0], small[1]), filter_).resize(image.size, filter_)

    return _each(images, through)


_KINDS: dict[DamageKind, Callable[..., Tensor]] = {
    "blur": lambda images, settings, seed, indices: blur(images, settings),
    "jpeg": lambda images, settings, seed, indices: jpeg(images, settings),
    "residual_noise": residual_noise,
    "latent_grid": latent_grid,
    "resized_nearest": lambda images, settings, seed, indices: resized(
        images, settings, Image.Resampling.NEAREST
    ),
    "resized_bicubic": lambda images, settings, seed, indices: resized(
        images, settings, Image.Resampling.BICUBIC
    ),
}


def _each(images: Tensor, through: Callable[[Image.Image], Image.Image]) -> Tensor:
    """Every picture through a function of Pillow's pictures, in RGB."""
    made = []
    for image in images:
        picture = through(Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()))
        made.append(torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1))
    return torch.stack(made)
