"""Structural similarity of images and their references."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gigagan_core.errors import GigaganError

_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def ssim(images: Tensor, reference: Tensor) -> Tensor:
    """Structural similarity of each image (Wang et al. 2004), float64 [N], -1 to 1; uint8 [N, 3, H, W].

    Gaussian window of 11 pixels and sigma 1.5 where it lies wholly inside, K1 0.01, K2 0.03, population variances, mean
    over pixels and over the three channels. Raises GigaganError for images smaller than the window.
    """
    if min(images.shape[-2:]) < _WINDOW:
        raise GigaganError(
            f"SSIM needs images of at least {_WINDOW} pixels, these are {list(images.shape[-2:])}"
        )
    x, y = images.to(torch.float64), reference.to(torch.float64)
    mean_x, mean_y = _blur(x), _blur(y)
    variance_x = _blur(x * x) - mean_x**2
    variance_y = _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
    structure = (2 * covariance + _C2) / (variance_x + variance_y + _C2)
    return (luminance * structure).flatten(1).mean(dim=1)


def _blur(x: Tensor) -> Tensor:
    offset = torch.arange(_WINDOW, dtype=x.dtype) - _WINDOW // 2
    kernel = torch.exp(-(offset**2) / (2 * _SIGMA**2))
    kernel = (kernel / kernel.sum()).expand(x.shape[1], 1, 1, -1)
    across = F.conv2d(x, kernel, groups=x.shape[1])
    return F.conv2d(across, kernel.transpose(2, 3), groups=x.shape[1])
