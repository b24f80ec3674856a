"""Moments of features that lie in the work folder, taken in Ray tasks over runs of shards and merged."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from gigagan_core.evaluation.extraction import answer_of
from gigagan_core.evaluation.feature_set import FeatureSet, MomentsAccumulator
from gigagan_core.evaluation.moments import Moments

SHARDS_A_TASK = 16
"""A task sends back D * D numbers whatever it reads, 34 MB of 2048 dimensions where a shard's features have 2."""


def moments_in_ray(ray: ModuleType, paths: Sequence[Path], name: str) -> Moments:
    """Of the features in .npy files that every node sees; the same to the bit however many nodes there are.

    ray: connected. name: of the set, for errors. Raises GigaganError where a feature is not finite.
    """
    runs = [paths[start : start + SHARDS_A_TASK] for start in range(0, len(paths), SHARDS_A_TASK)]
    task = ray.remote(num_cpus=1, max_retries=2)(_moments_of)
    limit = max(1, int(ray.cluster_resources().get("CPU", 1)))
    total, running, first = MomentsAccumulator(name), deque[Any](), 0
    for run in runs:
        if len(running) == limit:
            total.merge(answer_of(ray, running.popleft()))
        running.append(task.remote(run, name, first))
        first += sum(len(np.load(path, mmap_mode="r")) for path in run)
    while running:
        total.merge(answer_of(ray, running.popleft()))
    return total.moments


def _moments_of(paths: Sequence[Path], name: str, first: int) -> MomentsAccumulator:
    total = MomentsAccumulator(name, first)
    for piece in FeatureSet.mapped(paths, name):
        total.add(piece)
    return total
