"""Matching-aware loss (equation 8): a right image with a wrong caption is a fake.

Pairs (real image, other caption) and (generated image, other caption) are fakes to D; G minimises the second
term too (V1, the sign for G being I). The other caption comes from a derangement of the batch
(`models.randomness.keyed_derangement`). Image features are reused: a mismatched pair costs the predictors only,

    wrong = discriminator.predict(features, t_D[partner])
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gigagan_core.losses.adversarial import logistic_terms
from gigagan_core.models.discriminator import Predictions


class MatchingLoss(NamedTuple):
    """The loss and how many pairs it rests on (a tensor: reading it is the caller's moment to synchronise)."""

    loss: Tensor  # scalar; 0 with zero gradient where no pair is valid
    valid: Tensor  # int64 scalar: pairs with two different captions


def caption_ids(captions: Sequence[str], device: torch.device | str = "cpu") -> Tensor:
    """int64 [N], equal where captions are equal: a hash of the text, so the same on every worker."""
    digests = (hashlib.sha256(caption.encode("utf-8", "surrogatepass")).digest() for caption in captions)
    return torch.tensor([int.from_bytes(d[:8], "little", signed=True) for d in digests], device=device)


def valid_pairs(ids: Tensor, partner: Tensor) -> Tensor:
    """bool [N]: whether sample n and its partner have different captions. ids, partner: int64 [N]."""
    return ids != ids[partner]


def matching_loss(
    mismatched: Sequence[Predictions],
    valid: Tensor,
    level_weights: Sequence[float] | None = None,
    intermediate_weight: float = 1.0,
) -> MatchingLoss:
    """sum over image sources of mean_n valid_n softplus(D(x_n, c_partner(n))).

    mismatched: predictions of real images, of generated ones, or both, each with the partners' captions (for G
    the generated ones alone: the other term has no gradient in G). valid: bool [N], `valid_pairs`.

    The mean is over all N, not over the valid pairs: so the loss does not depend on how workers share a batch.
    """
    terms = sum(
        logistic_terms(predictions, 1.0, level_weights, intermediate_weight) for predictions in mismatched
    )
    # where, not a product: a masked infinity must not become NaN.
    return MatchingLoss(torch.where(valid, terms, torch.zeros_like(terms)).mean(), valid.sum())
