"""Judging an upsampler where it acts: at full resolution, in patches, and against its own input.

A distance on whole images shrinks them to the extractor's size first and so cannot see what an
upsampler adds. Patches are cut at full resolution instead, at the same places of the real image and of
every upsampler's version of it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gigagan_core.errors import GigaganError
from gigagan_core.models.pyramid import resize
from gigagan_core.models.randomness import keyed_uniform

# Two uint8 images that round alike differ by up to half a level: its mean square stands for "equal".
_ROUNDING_MSE = 1 / 12


def patch_positions(indices: Tensor, image_size: int, patch_size: int, per_image: int, seed: int) -> Tensor:
    """Top left corners, int64 [N, P, 2] (row, column), uniform over the places where a patch fits.

    indices: int64 [N], the images' global indices; with the seed they alone decide the places, so a set
    cut in batches, or judged again for another upsampler, gets the same ones.
    Raises GigaganError where the patch is larger than the image.
    """
    if patch_size > image_size:
        raise GigaganError(
            f"patches of {patch_size} pixels do not fit into images of {image_size}; lower patch_size"
        )
    uniform = keyed_uniform(seed, "patch-position", indices, (per_image, 2), torch.float64)
    places = image_size - patch_size + 1
    return (uniform * places).long().clamp(max=places - 1)


def cut_patches(images: Tensor, positions: Tensor, patch_size: int) -> Tensor:
    """Patches [N * P, 3, p, p] of images [N, 3, H, W] at positions [N, P, 2], all of image 0 first."""
    offset = torch.arange(patch_size)
    rows = positions[:, :, 0, None] + offset  # [N, P, p]
    columns = positions[:, :, 1, None] + offset
    image = torch.arange(len(images))[:, None, None, None]
    # advanced indices around a slice put the channels last: [N, P, p, p, 3]
    patches = images[image, :, rows[:, :, :, None], columns[:, :, None, :]]
    return patches.permute(0, 1, 4, 2, 3).flatten(0, 1)


def psnr(images: Tensor, reference: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image, float64 [N] in dB; uint8 [N, 3, H, W], peak 255.

    Equal images give 58.9 dB, what rounding to uint8 alone leaves, not infinity: a mean over images
    then stays a number.
    """
    error = (images.to(torch.float64) - reference.to(torch.float64)).square().flatten(1).mean(dim=1)
    return 10 * torch.log10(255**2 / error.clamp(min=_ROUNDING_MSE))


def shrink(images: Tensor, size: int) -> Tensor:
    """uint8 [N, 3, H, W] to uint8 [N, 3, size, size], antialiased bicubic, as PIL's and as in training."""
    return _resize(images, size, "bicubic")


def consistency_error(outputs: Tensor, low: Tensor) -> Tensor:
    """How far each upsampler's output, shrunk again, is from its input: mean square over its pixels, float64 [N].

    outputs: uint8 [N, 3, H, W]; low: uint8 [N, 3, h, w]. Unit: the square of the pixel range, so 0 is exact and 1 is
    black for white. The same shrinking must have made `low` from the real images for 0 to be reachable.
    """
    again = shrink(outputs, low.shape[-1])
    return (again.to(torch.float64) - low.to(torch.float64)).div(255).square().flatten(1).mean(dim=1)


def bicubic(low: Tensor, size: int) -> Tensor:
    """uint8 [N, 3, h, w] enlarged to [N, 3, size, size] bicubically, as PIL does: a baseline."""
    return _resize(low, size, "bicubic")


def bilinear(low: Tensor, size: int) -> Tensor:
    """uint8 [N, 3, h, w] enlarged to [N, 3, size, size] bilinearly."""
    return _resize(low, size, "bilinear")


def _resize(images: Tensor, size: int, mode: str) -> Tensor:
    # antialiased resizing picks PIL's kernels (bicubic a = -0.5), for enlarging too
    return resize(images.to(torch.float32), size, mode).round().clamp(0, 255).to(torch.uint8)
