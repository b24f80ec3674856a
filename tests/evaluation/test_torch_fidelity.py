"""Beside torch-fidelity on the same features; `test_measures.py` holds the formulas by themselves."""

from __future__ import annotations

import pytest
import torch

from gigagan_core.evaluation.feature_set import FeatureSet
from gigagan_core.evaluation.inception_score import inception_score
from gigagan_core.evaluation.kernel_distances import kid
from gigagan_core.evaluation.precision_recall import precision_recall


@pytest.fixture(scope="module")
def features() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    real, fake = torch.randn(2, 300, 6, generator=generator, dtype=torch.float64)
    return real, fake * 0.8 + 0.7


def test_kid_is_torch_fidelitys_where_a_subset_is_the_whole_set(features):
    from torch_fidelity.metric_kid import kid_features_to_metric

    real, fake = features
    theirs = kid_features_to_metric(fake, real, kid_subsets=1, kid_subset_size=300, verbose=False)
    ours = kid(real, fake, subsets=1, subset_size=300).value
    assert ours == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-9)


def test_precision_and_recall_are_torch_fidelitys(features):
    from torch_fidelity.metric_prc import prc_features_to_metric

    real, fake = features
    theirs = prc_features_to_metric(fake, real, verbose=False, prc_neighborhood=3, save_cpu_ram=False)
    ours = precision_recall(real, fake)
    assert (ours.precision, ours.recall) == pytest.approx((theirs["precision"], theirs["recall"]), abs=1e-6)


def test_the_inception_score_is_torch_fidelitys(features):
    from torch_fidelity.metric_isc import isc_features_to_metric

    logits = features[0] * 2
    theirs = isc_features_to_metric(logits, splits=1, shuffle=False)
    ours = inception_score(FeatureSet.of(logits), lambda x: x, splits=1)
    assert ours.value == pytest.approx(theirs["inception_score_mean"], rel=1e-6)
