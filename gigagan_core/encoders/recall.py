"""Retrieval recall of a paired set: does an image find its caption, and a caption its image?"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Recall:
    """Shares in [0, 1], the mean of both directions; chance: what guessing gives at 10; count: pairs."""

    r1: float
    r10: float
    chance_r10: float
    count: int


def recall(image_embeds: Tensor, text_embeds: Tensor) -> Recall:
    """Recall at 1 and 10 of N pairs, [N, E] each, row n belonging together; by cosine.

    A tie counts against the pair, so an encoder that maps everything to one point scores 0 and not 1.
    """
    similarity = F.normalize(image_embeds, dim=1) @ F.normalize(text_embeds, dim=1).T
    count = len(similarity)
    return Recall(
        r1=recall_at(similarity, 1),
        r10=recall_at(similarity, 10),
        chance_r10=min(10, count) / count,
        count=count,
    )


def recall_at(similarity: Tensor, k: int) -> float:
    """Mean over rows and columns of an [N, N] matrix: is the diagonal among the k largest?"""
    own = similarity.diagonal()
    # the diagonal is >= itself, so the best rank is 1
    by_image = (similarity >= own[:, None]).sum(dim=1) <= k
    by_text = (similarity >= own[None]).sum(dim=0) <= k
    return float((by_image.double().mean() + by_text.double().mean()) / 2)
