"""How near an upsampled image is to its target, and to the input it came from.

The paper uses LPIPS for the first. `encoder_feature_distance` is no LPIPS: it is the distance of embeddings of a
frozen image encoder, which stands in where LPIPS weights are not at hand, and is to be labelled as such.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from gigagan_core.models.layers import at_least_fp32
from gigagan_core.models.pyramid import resize
from gigagan_core.models.randomness import keyed_uniform


def l1_loss(fake: Tensor, real: Tensor) -> Tensor:
    """Mean absolute difference of images [N, 3, H, W]. Scalar."""
    return (at_least_fp32(fake) - at_least_fp32(real)).abs().mean()


def low_resolution_consistency(fake: Tensor, low: Tensor, mode: str = "bicubic") -> Tensor:
    """Mean absolute difference between `fake` [N, 3, H, W] shrunk (antialiased) and its input `low` [N, 3, h, w].

    mode: the resampling that made `low` ("bicubic" or "bilinear"). Scalar.
    """
    return l1_loss(resize(at_least_fp32(fake), low.shape[-1], mode), low)


def encoder_feature_distance(
    image_embed: Callable[[Tensor], Tensor],
    fake: Tensor,
    real: Tensor,
    corners: Tensor | None = None,
    patch_size: int | None = None,
) -> Tensor:
    """Mean of 1 - cosine between embeddings of `fake` and `real` [N, 3, H, W] in [-1, 1]. Scalar. Not LPIPS.

    image_embed: [M, 3, h, w] -> [M, E], frozen and differentiable. With `corners` (int64 [N, P, 2], see
    `patch_corners`) P patches of `patch_size` pixels are compared instead of the whole image, so that an encoder
    of small images sees full resolution. No gradient flows into `real`.
    """
    if corners is not None:
        fake, real = (crop_patches(images, corners, patch_size) for images in (fake, real))
    with torch.no_grad():
        target = at_least_fp32(image_embed(real))
    similarity = F.cosine_similarity(at_least_fp32(image_embed(fake)), target, dim=-1)
    return (1.0 - similarity).mean()


def patch_corners(seed: int, indices: Tensor, image_size: int, patch_size: int, count: int) -> Tensor:
    """int64 [N, count, 2]: top-left corners (y, x) of random patches, keyed by global sample index (int64 [N])."""
    uniform = keyed_uniform(seed, "patches", indices, (count, 2))
    return (uniform * (image_size - patch_size + 1)).long().clamp(max=image_size - patch_size)


def crop_patches(images: Tensor, corners: Tensor, patch_size: int) -> Tensor:
    """images [N, C, H, W], corners int64 [N, P, 2] -> [N P, C, patch_size, patch_size]."""
    # Indexing pixels, not `unfold`: the gradient of a view of windows is as large as all windows together.
    span = torch.arange(patch_size, device=images.device)
    rows = corners[..., 0, None] + span  # N, P, p
    columns = corners[..., 1, None] + span
    samples = torch.arange(len(images), device=images.device)[:, None, None, None]
    patches = images.permute(0, 2, 3, 1)[samples, rows[..., :, None], columns[..., None, :]]  # N, P, p, p, C
    return patches.flatten(0, 1).permute(0, 3, 1, 2)
