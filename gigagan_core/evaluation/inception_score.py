"""Inception Score (Salimans et al. 2016): are single images clear to a classifier, and the set diverse?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gigagan_core.errors import GigaganError
from gigagan_core.evaluation.feature_set import FeatureSet
from gigagan_core.evaluation.moments import require_finite


@dataclass(frozen=True)
class InceptionScore:
    """value: mean over splits, 1 to the number of classes. spread: standard deviation over splits."""

    value: float
    spread: float
    splits: int


class InceptionScoreAccumulator:
    """exp of the mean divergence of an image's classes from its split's, from sums that add up in any order.

    splits: 10, as published. An image's split is decided by the caller, so that batches and machines do not matter.
    """

    def __init__(self, splits: int = 10) -> None:
        self._splits = splits
        self._counts = torch.zeros(splits, dtype=torch.float64)
        self._negative_entropy = torch.zeros(splits, dtype=torch.float64)
        self._classes: Tensor | None = None

    @property
    def count(self) -> int:
        """Images taken."""
        return int(self._counts.sum())

    def add(self, logits: Tensor, split: Tensor) -> None:
        """Logits [N, classes] of N images and each one's split, int64 [N]. Raises GigaganError where not finite."""
        require_finite(logits, "logits of Inception")
        logs = logits.to(torch.float64).log_softmax(dim=1)
        chances = logs.exp()
        if self._classes is None:
            self._classes = torch.zeros(self._splits, logits.shape[1], dtype=torch.float64)
        self._classes.index_add_(0, split, chances)
        self._negative_entropy.index_add_(0, split, (chances * logs).sum(dim=1))
        self._counts += torch.bincount(split, minlength=self._splits)

    def merge(self, other: InceptionScoreAccumulator) -> None:
        """The other's images too."""
        if other._classes is not None:
            self._classes = (
                other._classes.clone() if self._classes is None else self._classes + other._classes
            )
            self._negative_entropy = self._negative_entropy + other._negative_entropy
            self._counts = self._counts + other._counts

    def result(self, name: str = "images") -> InceptionScore:
        """The score of what was taken. name: of the set. Raises GigaganError where a split has no image."""
        if self._classes is None or (self._counts == 0).any():
            raise GigaganError(
                f"the Inception Score needs at least one image in each of its {self._splits} splits; "
                f"there are {self.count} {name}"
            )
        mean = self._classes / self._counts[:, None]
        # KL = mean of sum p log p, less sum q log q for the split's mean q
        divergence = self._negative_entropy / self._counts - torch.xlogy(mean, mean).sum(dim=1)
        scores = divergence.exp()
        return InceptionScore(float(scores.mean()), float(scores.std(correction=0)), self._splits)


def inception_score(
    features: FeatureSet, logits: Callable[[Tensor], Tensor], *, splits: int = 10, seed: int = 0
) -> InceptionScore:
    """Inception Score of a set from its features and the classifier on them; images join splits by seed."""
    total = InceptionScoreAccumulator(splits)
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(seed))
    split = torch.empty_like(order)
    # as published: part i of the shuffled set reaches from i N // splits to (i + 1) N // splits
    split[order] = ((torch.arange(len(order)) + 1) * splits - 1) // max(len(order), 1)
    start = 0
    for piece in features:
        total.add(logits(piece), split[start : start + len(piece)])
        start += len(piece)
    return total.result(features.name)
