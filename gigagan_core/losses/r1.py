"""R1 gradient penalty on real images (Mescheder et al. 2018; V1), over all predictions of the discriminator."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gigagan_core.losses.adversarial import prediction_weights
from gigagan_core.models.attention import double_backward_safe
from gigagan_core.models.condition import Condition
from gigagan_core.models.discriminator import Discriminator


def r1_penalty(
    discriminator: Discriminator,
    pyramid: Sequence[Tensor],
    condition: Condition = None,
    level_weights: Sequence[float] | None = None,
    intermediate_weight: float = 1.0,
) -> Tensor:
    """mean_n sum_i || d/dx_i  sum_j weight_ij mean_hw D_ij(x_i, c_n) ||^2. Scalar; differentiable once more.

    pyramid: real images [N, 3, r, r] from high to low. The caller multiplies by strength / 2 (0.2048 to 2.048,
    V1) and by the interval, where the penalty is lazy. No autocast inside: a squared gradient in bf16 is noise.
    The weights are inside the square; that they are there at all is our reading (I).
    """
    device = pyramid[0].device.type
    images = [image.detach().requires_grad_() for image in pyramid[: discriminator.settings.levels]]
    # Recomputed stages would run after `double_backward_safe` has ended, with other kernels than the first time.
    keeping = discriminator.keeping_activations()
    with torch.enable_grad(), torch.autocast(device, enabled=False), double_backward_safe(), keeping:
        predictions = discriminator(images, condition)
        weights = prediction_weights(predictions, level_weights, intermediate_weight)
        total = sum(p.logits.mean(dim=(1, 2, 3)).sum() * weight for p, weight in zip(predictions, weights))
        gradients = torch.autograd.grad(total, images, create_graph=True)
        return sum(gradient.square().sum(dim=(1, 2, 3)) for gradient in gradients).mean()
