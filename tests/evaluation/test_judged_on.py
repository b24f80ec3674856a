"""Protocols' reports beside each other: other captions, real images or preparation, and what each cautions."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gigagan_core.evaluation.comparison import compare
from gigagan_core.evaluation.report_file import StoredReport, read_report

FD, SCORE = "fid_inception_256_30k", "clip-score_ViT-B-32-quickgelu_256_30k"
VALUES = {FD: (9.0, "lower", 40504), SCORE: (0.3, "higher", 0)}
COCO = {"name": "gigagan-coco-30k", "task": "text-to-image", "prompts": {"asset": "coco-2014-captions"}}
UPSAMPLING = {"name": "laion-128-to-1024", "task": "upsampling", "prompts": None}
SAME = {"prompts": "p1", "real": "r1", "preparation": "centre crop to 256 px"}


@pytest.fixture
def judged(tmp_path):
    """(gain, what it was judged on, ...) -> the report of a protocol; with a gain both figures are that much better."""
    made = []

    def make(
        gain: float = 0.0,
        protocol: dict[str, Any] = COCO,
        inputs: dict[str, str] | None = None,
        cautions: tuple[str, ...] = (),
        **on: Any,
    ) -> StoredReport:
        on = {**SAME, **on}
        folder = tmp_path / f"report{len(made)}"
        folder.mkdir()
        made.append(folder)
        inputs = inputs or {"asset/coco-2014-captions": "captions", "asset/coco-2014-val": "val"}
        document = {
            "schema": "gigagan-report",
            "schema_version": 2,
            "protocol": protocol["name"],
            "settings": {"seed": 0},
            "lineage": [
                {"role": role, "stage": "outside file", "fingerprint": digest, "output_digest": digest}
                for role, digest in inputs.items()
            ],
            "figures": {
                name: figure(value - gain if better == "lower" else value + gain, better, real)
                for name, (value, better, real) in VALUES.items()
            },
            "cautions": list(cautions),
            "how": {
                "protocol": protocol,
                "prompts": {"source": "/a/file", "available": 40000, "sha256": on["prompts"]},
                "real": on["real"] and {"count": 40504, "digest": on["real"]},
                "extractors": [],
                "preparation": on["preparation"],
            },
        }
        (folder / "report.json").write_text(json.dumps(document))
        return read_report(folder)

    return make


def figure(value: float, better: str, real: int) -> dict[str, Any]:
    interval = {"low": value - 0.01, "high": value + 0.01, "level": 0.95, "method": "made up"}
    images = {"real": real, "fake": 30000}
    return {"value": value, "interval": interval, "better": better, "extractor": None, "images": images}


def test_models_that_were_judged_on_the_same_are_compared(judged):
    found = compare(judged(), judged(gain=0.1))
    assert {each.name: each.better for each in found.figures} == {FD: "second", SCORE: "second"}
    assert found.refused == found.cautions == []


def test_by_other_real_images_of_equal_count_distances_are_refused_and_clip_scores_are_not(judged):
    found = compare(judged(), judged(gain=0.1, real="r2"))
    assert [each.name for each in found.figures] == [SCORE]
    assert found.refused == [
        f"1 figures ({FD}, ...) have the same name and other real images (r1 and r2): not compared; judge both models "
        "by the same ones"
    ]
    assert "real images (r1 and unknown)" in compare(judged(), judged(real=None)).refused[0]


def test_by_captions_of_another_source_nothing_is_compared(judged):
    parti = {**COCO, "name": "parti-prompts", "prompts": {"asset": "parti-prompts"}}
    other = judged(gain=0.1, protocol=parti, inputs={"asset/parti-prompts": "parti"}, prompts="p2")
    found = compare(judged(), other)
    assert found.figures == []
    assert f"2 figures ({FD}, ...) have the same name and other captions (p1 and p2): not" in found.refused[0]
    assert "The protocols differ (gigagan-coco-30k and parti-prompts)" in found.cautions[0]
    own = judged(gain=0.1, inputs={"prompts": "own", "asset/coco-2014-captions": "captions"}, prompts="p2")
    assert compare(judged(), own).figures == []
    same = {"prompts": "own", "asset/coco-2014-captions": "captions"}
    assert len(compare(judged(inputs=same), judged(inputs=same, prompts="p2")).figures) == 2
    unknown = {"condition": "c"}
    assert compare(judged(inputs=unknown), judged(inputs=unknown, prompts="p2")).figures == []


def test_other_draws_of_the_same_captions_are_compared_and_pointed_out(judged):
    found = compare(judged(), judged(gain=0.1, prompts="p2"))
    assert [each.better for each in found.figures] == ["second", "second"]
    assert found.refused == []
    assert found.cautions == [
        "The captions are other draws from one source: differences are of captions too."
    ]
    # only the images of drawn pairs may be others too
    assert compare(judged(), judged(prompts="p2", real="r2")).refused != []


def test_pairs_drawn_from_one_data_set_are_compared_and_from_another_not(judged):
    first, second, other = (
        judged(gain, UPSAMPLING, {"data": data}, prompts=drawn, real=drawn)
        for gain, data, drawn in ((0.0, "d1", "p1"), (0.1, "d1", "p2"), (0.1, "d2", "p3"))
    )
    assert [each.better for each in compare(first, second).figures] == ["second", "second"]
    found = compare(first, other)
    assert found.figures == []
    assert "other captions (p1 and p3)" in found.refused[0]
    assert "The held-out images are not the same" in found.cautions[0]


def test_images_that_were_prepared_in_another_way_are_not_compared(judged):
    found = compare(judged(), judged(gain=0.1, preparation="as they are"))
    assert found.figures == []
    assert "other preparation of the images (centre crop to 256 px and as they are)" in found.refused[0]


def test_by_other_held_out_images_no_model_is_called_better(judged):
    found = compare(judged(inputs={"data": "d1"}), judged(0.1, inputs={"data": "d2"}))
    assert [(each.overlap, each.better) for each in found.figures] == [(False, "undecided")] * 2
    assert "The held-out images are not the same" in found.cautions[0]


def test_what_each_report_cautions_is_said(judged):
    found = compare(judged(cautions=("few images",)), judged(cautions=("other prompts", "few images")))
    assert found.first_cautions == ["few images"]
    assert found.second_cautions == ["other prompts", "few images"]


def test_prompts_and_assets_are_among_the_inputs_that_differ(judged):
    first = judged(inputs={"asset/inception": "a", "prompts": "mine"})
    second = judged(inputs={"prompts": "yours", "asset/inception": "b", "asset/inception ← x": "c"})
    assert [(each.name, each.first, each.second) for each in compare(first, second).settings] == [
        ("asset/inception", "a", "b"),
        ("prompts", "mine", "yours"),
    ]


def test_settings_of_what_only_one_report_has_or_another_stage_made_are_not_listed(tmp_path):
    def made(name: str, *lines: dict[str, Any]) -> StoredReport:
        (tmp_path / name).mkdir()
        document = {"schema": "gigagan-report", "schema_version": 2, "settings": {}, "figures": {}}
        document["lineage"] = [{"fingerprint": name, **line} for line in lines]
        (tmp_path / name / "report.json").write_text(json.dumps(document))
        return read_report(tmp_path / name)

    one = made(
        "one",
        {"role": "model", "stage": "train-base", "settings": {"lr": 1, "steps": 5}},
        {"role": "data", "stage": "ingest heldout", "settings": {"views": 3, "size": 64}},
        {"role": "train", "stage": "ingest heldout", "settings": {"views": 3}},
        {"role": "judge", "stage": "train-encoder (judge)", "settings": {"width": 8}},
    )
    two = made(
        "two",
        {"role": "model", "stage": "train-base", "settings": {"lr": 2, "steps": 5}},
        {"role": "data", "stage": "import", "settings": {"source": "/x"}},
        {"role": "train", "stage": "ingest", "settings": {"views": 4}},
    )
    assert [(each.name, each.first, each.second) for each in compare(one, two).settings] == [
        ("model", "one", "two"),
        ("model: lr", 1, 2),
        ("data", "one", "two"),
        ("data: made by", "ingest heldout", "import"),
        ("train", "one", "two"),
        ("train: views", 3, 4),
        ("judge", "one", None),
    ]
