"""Moments, the Frechet distance, and precision and recall: against known values and other programs."""

from __future__ import annotations

import itertools

import pytest
import torch

from gigagan_core.errors import GigaganError
from gigagan_core.evaluation.feature_set import FeatureSet
from gigagan_core.evaluation.frechet import FrechetDistance, frechet_distance
from gigagan_core.evaluation.moments import Moments
from gigagan_core.evaluation.names import PUBLISHED_INCEPTION, extractor_name, metric_name
from gigagan_core.evaluation.precision_recall import precision_recall

CLEAN_FID_WARNS = pytest.mark.filterwarnings("ignore:The `disp` argument:DeprecationWarning")


def features(count: int, dimensions: int, seed: int, scale: float = 1.0, shift: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dimensions, dimensions, generator=generator, dtype=torch.float64)
    values = torch.randn(count, dimensions, generator=generator, dtype=torch.float64)
    return values @ mixing * scale + shift


def gaussian(mean: torch.Tensor, covariance: torch.Tensor, count: int = 10_000) -> Moments:
    return Moments(count, mean.to(torch.float64), covariance.to(torch.float64) * (count - 1))


def test_the_distance_of_commuting_gaussians_is_the_analytic_one():
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(24, 24, generator=generator, dtype=torch.float64)).Q
    first, second = torch.rand(2, 24, generator=generator, dtype=torch.float64) + 0.5
    mean_1, mean_2 = torch.randn(2, 24, generator=generator, dtype=torch.float64)
    found = frechet_distance(
        gaussian(mean_1, basis * first @ basis.T), gaussian(mean_2, basis * second @ basis.T)
    )
    known_mean = (mean_1 - mean_2).square().sum().item()
    known_covariance = (first.sqrt() - second.sqrt()).square().sum().item()
    assert found.mean_term == pytest.approx(known_mean, abs=1e-8)
    assert found.covariance_term == pytest.approx(known_covariance, abs=1e-8)
    assert found.distance == pytest.approx(known_mean + known_covariance, abs=1e-8)


def test_the_distance_of_gaussians_that_do_not_commute_is_the_analytic_one():
    # 2 x 2: tr (S1 S2)^(1/2) = sqrt(tr(S1 S2) + 2 sqrt(det(S1) det(S2)))
    first = torch.tensor([[2.0, 0.3], [0.3, 1.0]], dtype=torch.float64)
    second = torch.tensor([[1.0, -0.8], [-0.8, 3.0]], dtype=torch.float64)
    root_trace = ((first @ second).trace() + 2 * (first.det() * second.det()).sqrt()).sqrt()
    known = (first.trace() + second.trace() - 2 * root_trace).item()
    zero = torch.zeros(2)
    assert frechet_distance(gaussian(zero, first), gaussian(zero, second)).distance == pytest.approx(
        known, abs=1e-8
    )


@CLEAN_FID_WARNS
def test_the_distance_equals_clean_fids_on_the_same_features():
    from cleanfid.fid import fid_from_feats

    first, second = features(400, 48, seed=1), features(300, 48, seed=2, scale=0.7, shift=0.4)
    ours = frechet_distance(Moments.of(first), Moments.of(second))
    assert ours.distance == pytest.approx(fid_from_feats(first.numpy(), second.numpy()), rel=1e-5)
    assert ours.caution is None
    assert ours.null_directions == (0, 0)


@CLEAN_FID_WARNS
def test_with_fewer_images_than_dimensions_it_stays_near_clean_fid_and_says_so():
    from cleanfid.fid import fid_from_feats

    first, second = features(30, 64, seed=3), features(40, 64, seed=4)
    a, b = Moments.of(first), Moments.of(second)
    ours = frechet_distance(a, b)
    trace = float(a.covariance.trace() + b.covariance.trace())
    assert abs(ours.distance - fid_from_feats(first.numpy(), second.numpy())) < 1e-3 * trace
    assert ours.null_directions == (64 - 29, 64 - 39)
    assert "fewer images (30)" in ours.caution


def test_moments_merge_in_any_order_to_the_moments_of_the_whole():
    whole = features(97, 12, seed=5, shift=1e3)
    pieces = [Moments.of(piece) for piece in whole.split([1, 40, 7, 49])]
    expected = Moments.of(whole)
    for order in itertools.permutations(pieces):
        merged = order[0].merge(order[1]).merge(order[2].merge(order[3]))
        assert merged.count == 97
        torch.testing.assert_close(merged.mean, expected.mean, rtol=1e-12, atol=0)
        torch.testing.assert_close(merged.covariance, expected.covariance, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(expected.covariance, torch.cov(whole.T), rtol=1e-9, atol=1e-9)


def test_neither_the_order_of_images_nor_of_the_sets_changes_the_distance():
    first, second = features(80, 10, seed=6), features(90, 10, seed=7)
    shuffled = first[torch.randperm(80, generator=torch.Generator().manual_seed(0))]
    distance = frechet_distance(Moments.of(first), Moments.of(second)).distance
    assert frechet_distance(Moments.of(shuffled), Moments.of(second)).distance == pytest.approx(
        distance, rel=1e-10
    )
    assert frechet_distance(Moments.of(second), Moments.of(first)).distance == pytest.approx(
        distance, rel=1e-10
    )


def test_a_set_has_no_distance_to_itself_and_a_single_repeated_image_has_one():
    real = features(60, 8, seed=8)
    moments = Moments.of(real)
    assert frechet_distance(moments, moments).distance == pytest.approx(0, abs=1e-8 * float(real.var() * 8))
    repeated = frechet_distance(moments, Moments.of(real.mean(dim=0).expand(60, -1)))
    assert repeated.distance == pytest.approx(float(moments.covariance.trace()), rel=1e-9)
    # what rounding leaves of the mean counts as one direction
    assert "no variance in the first set and 7 in the second, of 8" in repeated.caution


def test_negative_mass_is_reported():
    covariance = torch.diag(torch.tensor([1.0, 1.0, -0.1]))
    found = frechet_distance(gaussian(torch.zeros(3), covariance), gaussian(torch.zeros(3), torch.eye(3)))
    assert found.negative_mass == pytest.approx(0.1 / 4.9)
    assert "negative eigenvalues" in found.caution


def test_imaginary_mass_of_the_product_is_reported():
    bent = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, -0.1]])
    found = frechet_distance(gaussian(torch.zeros(3), torch.eye(3)), gaussian(torch.zeros(3), bent))
    assert found.imaginary_mass == pytest.approx(0.1**0.5 / 4.9)
    alike = Moments.of(features(60, 8, seed=8))
    assert frechet_distance(alike, Moments.of(features(60, 8, seed=9))).imaginary_mass == 0
    # fewer images than dimensions: rounding alone, far below what would move a distance
    few = frechet_distance(Moments.of(features(20, 64, seed=3)), Moments.of(features(25, 64, seed=4)))
    assert 0 < few.imaginary_mass < 1e-5
    assert "singular" in few.caution


def test_an_imaginary_root_is_a_caution():
    found = FrechetDistance(1.0, 1.0, 0.0, 0.0, (0, 0), count=100, dimensions=3, imaginary_mass=0.01)
    assert "imaginary by 1.0e-02" in found.caution


def test_nan_features_different_dimensions_and_a_single_image_are_named():
    broken = features(5, 4, seed=9)
    broken[3, 2] = float("nan")
    with pytest.raises(GigaganError, match=r"generated: 1 of 5 images have NaN .*first: image 3"):
        Moments.of(broken, "generated")
    pieces = tuple(each.float().numpy() for each in (features(10, 4, seed=0), broken))
    with pytest.raises(GigaganError, match=r"first: image 13"):
        FeatureSet("generated", pieces).moments  # noqa: B018
    with pytest.raises(GigaganError, match="4 and of 5 dimensions"):
        frechet_distance(Moments.of(features(9, 4, seed=0)), Moments.of(features(9, 5, seed=0)))
    with pytest.raises(GigaganError, match="at least 2 images"):
        frechet_distance(Moments.of(features(1, 4, seed=0)), Moments.of(features(9, 4, seed=0)))
    with pytest.raises(GigaganError, match="N >= 1"):
        Moments.of(torch.zeros(0, 4))


def test_precision_and_recall_have_their_known_values_on_toy_sets():
    line = torch.arange(10, dtype=torch.float32)[:, None]
    assert precision_recall(line, line, k=1).precision == 1.0
    assert precision_recall(line, line, k=1).recall == 1.0
    far = precision_recall(line, line + 100, k=1)
    assert (far.precision, far.recall) == (0.0, 0.0)
    # half the modes: everything generated is real, half of the real is missed (balls of radius 1 reach 5)
    half = precision_recall(line, line[:5], k=1)
    assert (half.precision, half.recall) == (1.0, 0.6)
    # one image, repeated: on the manifold, and covering itself alone
    collapsed = precision_recall(line, line[:1].expand(10, 1), k=3)
    assert (collapsed.precision, collapsed.recall) == (1.0, 0.1)


def test_precision_and_recall_do_not_depend_on_order_and_swap_with_the_sets():
    real, fake = features(70, 6, seed=10), features(50, 6, seed=11, scale=0.9)
    found = precision_recall(real, fake)
    swapped = precision_recall(fake.flip(0), real.flip(0))
    assert (found.precision, found.recall) == (swapped.recall, swapped.precision)
    assert 0 < found.precision < 1


def test_too_few_images_for_a_neighbourhood_are_named():
    with pytest.raises(GigaganError, match="at least 4 generated images, there are 3"):
        precision_recall(features(9, 4, seed=0), features(3, 4, seed=0), k=3)


def test_a_name_carries_extractor_resolution_and_count():
    assert (
        metric_name("fd", extractor="openmoji-judge", resolution=32, count=370) == "fd_openmoji-judge_32_370"
    )
    sums = {"sha256": sorted(PUBLISHED_INCEPTION)[0]}
    named = metric_name("fid", extractor="inception", resolution=256, count=30_000, **sums)
    assert named == "fid_inception_256_30k"
    with pytest.raises(ValueError, match="Inception"):
        metric_name("fid", extractor="openmoji-judge", resolution=32, count=370)
    assert extractor_name("ViT-B-32 (laion_2b)") == "ViT-B-32-laion-2b"
    with pytest.raises(ValueError, match="letters"):
        metric_name("recall@10", extractor="openmoji-judge", resolution=32, count=370)
