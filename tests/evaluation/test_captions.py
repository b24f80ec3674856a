"""CLIP score, retrieval and the intervals they are decided by."""

from __future__ import annotations

import pytest
import torch

from gigagan_core.errors import GigaganError
from gigagan_core.evaluation.bootstrap import bootstrap_mean, wilson
from gigagan_core.evaluation.clip_score import clip_score
from gigagan_core.evaluation.retrieval import caption_recall


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def names(count: int) -> list[str]:
    return [f"drawing {number}" for number in range(count)]


def test_right_captions_score_above_shuffled_ones_where_images_follow_them():
    texts = normal(60, 16, seed=0)
    found = clip_score(texts + 0.5 * normal(60, 16, seed=1), texts, names(60))
    assert found.score > 0.8
    assert abs(found.shuffled) < 0.1
    assert found.difference == pytest.approx(found.score - found.shuffled)
    assert found.interval.low > 0.5
    assert found.interval.low < found.difference < found.interval.high


def test_the_interval_holds_zero_where_images_ignore_their_captions():
    found = clip_score(normal(200, 16, seed=2), normal(200, 16, seed=3), names(200))
    assert not found.interval.excludes(0.0)


def test_the_shuffled_score_is_the_mean_over_all_mismatched_pairs():
    images, texts = normal(7, 5, seed=4), normal(7, 5, seed=5)
    captions = ["a", "b", "a", "c", "d", "b", "e"]
    texts[2], texts[5] = texts[0], texts[1]
    cosines = torch.nn.functional.normalize(images, dim=1) @ torch.nn.functional.normalize(texts, dim=1).T
    by_hand = [
        sum(cosines[i, j] for j in range(7) if captions[j] != captions[i])
        / sum(captions[j] != captions[i] for j in range(7))
        for i in range(7)
    ]
    found = clip_score(images, texts, captions)
    assert found.shuffled == pytest.approx(float(sum(by_hand) / 7), abs=1e-12)
    assert found.score == pytest.approx(float(cosines.diagonal().mean()), abs=1e-12)


def test_scores_depend_neither_on_lengths_nor_on_order():
    images, texts = normal(30, 8, seed=6), normal(30, 8, seed=7)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(8))
    found = clip_score(images, texts, names(30))
    other = clip_score(images[order] * 9, texts[order] * 0.1, [names(30)[i] for i in order])
    assert other.score == pytest.approx(found.score, abs=1e-12)
    assert other.shuffled == pytest.approx(found.shuffled, abs=1e-12)


def test_bad_pairs_are_named():
    with pytest.raises(GigaganError, match="2 images, 3 caption features"):
        clip_score(normal(2, 4, seed=0), normal(3, 4, seed=0), names(3))
    with pytest.raises(GigaganError, match="all captions are equal"):
        clip_score(normal(3, 4, seed=0), normal(3, 4, seed=0), ["same"] * 3)
    broken = normal(3, 4, seed=0)
    broken[1] = float("inf")
    with pytest.raises(GigaganError, match="first: image 1"):
        clip_score(broken, normal(3, 4, seed=0), names(3))
    with pytest.raises(GigaganError, match="do not pair"):
        caption_recall(normal(2, 4, seed=0), normal(3, 4, seed=0), names(3))


def test_the_bootstrap_covers_the_true_mean_about_as_often_as_it_says():
    covered = sum(
        not bootstrap_mean(normal(40, seed=seed), resamples=400, seed=seed).excludes(0.0)
        for seed in range(120)
    )
    assert 0.88 <= covered / 120 <= 0.99


def test_the_bootstrap_is_a_function_of_its_seed():
    values = normal(50, seed=0)
    first = bootstrap_mean(values, resamples=300, seed=1)
    assert first == bootstrap_mean(values, resamples=300, seed=1)
    assert first.low != bootstrap_mean(values, resamples=300, seed=2).low


def test_drawing_groups_widens_the_interval_where_their_members_are_alike():
    values = normal(20, seed=3).repeat_interleave(10)
    groups = torch.arange(20).repeat_interleave(10)
    alone = bootstrap_mean(values, resamples=1000, seed=0)
    grouped = bootstrap_mean(values, resamples=1000, seed=0, groups=groups)
    assert grouped.high - grouped.low > 2 * (alone.high - alone.low)
    assert "20 groups" in grouped.method


def test_wilson_gives_the_textbook_interval():
    found = wilson(8, 10)
    assert (found.low, found.high) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson(0, 10).low == 0.0
    assert wilson(0, 10).high > 0.2
    assert wilson(80, 100, independent=10).low == pytest.approx(found.low)


def test_recall_counts_the_own_caption_among_the_nearest():
    # caption j sits at angle j; image i at angle i + 0.6: the own caption is second, the next one first
    angle = torch.arange(6, dtype=torch.float64) * 0.2
    texts = torch.stack([angle.cos(), angle.sin()], dim=1)
    shifted = angle + 0.12
    images = torch.stack([shifted.cos(), shifted.sin()], dim=1)
    first, second = (caption_recall(images, texts, names(6), k=k) for k in (1, 2))
    assert first.ranks.tolist() == [2, 2, 2, 2, 2, 1]
    assert first.recall == pytest.approx(1 / 6)
    assert second.recall == 1.0
    assert second.chance == pytest.approx(2 / 6)


def test_equal_captions_are_one_candidate_and_a_tie_counts_against_the_image():
    texts = normal(4, 3, seed=9)
    texts[2] = texts[0]
    found = caption_recall(texts, texts, ["a", "b", "a", "c"], k=1)
    assert (found.distinct, found.recall) == (3, 1.0)
    blind = caption_recall(torch.ones(5, 3), torch.ones(5, 3), names(5), k=4)
    assert blind.recall == 0.0


def test_images_that_ignore_their_captions_are_retrieved_by_chance():
    found = caption_recall(normal(500, 12, seed=10), normal(500, 12, seed=11), names(500), k=10)
    assert not found.interval.excludes(found.chance)
