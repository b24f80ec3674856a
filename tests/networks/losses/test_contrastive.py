"""CLIP contrastive loss: its value, gathered negatives, duplicates."""

import functools
import math

import pytest
import torch
import torch.nn.functional as F

from gigagan_core.losses.contrastive import clip_contrastive_loss


def embeds(size=5, seed=0, dtype=torch.float64):
    return torch.randn(size, 7, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_value_equals_the_written_out_formula():
    images, texts = embeds(), embeds(seed=1)
    wanted = 0.0
    for n in range(5):
        scores = [math.exp(F.cosine_similarity(images[n], t, dim=0).item() / 0.1) for t in texts]
        wanted -= math.log(scores[n] / sum(scores)) / 5
    assert clip_contrastive_loss(images, texts, temperature=0.1).item() == pytest.approx(wanted, rel=1e-9)


def test_gradients_equal_finite_differences():
    texts, ids = embeds(seed=1), torch.tensor([0, 1, 2, 0, 3])
    check = functools.partial(clip_contrastive_loss, text_embeds=texts, ids=ids, temperature=0.5)
    assert torch.autograd.gradcheck(check, (embeds().requires_grad_(),))
    both = functools.partial(check, symmetric=True)
    assert torch.autograd.gradcheck(both, (embeds().requires_grad_(),))


def test_two_workers_with_gathered_negatives_average_to_one_with_all():
    images, texts, ids = embeds(6), embeds(6, seed=1), torch.tensor([0, 1, 2, 0, 3, 1])
    whole = clip_contrastive_loss(images, texts, ids=ids, symmetric=True)
    halves = []
    for mine, theirs in ((slice(0, 3), slice(3, 6)), (slice(3, 6), slice(0, 3))):
        halves.append(
            clip_contrastive_loss(
                images[mine],
                texts[mine],
                ids=ids[mine],
                other_text_embeds=texts[theirs],
                other_image_embeds=images[theirs],
                other_ids=ids[theirs],
                symmetric=True,
            )
        )
    torch.testing.assert_close(sum(halves) / 2, whole)


def test_a_caption_equal_to_ones_own_is_no_negative():
    images, texts = embeds(3), embeds(3, seed=1)
    texts[2] = texts[0]
    found = clip_contrastive_loss(images[:1].repeat(3, 1), texts, ids=torch.tensor([0, 1, 0]))
    kept = clip_contrastive_loss(images[:1].repeat(2, 1), texts[:2])
    scores = F.cosine_similarity(images[:1], texts[:2]) / 0.07
    first = -scores.log_softmax(dim=0)[0]
    middle = -torch.stack([scores[1], scores[0], scores[0]]).log_softmax(dim=0)[0]
    torch.testing.assert_close(found, (first + middle + first) / 3)
    assert torch.isfinite(kept)


def test_a_batch_of_one_caption_only_contributes_zero():
    loss = clip_contrastive_loss(embeds(), embeds(seed=1), ids=torch.zeros(5, dtype=torch.int64))
    assert loss.item() == pytest.approx(0.0, abs=1e-12)


def test_the_right_caption_is_rewarded():
    texts = embeds(seed=1)
    right, wrong = clip_contrastive_loss(texts, texts), clip_contrastive_loss(texts.roll(1, 0), texts)
    assert right < 0.1 < wrong


def test_bf16_embeddings_are_compared_in_fp32_and_float64_is_kept():
    images, texts = embeds().bfloat16(), embeds(seed=1).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        rough = clip_contrastive_loss(images, texts)
    exact = clip_contrastive_loss(images.double(), texts.double())
    assert rough.dtype == torch.float32
    assert exact.dtype == torch.float64
    torch.testing.assert_close(rough.double(), exact, rtol=1e-5, atol=1e-5)


def test_ids_must_be_known_for_both_batches_or_for_none():
    with pytest.raises(ValueError, match="together"):
        clip_contrastive_loss(embeds(), embeds(), ids=torch.arange(5), other_text_embeds=embeds(2))
