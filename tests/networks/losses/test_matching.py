"""Matching-aware loss: which terms a caption enters, duplicates, and batches with no pair."""

import pytest
import torch

from gigagan_core.losses.adversarial import logistic_terms
from gigagan_core.losses.matching import caption_ids, matching_loss, valid_pairs
from gigagan_core.models.pyramid import image_pyramid
from gigagan_core.models.randomness import keyed_derangement

SIZE = 6


@pytest.fixture
def pyramid():
    images = torch.randn(SIZE, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return image_pyramid(images, (16, 8, 4))


def replaced(text, other, k):
    """`text` with caption k taken from `other`."""
    parts = [part.clone() for part in text]
    for part, source in zip(parts, other):
        part[k] = source[k]
    return type(text)(*parts)


@pytest.mark.parametrize("k", [0, 3])
def test_a_caption_enters_its_own_term_and_those_of_the_samples_it_is_lent_to(
    k, make_discriminator, make_text, pyramid
):
    network = make_discriminator()
    partner = keyed_derangement(0, "match", torch.arange(SIZE))
    features = network.features(pyramid)

    def terms(text):
        t_D = network.encode(text)
        matched = logistic_terms(network.predict(features, t_D), -1.0)
        return matched, logistic_terms(network.predict(features, t_D[partner]), 1.0)

    text = make_text(SIZE)
    before = terms(text)
    after = terms(replaced(text, make_text(SIZE, seed=7), k))
    changed_matched, changed_mismatched = (a != b for a, b in zip(after, before))
    position = torch.arange(SIZE)
    assert torch.equal(changed_matched, position == k)
    assert torch.equal(changed_mismatched, partner == k)


def test_pairs_of_equal_captions_are_masked(make_discriminator, make_text, pyramid):
    network = make_discriminator()
    ids = caption_ids(["a cat", "a dog", "a cat", "a cat", "a bird", "a cow"])
    partner = torch.tensor([2, 0, 3, 1, 5, 4])
    valid = valid_pairs(ids, partner)
    assert valid.tolist() == [False, True, False, True, True, True]
    features, t_D = network.features(pyramid), network.encode(make_text(SIZE))
    predictions = network.predict(features, t_D[partner])
    found = matching_loss([predictions], valid)
    terms = logistic_terms(predictions, 1.0)
    torch.testing.assert_close(found.loss, terms[valid].sum() / SIZE)
    assert found.valid == 4


def test_a_batch_without_a_valid_pair_contributes_zero_and_is_counted(make_discriminator, make_text, pyramid):
    network = make_discriminator()
    ids = caption_ids(["the same"] * SIZE)
    partner = keyed_derangement(0, "match", torch.arange(SIZE))
    t_D = network.encode(make_text(SIZE))
    found = matching_loss(
        [network.predict(network.features(pyramid), t_D[partner])], valid_pairs(ids, partner)
    )
    assert found.loss == 0
    assert found.valid == 0
    found.loss.backward()
    assert all(p.grad is None or not p.grad.any() for p in network.parameters())


def test_a_masked_infinity_stays_masked(make_discriminator, make_text, pyramid):
    network = make_discriminator()
    predictions = network(pyramid, make_text(SIZE))
    for prediction in predictions:
        prediction.logits.data[0] = float("inf")
    valid = torch.tensor([False] + [True] * (SIZE - 1))
    assert torch.isfinite(matching_loss([predictions], valid).loss)


def test_real_and_generated_images_both_count(make_discriminator, make_text, pyramid):
    network = make_discriminator()
    predictions, valid = network(pyramid, make_text(SIZE)), torch.ones(SIZE, dtype=torch.bool)
    once, twice = matching_loss([predictions], valid), matching_loss([predictions, predictions], valid)
    torch.testing.assert_close(twice.loss, 2 * once.loss)


def test_halves_of_a_batch_average_to_the_whole(make_discriminator, make_text, pyramid):
    network = make_discriminator(torch.float64)
    pyramid = [image.double() for image in pyramid]
    text = make_text(SIZE, dtype=torch.float64)
    ids = caption_ids(["x", "x", "x", "y", "z", "w"])
    partner = keyed_derangement(0, "match", torch.arange(SIZE), block=3)

    def loss(rows):
        local = partner[rows] - rows[0]
        part = network([image[rows] for image in pyramid], text.index(rows).index(local))
        return matching_loss([part], valid_pairs(ids[rows], local), (0.3, 0.2, 0.1), 0.05).loss

    whole = loss(torch.arange(SIZE))
    halves = (loss(torch.arange(3)) + loss(torch.arange(3, 6))) / 2
    torch.testing.assert_close(halves, whole, rtol=1e-12, atol=1e-12)


def test_caption_ids_are_equal_exactly_where_captions_are_whatever_they_hold():
    captions = ["<script>", "\x1b[31mred", "", "日本", "\udcff", "<script>"]
    ids = caption_ids(captions)
    assert ids.dtype == torch.int64
    assert len(set(ids.tolist())) == 5
    assert ids[0] == ids[-1]


def test_gradients_equal_finite_differences():
    from gigagan_core.models.discriminator import Prediction

    valid = torch.tensor([True, False, True])
    logits = torch.randn(3, 1, 2, 2, dtype=torch.float64, requires_grad=True)
    check = lambda x: matching_loss([[Prediction(0, 0, True, x)]], valid).loss  # noqa: E731
    assert torch.autograd.gradcheck(check, (logits,))
