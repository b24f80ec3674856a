"""What the report of a protocol shows: images chosen by figures among those that were let go, the same after a kill."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from PIL import Image

from gigagan_core.encoders.open_clip_encoder import load_encoder
from gigagan_core.evaluation import clip_score
from gigagan_core.evaluation.extraction import loaded
from gigagan_core.evaluation.extractors.registry import ExtractorPlace
from gigagan_core.evaluation.picture_folder import cropped_and_resized
from gigagan_core.evaluation.protocols import generation
from gigagan_core.evaluation.protocols.named import protocol
from gigagan_core.evaluation.protocols.protocol import Judge, Protocol
from gigagan_core.evaluation.protocols.run import ProtocolRun, evaluate
from gigagan_core.evaluation.protocols.showcase import Showcase, show
from gigagan_core.inference.generate import generate, upsample

from .conftest import FEW, IMAGES, no_ray

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*")
FIRST, CHOSEN = 5, 3


def shown_by(run: ProtocolRun) -> Showcase:
    return show(run, evaluate(run, no_ray), no_ray)


def by_id(showcase: Showcase) -> dict:
    return {gallery.id: gallery for gallery in showcase.galleries}


def as_judged(image: torch.Tensor, size: int = 256) -> torch.Tensor:
    pixels = cropped_and_resized(image.permute(1, 2, 0).contiguous().numpy(), size)
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


@pytest.fixture
def small_run(run):
    return lambda *name, **changed: run(*name, **{"keep": FIRST, "gallery": CHOSEN, **changed})


@pytest.fixture(scope="module")
def by_hand(models):
    """(captions) -> the images that the protocol makes of them, uint8 [N, 3, 32, 32]."""

    def make(captions: list[str]) -> torch.Tensor:
        encoder = load_encoder(models["condition"].uri)
        low = generate(models["base"].uri, captions, encoder, seed=3)
        return upsample(models["upsampler"].uri, low, captions, encoder, seed=3)

    return make


def same(first: Showcase, second: Showcase) -> bool:
    """Captions, notes and pixels, in their order."""
    pairs = zip(
        [first.samples, *(each.samples for each in first.galleries)],
        [second.samples, *(each.samples for each in second.galleries)],
        strict=True,
    )
    return all(
        (a.caption, a.note, list(a.images)) == (b.caption, b.note, list(b.images))
        and all(torch.equal(a.images[name], b.images[name]) for name in a.images)
        for one, other in pairs
        for a, b in zip(one, other, strict=True)
    )


def test_best_and_worst_are_the_images_of_the_highest_and_lowest_cosine(small_run, by_hand, judges):
    asked = small_run()
    result = evaluate(asked, no_ray)
    found = show(asked, result, no_ray)
    captions, images = result.prompts.texts, by_hand(result.prompts.texts)
    judge = loaded(ExtractorPlace(f"ViT-B-32-quickgelu:{judges['clip-vit-b32']}"))
    judged = torch.stack([as_judged(image) for image in images])
    scores = clip_score.caption_cosines(
        judge.features(judged), torch.from_numpy(judge.caption_features(captions))
    )
    order = scores.argsort(descending=True).tolist()
    for gallery, rows in (("best", order[:CHOSEN]), ("worst", order[::-1][:CHOSEN])):
        samples = by_id(found)[gallery].samples
        assert [sample.caption for sample in samples] == [captions[row] for row in rows]
        assert [sample.note for sample in samples] == [f"cosine {scores[row]:.3f}" for row in rows]
        for sample, row in zip(samples, rows, strict=True):
            assert (sample.images["generated"].int() - images[row].int()).abs().max() <= 1
    assert f"by {judge.name} is highest" in by_id(found)["best"].note
    assert [sample.caption for sample in found.samples] == captions[:FIRST]
    assert list(by_id(found)) == ["best", "worst", "far", "alike"]
    assert found.remarks["memorisation"].startswith("No training set was given")


def test_failures_stand_beside_the_real_image_that_comes_nearest(small_run, coco):
    far = by_id(shown_by(small_run()))["far"]
    real = [
        as_judged(image, min(image.shape[1:]))
        for image in (
            torch.from_numpy(_pixels(path)).permute(2, 0, 1) for path in (coco / "val2014").iterdir()
        )
    ]
    for sample in far.samples:
        assert any(torch.equal(sample.images["nearest real"], each) for each in real)
    distances = [float(sample.note.split()[1]) for sample in far.samples]
    assert all(before >= after for before, after in pairwise(distances))
    assert f"nearest of {IMAGES + 1} real images" in far.note


def _pixels(path):
    import numpy as np

    return np.asarray(Image.open(path).convert("RGB")).copy()


def test_a_killed_evaluation_and_an_undisturbed_one_show_the_same(small_run, tmp_path, monkeypatch):
    undisturbed = shown_by(small_run(work=tmp_path / "undisturbed"))
    made, images = [], generation.Sampler.images

    def dies_later(self, captions, first, low=None):
        if len(made) == 6:  # four shards, then in the midst of the galleries
            raise KeyboardInterrupt
        made.append(first)
        return images(self, captions, first, low)

    monkeypatch.setattr(generation.Sampler, "images", dies_later)
    with pytest.raises(KeyboardInterrupt):
        shown_by(small_run())
    assert made[:4] == [0, 8, 16, 24]
    monkeypatch.undo()
    again = shown_by(small_run())
    assert same(again, undisturbed)
    # what is shown stays, and no more than that
    kept = {path.name for path in (tmp_path / "work" / "generated").rglob("*.png")}
    assert len(kept) <= FIRST + 5 * CHOSEN  # best, worst, far, and pairs that are alike
    made.clear()
    monkeypatch.setattr(
        generation.Sampler,
        "images",
        lambda self, captions, first, low=None: made.append(first) or images(self, captions, first, low),
    )
    assert same(shown_by(small_run()), undisturbed)
    assert made == []


def test_a_shown_image_that_is_gone_or_damaged_is_made_again(small_run, tmp_path):
    whole = shown_by(small_run())
    for number, path in enumerate(sorted((tmp_path / "work" / "generated").rglob("*.png"))):
        path.unlink() if number % 2 else path.write_bytes(b"damaged")
    assert same(shown_by(small_run()), whole)


def test_copies_of_training_images_are_found_among_all_that_were_let_go(
    small_run, by_hand, shard_set, drawings, tmp_path
):
    captions = evaluate(small_run(), no_ray).prompts.texts
    stolen = by_hand(captions)[[9, 20]]
    pictures = torch.cat([drawings(30, 32, 11), stolen])
    training = shard_set(tmp_path / "training", pictures, [f"t {row}" for row in range(32)])
    found = shown_by(small_run(train=training))
    closest = by_id(found)["closest"].samples
    assert {sample.caption for sample in closest[:2]} == {captions[9], captions[20]}
    for sample in closest[:2]:
        assert torch.equal(sample.images["generated"], sample.images["nearest training"])
        assert sample.note.startswith("distance 0.000")
    assert [sample.caption for sample in by_id(found)["neighbours"].samples] == captions[:CHOSEN]
    figures = {figure.metric: figure for figure in found.figures}
    assert figures["copying"].name.startswith("copying_inception-")
    assert figures["copying"].name.endswith("_256_28")
    assert (figures["copying"].fake, figures["copying"].real) == (IMAGES, IMAGES + 1)
    assert "those of coco-2014-val" in figures["copying"].cautions[0]
    assert "32 training images with chance" in found.remarks["memorisation"]
    assert "those of coco-2014-val" in found.remarks["memorisation"]
    # real images, as many as generated ones, say what a twin is
    assert figures["near-duplicates"].real == figures["near-duplicates"].fake == IMAGES


def test_a_bounded_search_is_the_same_each_time_and_has_the_samples(small_run, shard_set, drawings, tmp_path):
    training = shard_set(tmp_path / "training", drawings(30, 32, 11), [f"t {row}" for row in range(30)])
    asked = small_run(train=training, searched=9)
    found = shown_by(asked)
    assert "nearest of 18 real images" in by_id(found)["far"].note  # 9 of each kind
    neighbours = by_id(found)["neighbours"].samples
    assert [each.caption for each in neighbours] == [each.caption for each in found.samples[:CHOSEN]]
    counts = {figure.metric: figure.name.rpartition("_")[2] for figure in found.figures}
    assert 9 <= int(counts["copying"]) <= 9 + FIRST
    assert same(shown_by(replace(asked, work=tmp_path / "other")), found)
    assert len(list((tmp_path / "work" / "reference").rglob("*.image"))) == 9


def test_prompts_without_real_images_are_shown_with_what_cannot_be_said(small_run, tmp_path, judges):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(f"thing {row}" for row in range(9)))
    found = shown_by(small_run("prompt-file", prompts=prompts))
    assert list(by_id(found)) == ["best", "worst", "alike"]
    assert found.figures == ()
    assert "has no real images" in found.remarks["failures"]
    assert "No training set was given" in found.remarks["memorisation"]


def test_a_single_prompt_has_no_twin_and_ends_nothing(small_run, tmp_path, shard_set, drawings):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("same\nsame\nsame\n")
    training = shard_set(tmp_path / "training", drawings(6, 32, 11), [f"t {row}" for row in range(6)])
    found = shown_by(small_run("prompt-file", prompts=prompts, train=training))
    assert list(by_id(found)) == ["best", "worst", "neighbours", "closest"]
    assert found.remarks["memorisation"].startswith("Among 6 training images")


@pytest.mark.parametrize("metrics", [("clip-score",), ()])
def test_an_upsampler_is_shown_beside_its_input_and_the_real_image(
    judges, models, drawings, shard_set, tmp_path, metrics
):
    pictures = drawings(12, 40, 7)
    held_out = shard_set(tmp_path / "set", pictures, [f"disc {row}" for row in range(12)])
    clip = (Judge("clip-vit-b32", metrics),) if metrics else ()
    small = Protocol(
        name="small",
        what="a test's",
        task="upsampling",
        judges=(Judge("inception", ("is",)), *clip),
        size=32,
        made=32,
        low=8,
        count=12,
        origin="",
    )
    model = generation.Model(None, models["upsampler"], models["condition"], seed=1)
    found = shown_by(
        ProtocolRun(
            small,
            model,
            judges,
            tmp_path / "work",
            data=held_out,
            shard_size=5,
            options=FEW,
            keep=2,
            gallery=3,
        )
    )
    assert [list(sample.images) for sample in found.samples] == [["input", "generated", "real"]] * 2
    first = found.samples[0].images
    assert (first["input"].shape, first["generated"].shape) == ((3, 8, 8), (3, 32, 32))
    assert torch.equal(first["real"], as_judged(pictures[0], 32))
    assert list(by_id(found)) == [*(("best", "worst") if metrics else ()), "far"]
    assert by_id(found)["far"].title == "Unlike what they were made from"
    for sample in by_id(found)["far"].samples:
        row = int(sample.caption.split()[1])
        assert torch.equal(sample.images["real"], as_judged(pictures[row], 32))
    assert "An upsampler enlarges" in found.remarks["memorisation"]
    assert ("takes no CLIP score" in found.remarks["scores"]) == (not metrics)


@pytest.mark.slow
def test_ray_tasks_show_the_same(small_run, shard_set, drawings, tmp_path):
    """Workers know nothing of the small CLIPs: by Inception alone."""
    from gigagan_core.stages.ray_session import RaySession

    alone = replace(protocol("gigagan-coco-30k"), judges=(Judge("inception", ("is",)),))
    training = shard_set(tmp_path / "training", drawings(12, 32, 11), [f"t {row}" for row in range(12)])
    here = shown_by(small_run(protocol=alone, train=training, work=tmp_path / "here"))
    session = RaySession(num_cpus=1)
    try:
        asked = small_run(protocol=alone, train=training, work=tmp_path / "there", in_process=0)
        there = show(asked, evaluate(asked, session.ray), session.ray)
    finally:
        session.close()
    assert same(here, there)
