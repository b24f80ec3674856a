"""CLIP score: does an image look like its caption to an encoder that scores both?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gigagan_core.errors import GigaganError
from gigagan_core.evaluation.bootstrap import Interval, bootstrap_mean
from gigagan_core.evaluation.moments import require_finite

_IMAGES, _CAPTIONS = "images for the CLIP score", "captions for the CLIP score"


@dataclass(frozen=True)
class ClipScore:
    """Cosines between images and captions, -1 to 1.

    score: mean over images, each with its own caption (no factor 2.5, no clamp: the authors' protocol).
    shuffled: mean over images, each with the captions of the others; exactly what randomly shuffled
    captions give on average. difference = score - shuffled, with its bootstrap interval over images.
    per_image: float64 [N], the cosine of each image with its own caption.
    """

    score: float
    shuffled: float
    difference: float
    interval: Interval
    count: int
    per_image: Tensor


def clip_score(
    image_features: Tensor,
    caption_features: Tensor,
    captions: list[str],
    *,
    resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
    groups: Tensor | None = None,
) -> ClipScore:
    """CLIP score of images [N, E] with captions [N, E], row i with row i; features need no normalising.

    captions: the N strings; equal captions are never counted as each other's mismatch.
    resamples, seed, level, groups: of the bootstrap, see `bootstrap_mean`.
    Raises GigaganError where counts differ, features are not finite, or all captions are equal.
    """
    if not len(image_features) == len(caption_features) == len(captions):
        raise GigaganError(
            f"{len(image_features)} images, {len(caption_features)} caption features and {len(captions)} "
            "captions do not pair; give one caption for every image"
        )
    own = caption_cosines(image_features, caption_features)
    images, texts = _unit(image_features, _IMAGES), _unit(caption_features, _CAPTIONS)
    same = distinct_indices(captions)[1]
    equal_count = torch.bincount(same)[same]
    mismatches = len(captions) - equal_count
    if (mismatches == 0).any():
        raise GigaganError(
            "all captions are equal, so there are none to shuffle; evaluate with several captions"
        )
    # Mean over all mismatched captions without the N x N matrix: total minus the captions equal to mine.
    equal_sum = torch.zeros(int(same.max()) + 1, texts.shape[1], dtype=torch.float64).index_add_(
        0, same, texts
    )
    others = (images * (texts.sum(dim=0) - equal_sum[same])).sum(dim=1) / mismatches
    return ClipScore(
        score=float(own.mean()),
        shuffled=float(others.mean()),
        difference=float((own - others).mean()),
        interval=bootstrap_mean(own - others, resamples=resamples, seed=seed, level=level, groups=groups),
        count=len(captions),
        per_image=own,
    )


def caption_cosines(image_features: Tensor, caption_features: Tensor) -> Tensor:
    """Cosine of each image [N, E] with its own caption [N, E], float64 [N]; features need no normalising.

    Raises GigaganError where features are not finite.
    """
    return (_unit(image_features, _IMAGES) * _unit(caption_features, _CAPTIONS)).sum(dim=1)


def _unit(features: Tensor, name: str) -> Tensor:
    require_finite(features, name)
    return F.normalize(features.to(torch.float64), dim=1)


def distinct_indices(captions: list[str]) -> tuple[list[int], Tensor]:
    """(first positions of the U distinct captions, int64 [N] index of each caption among them)."""
    first: dict[str, int] = {}
    positions: list[int] = []
    index = []
    for position, caption in enumerate(captions):
        if caption not in first:
            first[caption] = len(positions)
            positions.append(position)
        index.append(first[caption])
    return positions, torch.tensor(index, dtype=torch.int64)
