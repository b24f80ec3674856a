"""Measures on features: against their published formulas written out anew, other programs, and known values."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import ndimage

from gigagan_core.assets.catalogue import CATALOGUE
from gigagan_core.errors import GigaganError
from gigagan_core.evaluation.feature_set import FeatureSet, MomentsAccumulator, SampleAccumulator
from gigagan_core.evaluation.figures import Figure, Naming
from gigagan_core.evaluation.frechet import Reference, frechet_distance
from gigagan_core.evaluation.frechet_error import (
    difference_interval,
    distance_interval,
    extrapolate,
    influences,
)
from gigagan_core.evaluation.inception_score import InceptionScoreAccumulator, inception_score
from gigagan_core.evaluation.kernel_distances import cmmd, kid
from gigagan_core.evaluation.moments import Moments
from gigagan_core.evaluation.precision_recall import manifolds
from gigagan_core.evaluation.set_metrics import MeasureOptions, SetMeasures
from gigagan_core.evaluation.similarity import ssim


def normal(count: int, dimensions: int, seed: int, scale: float = 1.0, shift: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, dimensions, generator=generator) * scale + shift


REAL, FAKE = normal(90, 12, 1), normal(70, 12, 2, 0.8, 0.5)


# ---- KID and CMMD ----------------------------------------------------------------------------------


def test_kid_equals_clean_fids_where_a_subset_is_the_whole_set():
    from cleanfid.fid import kernel_distance

    real = REAL[:70]
    theirs = kernel_distance(real.double().numpy(), FAKE.double().numpy(), num_subsets=1)
    ours = kid(real, FAKE, subsets=3)
    assert ours.value == pytest.approx(theirs, rel=1e-9)
    assert (ours.spread, ours.subsets) == (None, 1)  # not 0: nothing is known of how far it would move
    assert ours.subset_size == 70


def test_kid_is_the_unbiased_estimate_written_out_pair_by_pair():
    x, y = REAL[:9].double().numpy(), FAKE[:9].double().numpy()

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return (float(a @ b) / 12 + 1) ** 3

    pairs = [(i, j) for i in range(9) for j in range(9)]
    within = sum(kernel(z[i], z[j]) for z in (x, y) for i, j in pairs if i != j) / (9 * 8)
    between = sum(kernel(x[i], y[j]) for i, j in pairs) / 81
    assert kid(REAL[:9], FAKE[:9], subsets=1).value == pytest.approx(within - 2 * between, rel=1e-12)


def test_kids_subsets_come_from_the_seed_and_it_is_unbiased():
    first, again, other = (kid(REAL, FAKE, subset_size=20, seed=seed) for seed in (3, 3, 4))
    assert first == again
    assert first.value != other.value
    assert first.spread > 0
    assert abs(kid(normal(400, 6, 5), normal(400, 6, 6), subset_size=100).value) < 0.05


def figure_of(metric: str, real: torch.Tensor, fake: torch.Tensor, **extractor: object) -> Figure:
    known = {"name": "ViT-B-32", "sha256": "0" * 64, "is_clip": True, "published": False, **extractor}
    sets = FeatureSet.of(real, "real images"), FeatureSet.of(fake, "generated images")
    (figure,) = SetMeasures(
        SimpleNamespace(**known), *sets, Naming(256, len(fake)), MeasureOptions(kid_subset_size=80)
    ).figures([metric])
    return figure


def test_kid_has_no_spread_where_every_subset_is_all_images_and_smaller_subsets_are_said():
    one_set = figure_of("kid", REAL[:70], FAKE)
    assert one_set.spread is None
    assert one_set.cautions == (
        "subsets of 70 images, not of 80",
        "no spread, for every subset would be all of the images",
    )
    lowered = figure_of("kid", REAL, FAKE)
    assert lowered.spread > 0
    assert lowered.cautions == ("subsets of 70 images, not of 80",)
    drawn = figure_of("kid", REAL, normal(90, 12, 3))
    assert drawn.spread > 0
    assert drawn.cautions == ()
    every = figure_of("kid", REAL[:80], normal(80, 12, 3))
    assert every.cautions == ("no spread, for every subset would be all of the images",)


def test_cmmd_is_the_published_one_by_the_published_weights_alone():
    published = CATALOGUE["clip-vit-l14-336"].sha256
    for name, sha256, caution in (
        ("ViT-L-14-336-quickgelu", published, None),
        ("ViT-L-14-336-quickgelu", "12" * 32, "sha256 121212121212"),
        ("ViT-L-14-336-quickgelu-12121212", "12" * 32, "sha256 121212121212"),
        ("ViT-L-14-336-quickgelu-truncated", published, "this is ViT-L-14-336-quickgelu-truncated"),
        ("ViT-L-14-336-quickgelu-12121212-truncated", "12" * 32, "-truncated"),
        ("ViT-B-32", published, "this is ViT-B-32"),
    ):
        said = figure_of("cmmd", REAL, FAKE, name=name, sha256=sha256).cautions
        assert len(said) == (caution is not None)
        assert all(caution in each for each in said)


def test_cmmd_is_the_released_formula_and_0_for_equal_sets():
    x, y = (
        z.double().numpy() / np.linalg.norm(z.double().numpy(), axis=1, keepdims=True) for z in (REAL, FAKE)
    )

    def mean_kernel(a: np.ndarray, b: np.ndarray) -> float:
        squares = ((a[:, None] - b[None]) ** 2).sum(-1)
        return float(np.exp(-squares / (2 * 10**2)).mean())

    known = 1000 * (mean_kernel(x, x) + mean_kernel(y, y) - 2 * mean_kernel(x, y))
    assert cmmd(REAL, FAKE) == pytest.approx(known, rel=1e-8)
    assert cmmd(REAL, REAL.flip(0)) == pytest.approx(0, abs=1e-9)


# ---- manifolds -------------------------------------------------------------------------------------


def written_out(real: np.ndarray, fake: np.ndarray, k: int, density_k: int) -> tuple[float, ...]:
    def distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))

    def radius(a: np.ndarray, k: int) -> np.ndarray:
        return np.sort(distance(a, a), axis=1)[:, k]

    between = distance(real, fake)
    precision = (between <= radius(real, k)[:, None]).any(axis=0).mean()
    recall = (between <= radius(fake, k)[None]).any(axis=1).mean()
    inside = between < radius(real, density_k)[:, None]
    return precision, recall, inside.sum(axis=0).mean() / density_k, inside.any(axis=1).mean()


def test_precision_recall_density_and_coverage_are_the_published_formulas():
    fake = normal(70, 3, 2, 0.8, 0.9)
    real = normal(90, 3, 1)
    known = written_out(real.double().numpy(), fake.double().numpy(), 3, 5)
    assert all(0 < value < 1 for value in known[:2]), "a case where the figures say nothing tests nothing"
    found = manifolds(real, fake)
    assert (found.shares.precision, found.shares.recall) == pytest.approx(known[:2], abs=1e-12)
    assert (found.coverage.density, found.coverage.coverage) == pytest.approx(known[2:], abs=1e-12)


def test_copies_of_the_real_images_are_all_on_the_manifold_whatever_the_rounding():
    real = normal(300, 40, 8, scale=1e-3, shift=50.0)
    copies = manifolds(real, real.clone())
    assert copies.shares.precision == copies.shares.recall == copies.coverage.coverage == 1
    # each ball to the 5th neighbour holds strictly inside it the image itself and 4 more
    assert copies.coverage.density == 1


def test_a_collapsed_generator_has_precision_and_neither_recall_nor_coverage():
    real = normal(200, 5, 1)
    centre = real[:1].expand(50, -1) + normal(50, 5, 2, 1e-4)
    found = manifolds(real, centre)
    assert found.shares.precision == 1
    assert found.shares.recall <= 1 / 200, "no real image but the one that was copied"
    assert found.coverage.coverage < 0.1


# ---- Inception Score -------------------------------------------------------------------------------


def test_inception_score_is_exp_of_the_mean_divergence_in_each_split():
    logits = normal(50, 7, 3, 2.0).double()
    order = torch.randperm(50, generator=torch.Generator().manual_seed(4))
    scores = []
    for part in logits[order].softmax(1).split(5):
        mean = part.mean(0)
        scores.append(math.exp((part * (part.log() - mean.log())).sum(1).mean()))
    found = inception_score(FeatureSet.of(logits), lambda x: x, seed=4)
    assert found.value == pytest.approx(np.mean(scores), rel=1e-6)
    assert found.spread == pytest.approx(np.std(scores), rel=1e-5)


def test_inception_score_has_its_known_ends():
    sure = torch.eye(10).repeat(10, 1) * 1000
    assert inception_score(FeatureSet.of(sure), lambda x: x, splits=1).value == pytest.approx(10)
    assert inception_score(FeatureSet.of(torch.zeros(100, 10)), lambda x: x).value == pytest.approx(1)
    with pytest.raises(GigaganError, match="10 splits"):
        inception_score(FeatureSet.of(torch.zeros(9, 10)), lambda x: x)


# ---- accumulators ----------------------------------------------------------------------------------


def test_accumulators_merge_in_any_order_and_batches_do_not_matter():
    order = torch.randperm(90, generator=torch.Generator().manual_seed(0))
    whole = Moments.of(REAL)
    parts = [MomentsAccumulator() for _ in range(3)]
    for place, piece in enumerate(REAL[order].split(11)):
        parts[place % 3].add(piece)
    total = parts[2]
    total.merge(parts[0])
    total.merge(MomentsAccumulator())
    total.merge(parts[1])
    assert total.count == 90
    torch.testing.assert_close(total.moments.covariance, whole.covariance, rtol=0, atol=1e-12)
    torch.testing.assert_close(total.moments.mean, whole.mean, rtol=0, atol=1e-12)

    scores = [InceptionScoreAccumulator(2) for _ in range(2)]
    split = torch.arange(90) % 2
    for rows in torch.arange(90)[order].split(13):
        scores[int(rows[0]) % 2].add(REAL[rows], split[rows])
    at_once = InceptionScoreAccumulator(2)
    at_once.add(REAL, split)
    scores[0].merge(scores[1])
    assert scores[0].result().value == pytest.approx(at_once.result().value, rel=1e-12)


def test_kept_samples_are_bounded_and_say_so():
    kept, more = SampleAccumulator(limit=50), SampleAccumulator()
    kept.add(REAL[:40])
    more.add(REAL[40:])
    kept.merge(more)
    assert (kept.count, kept.kept, kept.nbytes) == (90, 50, 50 * 12 * 4)
    assert torch.equal(kept.features("x").all(), REAL[:50])


# ---- how far to trust a Frechet distance -----------------------------------------------------------


def test_a_distance_does_not_depend_on_the_order_of_the_images_or_which_factor_is_taken():
    order = torch.randperm(90, generator=torch.Generator().manual_seed(0))
    plain = frechet_distance(Moments.of(REAL), Moments.of(FAKE)).distance
    assert frechet_distance(Moments.of(REAL[order]), Moments.of(FAKE)).distance == pytest.approx(
        plain, rel=1e-12
    )
    # a direction without variance in one set forces the eigenvalue path; the distance gains that variance
    flat = torch.cat([REAL, torch.zeros(90, 1)], dim=1)
    wide = torch.cat([FAKE, torch.zeros(70, 1)], dim=1)
    found = frechet_distance(Moments.of(flat), Moments.of(wide))
    assert found.distance == pytest.approx(plain, rel=1e-9)
    assert found.null_directions == (1, 1)


def test_the_influence_of_an_image_is_the_change_it_makes():
    real = Moments.of(REAL)
    effects_of_real, effects = influences(FeatureSet.of(REAL), FeatureSet.of(FAKE))
    plain = frechet_distance(real, Moments.of(FAKE)).distance
    torch.testing.assert_close(effects_of_real, influences(FeatureSet.of(FAKE), FeatureSet.of(REAL))[1])
    # add a little weight to one image: d distance / d weight -> its influence
    weight = 1e-5
    for row in (0, 7, 33):
        weights = torch.full((70,), (1 - weight) / 70, dtype=torch.float64)
        weights[row] += weight
        x = FAKE.double()
        mean = weights @ x
        covariance = (weights[:, None] * (x - mean)).T @ (x - mean) * 70 / 69
        moved = frechet_distance(real, Moments(70, mean, covariance * 69)).distance
        assert (moved - plain) / weight == pytest.approx(float(effects[row]), rel=0.03, abs=0.02)


def test_an_interval_is_as_wide_as_the_distance_scatters():
    distances, widths = [], []
    for seed in range(200):
        real = FeatureSet.of(normal(400, 4, 1000 + seed))
        fake = FeatureSet.of(normal(400, 4, 2000 + seed, 1.3, 0.4))
        distance = frechet_distance(real.moments, fake.moments).distance
        distances.append(distance)
        if seed < 20:
            interval = distance_interval(real, fake, distance, resamples=500, seed=seed)
            assert interval.low < distance < interval.high
            widths.append((interval.high - interval.low) / 2 / 1.96)
    assert np.mean(widths) == pytest.approx(np.std(distances), rel=0.15)


def test_the_difference_of_paired_sets_has_an_interval_as_wide_as_it_scatters():
    """Two sets made of the same pictures, as two ways to enlarge them: either distance scatters more than what is
    between them."""
    differences, widths, unpaired = [], [], []
    for seed in range(200):
        pictures = normal(400, 4, 3000 + seed)
        real = FeatureSet.of(pictures)
        first, second = (
            FeatureSet.of(scale * pictures + shift + 0.1 * normal(400, 4, at + seed))
            for scale, shift, at in ((1.3, 0.4, 4000), (1.25, 0.38, 5000))
        )
        distances = [frechet_distance(real.moments, fake.moments).distance for fake in (first, second)]
        differences.append(distances[0] - distances[1])
        if seed < 20:
            found = difference_interval(real, first, second, differences[-1], resamples=500, seed=seed)
            assert found.low < differences[-1] < found.high
            widths.append((found.high - found.low) / 2 / 1.96)
            alone = distance_interval(real, first, distances[0], resamples=500, seed=seed)
            unpaired.append((alone.high - alone.low) / 2 / 1.96)
    assert np.mean(widths) == pytest.approx(np.std(differences), rel=0.15)
    assert np.mean(unpaired) > 2 * np.mean(widths)


def test_a_difference_of_sets_that_are_not_paired_is_refused():
    with pytest.raises(GigaganError, match="compared image by image, and there are 90, 70 and 70 images"):
        difference_interval(
            FeatureSet.of(REAL), FeatureSet.of(FAKE), FeatureSet.of(FAKE), 0.0, resamples=9, seed=0
        )


def test_an_interval_can_be_had_with_fewer_images_than_dimensions():
    """The images of a set span a plane; within it nothing changes when empty dimensions are added."""
    empty = torch.zeros(1, 8)
    turn = torch.linalg.qr(normal(20, 20, 9).double()).Q.float()
    plain = influences(FeatureSet.of(REAL), FeatureSet.of(FAKE))
    wide = [FeatureSet.of(torch.cat([x, empty.expand(len(x), -1)], dim=1) @ turn) for x in (REAL, FAKE)]
    for known, found in zip(plain, influences(*wide), strict=True):
        torch.testing.assert_close(found, known, rtol=1e-3, atol=1e-3)
    few = [FeatureSet.of(normal(30, 64, seed)) for seed in (1, 2)]
    interval = distance_interval(*few, 100.0, resamples=200, seed=0)
    assert 50 < interval.low < 100 < interval.high < 150
    assert distance_interval(*few, 0.0, resamples=200, seed=0).low == 0  # no distance is below it


@pytest.mark.parametrize("collapsed", ["real", "fake", "both"])
def test_an_interval_can_be_had_where_every_image_is_the_same(collapsed):
    """A generator that has collapsed is what an evaluation must be able to show."""
    same = FeatureSet.of(torch.full((40, 12), 0.3))
    real = same if collapsed in ("real", "both") else FeatureSet.of(REAL)
    fake = same if collapsed in ("fake", "both") else FeatureSet.of(FAKE)
    distance = frechet_distance(real.moments, fake.moments).distance
    interval = distance_interval(real, fake, distance, resamples=200, seed=0)
    assert interval.low <= distance <= interval.high
    assert (interval.high - interval.low > 0) == (collapsed != "both")


def test_fd_infinity_is_nearer_to_the_true_distance_than_fd():
    dimensions = 32
    real = FeatureSet.of(normal(20_000, dimensions, 1))
    fake = FeatureSet.of(normal(1000, dimensions, 2, 1.0, 0.1))
    reference = Reference(real.moments)
    true = dimensions * 0.1**2
    plain = reference.distance(fake.moments).distance
    found = extrapolate(reference, fake, seed=0)
    assert plain - true > 0.1
    assert abs(found.value - true) < 0.4 * (plain - true)
    assert found.slope > 0
    assert found.sizes[0] == 500
    assert found.sizes[-1] == 1000
    assert extrapolate(reference, fake, seed=0) == found


# ---- SSIM ------------------------------------------------------------------------------------------


def test_ssim_is_wangs_formula_and_1_for_equal_images(drawings):
    image = drawings(2, 40, 1)
    other = (
        image.int() + torch.randint(-30, 30, image.shape, generator=torch.Generator().manual_seed(0))
    ).clamp(0, 255)
    known = []
    for row in range(2):
        values = []
        for channel in range(3):
            x, y = (z[row, channel].double().numpy() for z in (image, other))

            def blur(z: np.ndarray) -> np.ndarray:
                return ndimage.gaussian_filter(z, 1.5, truncate=5 / 1.5, mode="constant")[5:-5, 5:-5]

            mx, my = blur(x), blur(y)
            vx, vy, vxy = blur(x * x) - mx**2, blur(y * y) - my**2, blur(x * y) - mx * my
            c1, c2 = 2.55**2, 7.65**2
            values.append(
                ((2 * mx * my + c1) * (2 * vxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))).mean()
            )
        known.append(np.mean(values))
    found = ssim(other.to(torch.uint8), image)
    np.testing.assert_allclose(found.numpy(), known, rtol=1e-9)
    assert ssim(image, image).tolist() == pytest.approx([1, 1])
    with pytest.raises(GigaganError, match="at least 11 pixels"):
        ssim(image[:, :, :8], image[:, :, :8])


@pytest.mark.parametrize("count", [20, 23, 25, 29])
def test_the_inception_score_cuts_sets_of_any_size_as_published(count):
    logits = normal(count, 7, 3, scale=2.0)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(4))
    chances = logits[order].double().softmax(dim=1)
    scores = []
    for split in range(10):
        part = chances[split * count // 10 : (split + 1) * count // 10]
        divergence = (part * (part.log() - part.mean(dim=0, keepdim=True).log())).sum(dim=1)
        scores.append(float(divergence.mean().exp()))
    found = inception_score(FeatureSet.of(logits), lambda features: features, seed=4)
    assert found.value == pytest.approx(np.mean(scores), rel=1e-6)
    assert found.spread == pytest.approx(np.std(scores), rel=1e-6)
