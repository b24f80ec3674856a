"""Requests of every kind in one forward pass: each gets the picture that it would get alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from gigagan_core.errors import GigaganError
from gigagan_core.inference.pipeline import GigaGANPipeline
from gigagan_core.inference.recipes import Interpolation, Point, PromptMixing
from gigagan_core.inference.upsampling import TiledUpsampler
from gigagan_core.serving.jobs import PictureJob, UpsampleJob
from gigagan_core.serving.models import terms_of
from gigagan_core.serving.painting import check, enlarge, make_pictures
from tests.inference.conftest import (  # noqa: F401 (fixtures)
    _one_thread,
    encoder,
    encoder_folder,
    make_generator,
    make_upsampler,
)

DOG, CAT = Point(prompt="dog", seed=3), Point(prompt="cat", seed=4, index=2, truncation=0.5)
JOBS = [
    PictureJob(DOG),
    PictureJob(Interpolation(prompts=("dog", "cat"), rows=1, columns=1, shares=(0.3,), seed=3)),
    PictureJob(CAT),
    PictureJob(PromptMixing(first=(DOG,), second=(CAT,), layers=(2,))),
    PictureJob(Point(prompt="bird", prompt_truncation=0.2)),
]


@pytest.fixture
def pipe(encoder) -> GigaGANPipeline:  # noqa: F811
    return GigaGANPipeline(make_generator(), encoder, TiledUpsampler(make_upsampler(), encoder))


def apart(one: Image.Image, other: Image.Image) -> int:
    assert one.size == other.size
    return int(abs(np.asarray(one).astype(int) - np.asarray(other).astype(int)).max())


def alone(pipe: GigaGANPipeline, job: PictureJob) -> Image.Image:
    return make_pictures(pipe, [job], 1)[0].image


def test_pictures_of_every_kind_share_one_pass_and_are_what_they_are_alone(pipe, monkeypatch) -> None:
    expected = [alone(pipe, job) for job in JOBS]
    passes, synthesise = [], pipe.synthesise
    monkeypatch.setattr(pipe, "synthesise", lambda styles: passes.append(len(styles.w)) or synthesise(styles))
    made = make_pictures(pipe, JOBS, 16)
    assert passes == [5]
    assert [apart(one.image, other) for one, other in zip(made, expected)] == [0] * 5
    assert len({each.image.tobytes() for each in made}) == 5
    assert [each.batch.pictures for each in made if each.batch] == [5]
    make_pictures(pipe, JOBS, 2)
    assert passes == [5, 2, 2, 1]


def test_pictures_are_those_of_the_pipeline(pipe) -> None:
    made = make_pictures(pipe, JOBS, 16)
    point = pipe("cat", seed=4, index=2, truncation=0.5).images[0]
    assert apart(made[2].image, point) <= 1
    for place in (1, 3):
        assert apart(made[place].image, pipe.apply(JOBS[place].what).images[0]) <= 1


def test_a_blend_is_exact_at_its_ends(pipe) -> None:
    ends = [
        alone(pipe, PictureJob(Interpolation(prompts=("dog", "cat"), rows=1, columns=1, shares=(share,))))
        for share in (0.0, 1.0)
    ]
    pure = [alone(pipe, PictureJob(Point(prompt=prompt))) for prompt in ("dog", "cat")]
    assert [apart(*pair) for pair in zip(ends, pure)] == [0, 0]


def test_upsampled_and_small_ones_with_other_noise_share_a_batch(pipe) -> None:
    jobs = [
        PictureJob(DOG, upsample=True),
        PictureJob(CAT),
        PictureJob(CAT, upsample=True, noise=0.2),
        PictureJob(JOBS[1].what, upsample=True),
    ]
    made = make_pictures(pipe, jobs, 16)
    assert [each.image.size for each in made] == [(128, 128), (16, 16), (128, 128), (128, 128)]
    assert [apart(each.image, alone(pipe, job)) <= 1 for each, job in zip(made, jobs)] == [True] * 4
    quiet = alone(pipe, PictureJob(CAT, upsample=True))
    assert apart(made[2].image, quiet) > 3, "the noise is that of its own request"


def test_a_cut_prompt_is_told_to_whom_it_belongs(pipe) -> None:
    long = "one two three four five six seven eight"
    made = make_pictures(pipe, [PictureJob(DOG), PictureJob(Point(prompt=long))], 16)
    assert [each.cut for each in made] == [(), (long,)]


@pytest.mark.parametrize(
    ("job", "sentence"),
    [
        (PictureJob(Point(prompt=3)), "takes captions, and 3 was given"),
        (PictureJob(PromptMixing(first=(DOG,), second=(CAT,), layers=(40,))), "has no layer 40"),
        (PictureJob(DOG, upsample=True), "no upsampler"),
    ],
)
def test_what_the_model_cannot_make_is_told_before_it_joins_a_batch(pipe, job, sentence) -> None:
    pipe.upsampler = None
    with pytest.raises(GigaganError, match=sentence):
        check(pipe, job)
    check(pipe, PictureJob(DOG))


def test_models_of_classes_and_of_nothing_are_served_too() -> None:
    classes = GigaGANPipeline(make_generator(conditioning="class", classes=4, cross_attention=False))
    jobs = [PictureJob(Point(prompt=label, seed=1)) for label in (0, 3)]
    made = make_pictures(classes, jobs, 16)
    assert apart(made[1].image, classes(3, seed=1).images[0]) <= 1
    with pytest.raises(GigaganError, match="labels from 0 to 3"):
        check(classes, PictureJob(Point(prompt=4)))
    with pytest.raises(GigaganError, match="takes no captions"):
        check(classes, PictureJob(Interpolation(prompts=(0, 1), rows=1, columns=1, shares=(0.5,))))


def test_an_upsampler_of_classes_is_not_given_a_class_that_nobody_named(pipe) -> None:
    large = make_upsampler(conditioning="class", classes=4, cross_attention=False)
    pipe.upsampler = TiledUpsampler(large)
    assert enlarge(pipe, UpsampleJob(Image.new("RGB", (16, 16)), prompt=3)).size == (128, 128)
    with pytest.raises(GigaganError, match="give one from 0 to 3"):
        enlarge(pipe, UpsampleJob(Image.new("RGB", (16, 16))))
    with pytest.raises(GigaganError, match="takes class labels, and 'dog' was given"):
        check(pipe, PictureJob(DOG, upsample=True))
    with pytest.raises(GigaganError, match="no label says what a picture shows"):
        check(pipe, PictureJob(JOBS[1].what, upsample=True))


def test_an_uploaded_picture_is_enlarged_as_by_the_pipeline(pipe) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (12, 20, 3), np.uint8))
    job = UpsampleJob(image, prompt="dog", scale=3.0, seed=5, noise=0.1)
    expected = pipe.upsample(image, "dog", 3.0, seed=5, noise=0.1)[0]
    assert apart(enlarge(pipe, job), expected) == 0
    assert expected.size == (60, 36)
    torch.manual_seed(9)
    assert apart(enlarge(pipe, job), expected) == 0, "the process's own randomness has no say"


def test_the_licence_is_read_from_the_card() -> None:
    card = (
        "# A model\n\n| input | what | fingerprint | licence and attribution |\n|---|---|---|---|\n"
        "| data | drawings | `abc` | CC BY\\-SA 4\\.0 · a \\| b |\n| encoder | clip | `def` | — |\n\n"
        "| metric | value |\n|---|---|\n| loss | 3 |\n"
    )
    assert terms_of(card) == {"data": "CC BY-SA 4.0 · a | b", "encoder": "—"}
    assert terms_of("no table") == {}
