"""Contrastive training: what it learns, that it resumes bit for bit, and how retrieval is counted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gigagan_core.config.encoder import AugmentationSettings, EncoderSettings, TowerSettings, demo_encoder
from gigagan_core.encoders import tokenizer
from gigagan_core.encoders.recall import recall, recall_at
from gigagan_core.encoders.training import ContrastiveTraining, Vocabulary, _optimizer, augment, learning_rate

COLOURS = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "black": (0, 0, 0),
    "white": (255,) * 3,
}
TINY = EncoderSettings(
    image_size=16,
    patch_size=8,
    embed_dim=16,
    context_length=8,
    vision=TowerSettings(width=16, layers=1, heads=1),
    text=TowerSettings(width=16, layers=2, heads=2),
    total_images=640,
    batch_size=16,
    warmup_images=64,
    learning_rate=5e-3,
)


def drawings() -> tuple[torch.Tensor, list[str]]:
    """25 pictures of two coloured halves, named by their colours."""
    images, captions = [], []
    for left, left_rgb in COLOURS.items():
        for right, right_rgb in COLOURS.items():
            image = torch.empty(3, 16, 16, dtype=torch.uint8)
            image[:, :, :8] = torch.tensor(left_rgb, dtype=torch.uint8)[:, None, None]
            image[:, :, 8:] = torch.tensor(right_rgb, dtype=torch.uint8)[:, None, None]
            images.append(image)
            captions.append(f"{left} beside {right}")
    return torch.stack(images), captions


def start(settings: EncoderSettings = TINY) -> ContrastiveTraining:
    images, captions = drawings()
    return ContrastiveTraining(settings, images[5:], captions[5:], (images[:5], captions[:5]))


def train(training: ContrastiveTraining, until: int | None = None) -> ContrastiveTraining:
    while not training.finished and (until is None or training.images_seen < until):
        training.step()
    return training


def test_recall_counts_both_directions_and_holds_ties_against_the_pair() -> None:
    similarity = torch.tensor([[3.0, 1.0, 2.0], [0.0, 1.0, 2.0], [9.0, 0.0, 1.0]])
    # ranks of the diagonal by row 1, 2, 2 and by column 2, 2 (a tie with row 0), 3
    assert recall_at(similarity, 1) == pytest.approx((1 / 3 + 0) / 2)
    assert recall_at(similarity, 2) == pytest.approx((1 + 2 / 3) / 2)
    assert recall_at(similarity, 3) == 1
    blind = recall(torch.ones(30, 4), torch.ones(30, 4))
    assert (blind.r1, blind.r10, blind.count) == (0, 0, 30)
    assert blind.chance_r10 == pytest.approx(1 / 3)
    perfect = recall(torch.eye(12), torch.eye(12) * 3)
    assert (perfect.r1, perfect.r10) == (1, 1)


def test_it_learns_to_tell_drawings_apart() -> None:
    training = start(TINY.model_copy(update={"total_images": 1600}))
    first = training.step()["loss"]
    train(training, 1584)
    last = training.step()["loss"]
    assert training.finished
    assert last < 0.6 * first, (first, last)


def test_resumed_it_ends_with_the_same_weights_bit_for_bit(tmp_path: Path) -> None:
    whole = train(start())
    # 304 is in the middle of an epoch of 20 drawings, and of a batch across two epochs
    train(start(), 304).save(tmp_path / "checkpoint.pt", curves=[{"images": 304.0}])
    resumed = start()
    assert resumed.load(tmp_path / "checkpoint.pt") == {"curves": [{"images": 304.0}]}
    assert resumed.images_seen == 304
    train(resumed)
    theirs = resumed.trained().state_dict()
    for name, value in whole.trained().state_dict().items():
        assert torch.equal(value, theirs[name]), name
    assert not (tmp_path / "checkpoint.pt.partial").exists()


def test_another_seed_makes_another_encoder() -> None:
    one, other = (
        train(start(TINY.model_copy(update={"seed": seed})), 32).trained().visual.proj for seed in (0, 1)
    )
    assert not torch.allclose(one, other, atol=1e-2)


def test_every_epoch_shows_every_drawing_once_in_another_order() -> None:
    training = start()
    rows = training._rows(torch.arange(60)).view(3, 20)
    for epoch in rows:
        assert sorted(epoch.tolist()) == list(range(20))
    assert rows[0].tolist() != rows[1].tolist()
    in_pieces = [training._rows(torch.arange(first, first + 15)) for first in range(0, 60, 15)]
    assert torch.equal(torch.cat(in_pieces), rows.flatten())


def test_a_short_vocabulary_trains_as_the_full_one() -> None:
    training = train(start(), 160)
    full = start()
    captions = drawings()[1]
    tokens = tokenizer.tokenize(captions, 8)
    # the same training on the table of 49,408 rows
    full.model.token_embedding = torch.nn.Embedding.from_pretrained(
        full._full_embedding.clone(), freeze=False
    )
    full._tokens = tokens[5:]
    full.optimizer = _optimizer(full.model, TINY)
    train(full, 160)
    ours = training.trained().token_embedding.weight
    torch.testing.assert_close(ours, full.model.token_embedding.weight, atol=1e-6, rtol=1e-5)
    unused = torch.ones(len(ours), dtype=torch.bool)
    unused[Vocabulary(tokens).rows] = False
    assert torch.equal(ours[unused], full._full_embedding[unused])


def test_the_trained_model_equals_the_one_in_training() -> None:
    training = train(start(), 64)
    captions = drawings()[1]
    model = training.trained()
    tokens = tokenizer.tokenize(captions[:5], 8)
    torch.testing.assert_close(model.encode_text(tokens), training.model.encode_text(training._held_out[1]))


def test_equal_captions_are_no_negatives_of_each_other() -> None:
    images = drawings()[0]
    settings = TINY.model_copy(update={"augmentation": AugmentationSettings(shift=0, scale=0)})
    same = ContrastiveTraining(settings, images[:16], ["red"] * 16, (images[:2], ["red", "red"]))
    assert same.step()["loss"] == pytest.approx(0, abs=1e-6)


def test_augmentation_is_decided_by_seed_and_sample_alone() -> None:
    images = torch.rand(6, 3, 16, 16) * 2 - 1
    settings, indices = AugmentationSettings(), torch.arange(100, 106)
    moved = augment(images, settings, 0, indices)
    assert torch.equal(moved[2:4], augment(images[2:4], settings, 0, indices[2:4]))
    assert not torch.equal(moved, augment(images, settings, 1, indices))
    assert not torch.equal(moved, images)
    assert torch.equal(images, augment(images, AugmentationSettings(shift=0, scale=0), 0, indices))


def test_the_learning_rate_warms_up_and_comes_down() -> None:
    settings = EncoderSettings(learning_rate=1.0, warmup_images=100, total_images=1000)
    assert learning_rate(settings, 10) == pytest.approx(0.1, rel=1e-2)
    assert learning_rate(settings, 500) == pytest.approx(0.505)
    assert learning_rate(settings, 1000) == pytest.approx(0.01)


def test_the_demo_s_two_encoders_differ_in_role_seed_and_width() -> None:
    condition, judge = demo_encoder("condition"), demo_encoder("judge")
    assert (condition.role, judge.role) == ("condition", "judge")
    assert condition.seed != judge.seed
    assert condition.vision.width != judge.vision.width
    assert condition.text_width == condition.text.width != judge.text_width


@pytest.mark.parametrize(
    "wrong", [{"patch_size": 7}, {"vision": {"width": 100, "heads": 3}}, {"name": "a b"}, {"role": "both"}]
)
def test_settings_that_do_not_fit_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=r"patch_size|heads|pattern|role"):
        EncoderSettings(**wrong)
