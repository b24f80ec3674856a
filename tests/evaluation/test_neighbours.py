"""Nearest neighbours: copies are found as copies, twins as twins, and honest models are not accused."""

from __future__ import annotations

import pytest
import torch

from gigagan_core.errors import GigaganError
from gigagan_core.evaluation.neighbours import memorisation, nearest, repetition

DRAWS = {"resamples": 200, "seed": 0}


def draw(count: int, seed: int, size: int = 6) -> torch.Tensor:
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed))


def test_the_nearest_is_the_nearest_and_a_copy_has_distance_zero():
    features, others = draw(1500, 0), draw(70, 1)
    others[7] = features[3]
    found = nearest(features, others)
    distances = torch.cdist(features.double(), others.double(), compute_mode="donot_use_mm_for_euclid_dist")
    assert torch.equal(found.index, distances.argmin(dim=1))
    torch.testing.assert_close(found.distance, distances.min(dim=1).values, rtol=1e-12, atol=1e-12)
    assert found.distance[3] == 0


def test_members_of_one_group_are_no_neighbours():
    features = torch.tensor([[0.0], [0.1], [5.0], [5.2]])
    groups = torch.tensor([0, 0, 1, 2])
    found = nearest(features, features, groups, groups)
    assert found.index.tolist() == [2, 2, 3, 2]
    assert found.distance.tolist() == pytest.approx([5.0, 4.9, 0.2, 0.2])
    with pytest.raises(GigaganError, match="all belong to its own group"):
        nearest(features, features, torch.zeros(4), torch.zeros(4))


def test_a_model_that_hands_out_its_training_images_is_told_from_one_that_learned():
    training, held_out = draw(300, 1), draw(200, 2)
    learned = memorisation(draw(200, 3), held_out, training, **DRAWS)
    copied = memorisation(training[:200] + 1e-4, held_out, training, **DRAWS)
    blurred = memorisation(5 + draw(200, 3), held_out, training, **DRAWS)
    assert learned.interval.low < 0.5 < learned.interval.high
    assert copied.closer == 1.0
    assert copied.interval.low > 0.5
    assert copied.generated.index.tolist() == list(range(200))
    assert blurred.closer < 0.01
    assert copied.positions.max() == 0  # no held-out image is nearer than a copy


def test_the_statistic_is_mann_whitneys():
    from scipy.stats import mannwhitneyu

    found = memorisation(0.8 * draw(90, 3), draw(120, 2), draw(300, 1), **DRAWS)
    known = mannwhitneyu(found.generated.distance, found.held_out.distance).statistic / (90 * 120)
    assert found.closer == pytest.approx(1 - known, abs=1e-12)


def test_a_collapsed_model_repeats_and_variants_of_one_drawing_do_not_count():
    real, groups = draw(300, 1), torch.arange(300) // 3
    fresh = repetition(draw(300, 2), real, groups)
    collapsed = repetition(draw(5, 2).repeat(60, 1) + 1e-3 * draw(300, 3), real, groups)
    variants = repetition(draw(100, 2).repeat_interleave(3, dim=0), real, groups)
    assert fresh.share < 0.05
    assert collapsed.share == 1.0
    assert variants.share < 0.05
    assert "100 independent" in fresh.interval.method


def test_equal_images_are_near_duplicates_where_real_ones_repeat_too():
    """1% of the real images have a twin, so the distance to be near is 0; a model of one image is nothing but twins."""
    real, groups = draw(300, 1), torch.arange(300)
    real[::50] = real[0]
    collapsed = repetition(draw(1, 2).repeat(300, 1), real, groups)
    assert collapsed.threshold == 0
    assert collapsed.share == 1.0
    assert repetition(draw(300, 3), real, groups).share == 0


def test_real_images_of_one_group_are_no_measure_for_twins():
    """Every real picture twice: by themselves they would make 0 the distance that counts as near."""
    real = draw(150, 1).repeat_interleave(2, dim=0)
    generated, apart, doubled = draw(300, 2), torch.arange(300), torch.arange(300) // 2
    assert repetition(generated, real, apart, real_groups=apart).threshold == 0
    assert repetition(generated, real, apart, real_groups=doubled).threshold > 0
