"""Retrieval: is an image's own caption among its k nearest captions?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gigagan_core.errors import GigaganError
from gigagan_core.evaluation.bootstrap import Interval, wilson
from gigagan_core.evaluation.clip_score import distinct_indices
from gigagan_core.evaluation.moments import require_finite

_ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class Retrieval:
    """recall: share of images whose own caption is among their k nearest of `distinct` captions.
    chance: what guessing gives, k / distinct. interval: Wilson's, of recall. ranks: int64 [N], 1 = best."""

    recall: float
    chance: float
    interval: Interval
    k: int
    distinct: int
    count: int
    ranks: Tensor


def caption_recall(
    image_features: Tensor,
    caption_features: Tensor,
    captions: list[str],
    *,
    k: int = 10,
    level: float = 0.95,
    independent: int | None = None,
) -> Retrieval:
    """Image-to-caption recall@k of images [N, E] over the distinct ones of N captions [N, E].

    A tie counts against the image, so features that are all alike score 0, not 1.
    level: of the interval. independent: how many images count as independent in it (default: all).
    Raises GigaganError where counts differ or features are not finite.
    """
    if not len(image_features) == len(caption_features) == len(captions) or not captions:
        raise GigaganError(
            f"{len(image_features)} images and {len(captions)} captions do not pair; give one for each image"
        )
    require_finite(image_features, "images for retrieval")
    require_finite(caption_features, "captions for retrieval")
    positions, own_index = distinct_indices(captions)
    images = F.normalize(image_features.to(torch.float64), dim=1)
    texts = F.normalize(caption_features[positions].to(torch.float64), dim=1)
    ranks = []
    for rows, own in zip(images.split(_ROWS_AT_ONCE), own_index.split(_ROWS_AT_ONCE), strict=True):
        similarity = rows @ texts.T
        own_similarity = similarity.gather(1, own[:, None])
        # the own caption is >= itself, which makes the best rank 1
        ranks.append((similarity >= own_similarity).sum(dim=1))
    all_ranks = torch.cat(ranks)
    hits = int((all_ranks <= k).sum())
    return Retrieval(
        recall=hits / len(captions),
        chance=min(k, len(positions)) / len(positions),
        interval=wilson(hits, len(captions), level, independent),
        k=k,
        distinct=len(positions),
        count=len(captions),
        ranks=all_ranks,
    )
