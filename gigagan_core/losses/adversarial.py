"""Non-saturating logistic loss summed over the discriminator's predictions (V1).

Terms are per sample and in fp32 or wider. log(1 + exp(x)) is always softplus: written out, it overflows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from gigagan_core.models.discriminator import Predictions
from gigagan_core.models.layers import at_least_fp32


def prediction_weights(
    predictions: Predictions, level_weights: Sequence[float] | None = None, intermediate_weight: float = 1.0
) -> list[float]:
    """The weight of each D_ij: level_weights[i], times `intermediate_weight` unless it is at the last scale.

    level_weights: from high to low; the paper's (R) are 0.33, 0.17, 0.17, 0.17, 0.17. None: 1 for every level.
    """
    levels = 1 + max(p.level for p in predictions)
    if level_weights is None:
        level_weights = (1.0,) * levels
    if len(level_weights) != levels:
        raise ValueError(f"level_weights has {len(level_weights)} entries for {levels} pyramid levels")
    return [level_weights[p.level] * (1.0 if p.final else intermediate_weight) for p in predictions]


def logistic_terms(
    predictions: Predictions,
    sign: float,
    level_weights: Sequence[float] | None = None,
    intermediate_weight: float = 1.0,
) -> Tensor:
    """sum_ij weight_ij mean_hw softplus(sign D_ij), one term a sample: [N].

    sign -1 wants the images called real, +1 wants them called fake.
    """
    weights = prediction_weights(predictions, level_weights, intermediate_weight)
    means = [F.softplus(sign * at_least_fp32(p.logits)).flatten(1).mean(dim=1) for p in predictions]
    return sum(mean * weight for mean, weight in zip(means, weights))


def generator_loss(
    fake: Predictions, level_weights: Sequence[float] | None = None, intermediate_weight: float = 1.0
) -> Tensor:
    """Mean over the batch of softplus(-D(G(z, c), c)), summed over the predictions. Scalar."""
    return logistic_terms(fake, -1.0, level_weights, intermediate_weight).mean()


def discriminator_loss(
    real: Predictions,
    fake: Predictions,
    level_weights: Sequence[float] | None = None,
    intermediate_weight: float = 1.0,
) -> Tensor:
    """Mean over the batch of softplus(-D(x, c)) + softplus(D(G(z, c), c)), summed over the predictions. Scalar."""
    on_real = logistic_terms(real, -1.0, level_weights, intermediate_weight).mean()
    return on_real + logistic_terms(fake, 1.0, level_weights, intermediate_weight).mean()


def mean_logit(predictions: Predictions, level: int) -> Tensor:
    """Mean logit of a pyramid level at the last scale, detached: a figure to watch. Scalar."""
    final = [p.logits for p in predictions if p.level == level and p.final]
    return torch.stack([logits.detach().mean() for logits in final]).mean()
