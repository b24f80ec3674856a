"""What a distance is compared with, so that a number means something.

All baselines have as many images as the judged set: a Frechet distance depends on the count.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gigagan_core.errors import GigaganError
from gigagan_core.evaluation.patches import bilinear

BLUR_SIZE = 8


def sample(count: int, available: int, seed: int) -> Tensor:
    """int64 [count] distinct positions of `available` images, sorted, drawn by seed.

    Raises GigaganError where there are too few: repeating images would make the baseline look worse.
    """
    if count > available:
        raise GigaganError(
            f"the baselines need {count} training images, as many as are held out, and the training set has "
            f"{available}; lower max_images of the evaluation or use a larger training set"
        )
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(available, generator=generator)[:count].sort().values


def mean_image(images: Tensor) -> Tensor:
    """The pixelwise mean of uint8 images [N, 3, H, W], as one image [1, 3, H, W]: no diversity at all."""
    return images.to(torch.float64).mean(dim=0, keepdim=True).round().to(torch.uint8)


def blurred(images: Tensor, size: int = BLUR_SIZE) -> Tensor:
    """Real images [N, 3, H, W] uint8 with the detail taken out: averaged to size x size, enlarged bilinearly.

    A generator that has learned colours and rough shapes only does no better than this.
    """
    small = F.interpolate(images.to(torch.float32), size=(size, size), mode="area").round().to(torch.uint8)
    return bilinear(small, images.shape[-1])


def shared_images(first: Tensor, second: Tensor) -> int:
    """How many images of `second` also occur, byte for byte, in `first`; both uint8 [N, 3, H, W].

    Between training and held-out images anything but 0 flatters the model.
    """
    known = {image.numpy().tobytes() for image in first}
    return sum(image.numpy().tobytes() in known for image in second)
