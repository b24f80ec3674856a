"""Galleries and the sections below a report's verdicts: chosen by figures, read back, harmless to a reader."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from gigagan_core.config.evaluate import EvaluateSettings
from gigagan_core.evaluation import claims, judging, report
from gigagan_core.evaluation.galleries import Pictures, alike, choose
from gigagan_core.evaluation.latency import Timing
from gigagan_core.evaluation.neighbours import Nearest
from gigagan_core.evaluation.report_file import read_report

SCRIPT = "<script>alert(1)</script>"
SETTINGS = EvaluateSettings(image_size=16, bootstrap_resamples=100, batch_size=16, gallery_shown=3)
COUNT = 24


@pytest.fixture(scope="module")
def judged(encoder, drawings):
    """A model that copies two training images, repeats itself once, and has one image like no real one."""
    captions = [SCRIPT] + [f"drawing {number}" for number in range(COUNT - 1)]
    real, training = drawings(COUNT, 16, seed=1), drawings(40, 16, seed=2)
    encoder.pictures = dict(zip(captions, real, strict=True))
    noise = torch.randint(-60, 61, real.shape, generator=torch.Generator().manual_seed(3))
    generated = (real.int() + noise).clamp(0, 255).to(torch.uint8)
    generated[4], generated[5] = training[7], training[9]
    generated[11] = generated[10]
    generated[15] = 0
    features = judging.base_features(encoder, captions, real, generated, None, training, SETTINGS)
    sets = judging.base_figures(features, captions, SETTINGS)
    chosen = choose(
        Pictures(captions, generated, real, training),
        features,
        sets[0].clip.per_image,
        [0, 1, 2, 3],
        torch.arange(COUNT),
        SETTINGS,
    )
    return captions, real, generated, training, sets, chosen


def gallery(chosen, key: str):
    return next(each for each in chosen.galleries if each.id == key)


def test_best_and_worst_are_those_of_the_clip_score(judged):
    captions, _, _, _, sets, chosen = judged
    order = sets[0].clip.per_image.argsort()
    assert [each.caption for each in gallery(chosen, "worst").samples] == [captions[i] for i in order[:3]]
    assert [each.caption for each in gallery(chosen, "best").samples] == [
        captions[i] for i in order.flip(0)[:3]
    ]


def test_what_is_like_no_real_image_stands_first_among_the_failures(judged):
    captions, _, generated, _, _, chosen = judged
    first = gallery(chosen, "far").samples[0]
    assert first.caption == captions[15]
    assert torch.equal(first.images["generated"], generated[15])


def test_twins_are_found_and_no_image_is_in_two_pairs(judged):
    captions, *_, chosen = judged
    pairs = gallery(chosen, "alike").samples
    assert pairs[0].caption in (f"{captions[10]} / {captions[11]}", f"{captions[11]} / {captions[10]}")
    assert pairs[0].note == "distance 0.000"
    assert torch.equal(pairs[0].images["first"], pairs[0].images["second"])
    named = [name for pair in pairs for name in pair.caption.split(" / ")]
    assert len(set(named)) == len(named) == 6


def test_an_image_whose_twin_is_shown_already_waits_for_no_second_one():
    """Four images: 0 and 1 are nearest to each other, 2 is nearest to 1, 3 to 2."""
    distance = torch.tensor([0.1, 0.1, 0.2, 0.3], dtype=torch.float64)
    found = Nearest(distance, torch.tensor([1, 0, 1, 2]))
    pictures = torch.arange(4, dtype=torch.uint8)[:, None, None, None].expand(4, 3, 2, 2)
    shown = alike(
        Pictures(list("abcd"), pictures, pictures),
        found,
        count=8,
    )
    assert [each.caption for each in shown.samples] == ["a / b", "d / c"]


def test_copies_of_training_images_stand_beside_what_they_copy(judged):
    captions, _, _, training, _, chosen = judged
    closest = gallery(chosen, "closest").samples[:2]
    assert {each.caption for each in closest} == {captions[4], captions[5]}
    copied = {each.caption: each.images["nearest training"] for each in closest}
    assert torch.equal(copied[captions[4]], training[7])
    assert torch.equal(copied[captions[5]], training[9])
    assert all(each.note.startswith("distance 0.000; 0% of held-out") for each in closest)
    shown = gallery(chosen, "neighbours").samples
    assert [each.caption for each in shown] == captions[:3]


def test_a_search_among_some_training_images_names_the_right_ones(encoder, judged):
    captions, real, generated, training, _, _ = judged
    few = SETTINGS.model_copy(update={"training_searched": COUNT + 4})
    features = judging.base_features(encoder, captions, real, generated, None, training, few)
    assert len(features.training) == len(features.searched) == COUNT + 4
    assert len(features.chosen) == COUNT
    direct = judging.base_features(encoder, captions, real, training[:COUNT], None, training, SETTINGS)
    places = features.searched.tolist()
    inside = [place for place in range(COUNT) if place in places]
    rows = [places.index(place) for place in inside]
    torch.testing.assert_close(features.training[rows], direct.generated[inside])


def test_variants_of_one_drawing_widen_the_intervals(encoder, judged):
    captions, real, generated, *_ = judged
    tripled = [captions[i // 3] + " tone" * (i % 3) for i in range(COUNT)]
    groups = torch.arange(COUNT) // 3
    repeated = [each.repeat_interleave(3, dim=0)[:COUNT] for each in (real, generated)]
    features = judging.base_features(encoder, tripled, *repeated, None, None, SETTINGS)
    alone = judging.base_figures(features, tripled, SETTINGS)[0]
    together = judging.base_figures(features, tripled, SETTINGS, groups)[0]
    narrow, wide = alone.fd_interval, together.fd_interval
    assert wide.high - wide.low > 1.2 * (narrow.high - narrow.low)
    assert alone.fd_interval.low >= 0


@pytest.fixture(scope="module")
def whole(judged) -> report.Report:
    captions, real, generated, _, sets, chosen = judged
    return report.Report(
        settings=SETTINGS,
        count=COUNT,
        independent=COUNT,
        judge={"name": "openmoji-judge", "sha256": "ab" * 32},
        condition={"name": "c"},
        sets=sets,
        upsamplers=[],
        claims=[claims.caption_claim(sets[0].clip)],
        cautions=[],
        samples=[report.Sample(captions[0], {"generated": generated[0], "real": real[0]})],
        strips=[],
        galleries=chosen.galleries,
        memorisation=chosen.memorisation,
        repetition=chosen.repetition,
        timings=[Timing("base", 8, 0.0123, 0.02, 0.015, 533.0, 20, None, "cpu")],
    )


def test_the_new_sections_are_on_the_page_as_text(whole, tmp_path):
    page = report.write(whole, tmp_path)["html"].read_text()
    assert "<script" not in page
    for text in (
        "Best by CLIP score",
        "Unlike any real image",
        "Alike for different captions",
        "Nearest to a training image",
        "&lt;script&gt;alert(1)&lt;/script&gt;",
        "12.30 ms",
        "base, batch 8",
        "copying gives 100%",
    ):
        assert text in page, text
    assert (tmp_path / "galleries" / "closest.png").is_file()


def test_sections_without_content_leave_no_heading(whole, tmp_path):
    bare = dataclasses.replace(whole, galleries=(), memorisation=None, repetition=None, timings=())
    page = report.write(bare, tmp_path)["html"].read_text()
    assert not any(text in page for text in ("Best and worst", "Failures", "Memory", "Latency"))
    assert not any("copying" in name or "near-duplicates" in name for name in report.metrics(bare))


def test_a_report_is_read_back_as_it_was_written(whole, tmp_path):
    report.write(whole, tmp_path)
    read = read_report(tmp_path)
    named = report.metrics(whole)
    assert {name: known.value for name, known in read.figures.items()}.items() <= named.items()
    fd = read.figures["fd_openmoji-judge_16_24"]
    assert fd.interval == (whole.sets[0].fd_interval.low, whole.sets[0].fd_interval.high)
    assert (fd.better, fd.sha256, fd.parts.count) == ("lower", "ab" * 32, "24")
    assert set(named) - set(read.figures) == {
        f"{prefix}{metric}_openmoji-judge_16_24"
        for prefix in ("", "baseline/held-out/")
        for metric in (
            "clip-score-shuffled",
            "clip-score-difference-low",
            "clip-score-difference-high",
            "retrieval-at-10-chance",
        )
    }
    stored = json.loads((tmp_path / "report.json").read_text())
    assert stored["latency"][0]["peak_mib"] is None
    assert stored["galleries"][0]["shown"][0]["note"].startswith("cosine ")
