"""The protocols and prompt suites as data."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from gigagan_core.assets.catalogue import CATALOGUE
from gigagan_core.config.evaluate import OPENMOJI, PROTOCOL_NAMES, EvaluateSettings
from gigagan_core.errors import GigaganError
from gigagan_core.evaluation.folder_metrics import METRICS
from gigagan_core.evaluation.protocols.named import PROTOCOLS, protocol
from gigagan_core.evaluation.protocols.prompts import Prompt, load_prompts
from gigagan_core.evaluation.protocols.protocol import Judge, Patches
from gigagan_core.evaluation.protocols.run import evaluate

from .conftest import IMAGES, named, no_ray, values

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*")


def test_every_protocol_names_assets_and_measures_that_exist():
    assert set(PROTOCOL_NAMES) == {*PROTOCOLS, OPENMOJI}
    for each in PROTOCOLS.values():
        assert set(each.assets) <= set(CATALOGUE), each.name
        assert {metric for judge in each.judges for metric in judge.metrics} <= set(METRICS)
        assert (each.low is not None) == (each.task == "upsampling")
        assert all(CATALOGUE[judge.asset].reader for judge in each.judges)
    coco = protocol("gigagan-coco-30k", "authors")
    assert (coco.size, coco.made, coco.count, coco.reference) == (256, 512, 30_000, "coco-2014-val")
    assert [judge.truncate for judge in coco.judges] == [False, True, True]
    assert not any(judge.truncate for judge in protocol("gigagan-coco-30k").judges)
    with pytest.raises(GigaganError, match="did you mean 'gigagan-coco-30k'"):
        protocol("gigagan-coco30k")


def test_the_demonstrations_protocol_is_data_too_and_needs_no_asset():
    found, settings = protocol(OPENMOJI), EvaluateSettings()
    assert OPENMOJI not in PROTOCOLS
    assert found.assets == ()
    assert found.needs_data
    assert {metric for judge in found.judges for metric in judge.metrics} <= set(METRICS)
    assert (found.size, found.made, found.seed, found.psi) == (
        settings.image_size,
        settings.image_size,
        settings.seed,
        settings.psi,
    )
    assert found.patches == Patches(settings.patch_size, settings.patches_per_image)


def test_coco_captions_are_one_of_each_drawn_image_and_a_smaller_draw_is_part_of_a_larger(coco):
    file = coco / "annotations" / "captions_val2014.json"
    every = load_prompts(file, "coco", 30_000, seed=0)
    assert len(every.prompts) == every.available == IMAGES
    assert len({prompt.id.partition("#")[0] for prompt in every.prompts}) == IMAGES
    for prompt in every.prompts:
        name, _, number = prompt.id.partition("#")
        row = int(re.search(r"_(\d+)\.jpg", name)[1])
        assert prompt.text == f"disc {row}, number {int(number) - 10 * row}"
    few = load_prompts(file, "coco", 9, seed=0)
    assert set(few.prompts) < set(every.prompts)
    assert few.sha256 == load_prompts(file, "coco", 9, seed=0).sha256
    assert len({few.sha256, every.sha256, load_prompts(file, "coco", 9, seed=1).sha256}) == 3
    assert len({prompt.id[-1] for prompt in every.prompts}) > 1  # not always the first caption


def test_the_manifest_holds_what_was_asked_for(coco, tmp_path):
    found = load_prompts(coco / "annotations" / "captions_val2014.json", "coco", 5, seed=0)
    found.write(tmp_path / "prompts.jsonl")
    head, *lines = map(json.loads, (tmp_path / "prompts.jsonl").read_text().splitlines())
    assert head["sha256"] == found.sha256
    assert [line["prompt"] for line in lines] == found.texts


def test_the_manifest_of_a_report_is_a_file_of_the_same_prompts(coco, tmp_path):
    manifest = tmp_path / "prompts.jsonl"
    found = load_prompts(coco / "annotations" / "captions_val2014.json", "coco", 5, seed=0)
    odd = Prompt("odd", "two\u2028lines, a \x85 and a \x0c page")
    found = replace(found, prompts=(*found.prompts, odd))
    found.write(manifest)
    again = load_prompts(manifest, "file", 100, seed=3)
    assert again.prompts == found.prompts
    assert again.sha256 == found.sha256
    manifest.write_text(manifest.read_text().replace("odd", "even"))
    with pytest.raises(GigaganError, match=r"prompts.jsonl are not those of its first line"):
        load_prompts(manifest, "file", 100, seed=3)


def test_parti_prompts_keep_their_quotation_marks(tmp_path):
    file = tmp_path / "PartiPrompts.tsv"
    file.write_text(
        'Prompt\tCategory\tChallenge\tNote\n"hello" on a sign\tAbstract\tWriting\t\na cat\tAnimals\tBasic\t\n'
    )
    found = load_prompts(file, "parti", 10, seed=0)
    assert found.texts == ['"hello" on a sign', "a cat"]
    assert found.prompts[1].id == "2/Animals/Basic"
    assert load_prompts(file, "file", 10, seed=0) == found  # the ending says what it is
    file.write_text("Text\na cat\n")
    with pytest.raises(GigaganError, match="no column Prompt"):
        load_prompts(file, "parti", 10, seed=0)


def test_own_prompts_are_text_or_jsonl(tmp_path):
    text = tmp_path / "own.txt"
    text.write_bytes("a cat\r\n\n  a dog \na\u2028b".encode())
    assert load_prompts(text, "file", 10, seed=0).texts == ["a cat", "a dog", "a\u2028b"]
    lines = tmp_path / "own.jsonl"
    lines.write_text('{"prompt": "a cat", "id": 7}\n{"caption": "a dog"}\n')
    assert [(p.id, p.text) for p in load_prompts(lines, "file", 10, seed=0).prompts] == [
        ("7", "a cat"),
        ("2", "a dog"),
    ]
    lines.write_text('{"prompt": "a cat"}\n{"words": "a dog"}\n')
    with pytest.raises(GigaganError, match="line 2: no JSON object with a prompt"):
        load_prompts(lines, "file", 10, seed=0)
    text.write_text("\n\n")
    with pytest.raises(GigaganError, match="there are none"):
        load_prompts(text, "file", 10, seed=0)
    with pytest.raises(GigaganError, match="not COCO's captions"):
        load_prompts(lines, "coco", 10, seed=0)
    with pytest.raises(GigaganError, match="cannot be read"):
        load_prompts(tmp_path / "gone", "file", 10, seed=0)


@pytest.mark.parametrize(
    ("name", "layout", "text", "wanted"),
    [
        ("a.jsonl", "file", '{"prompt": ["x", "y"]}', "line 1: .*no text but"),
        ("a.jsonl", "file", '{"prompt": "x"}\n{"prompt": "  "}', "line 2: .*blank"),
        ("a.jsonl", "file", '{"prompt": 7}', "line 1: .*no text but '7'"),
        ("a.tsv", "parti", "Category\tPrompt\nA\ta cat\nB\n", r"line 3: no prompt in its column \(no text"),
        ("a.tsv", "parti", "Prompt\n" + 140_000 * "x", "line 2: field larger than"),
        ("a.json", "file", '["a cat",\n "a dog"]', r"lines of a \.json file are no prompts; give \.jsonl"),
        ("a.CSV", "file", "prompt\na cat\n", r"lines of a \.csv file are no prompts"),
        ("a.tsv", "file", "a cat\n", "no column Prompt"),
    ],
)
def test_prompts_that_are_no_text_are_named(tmp_path, name, layout, text, wanted):
    (tmp_path / name).write_text(text)
    with pytest.raises(GigaganError, match=wanted):
        load_prompts(tmp_path / name, layout, 10, seed=0)


@pytest.mark.parametrize("sha256", [5, None])
def test_a_manifest_whose_sum_is_none_is_refused(tmp_path, sha256):
    head = {"source": "x", "count": 1, "available": 1, "sha256": sha256}
    (tmp_path / "a.jsonl").write_text(json.dumps(head) + '\n{"prompt": "a cat"}\n')
    with pytest.raises(GigaganError, match="are not those of its first line"):
        load_prompts(tmp_path / "a.jsonl", "file", 10, seed=0)


def test_cocos_captions_are_texts_and_blank_ones_are_none(tmp_path):
    def document(*captions: object) -> Path:
        rows = [{"id": row, "image_id": 1, "caption": each} for row, each in enumerate(captions)]
        (tmp_path / "captions.json").write_text(
            json.dumps({"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": rows})
        )
        return tmp_path / "captions.json"

    for seed in range(5):
        assert load_prompts(document("", " \n", "a cat", ""), "coco", 5, seed).texts == ["a cat"]
    with pytest.raises(GigaganError, match="no image has a caption"):
        load_prompts(document(""), "coco", 5, seed=0)
    with pytest.raises(GigaganError, match="no text but 'None'"):
        load_prompts(document("a cat", None), "coco", 5, seed=0)


def test_prompts_of_ones_own_take_the_place_of_the_protocols_and_that_is_said(run, judges, tmp_path):
    own = tmp_path / "own.txt"
    own.write_text("\n".join(f"prompt {row}" for row in range(12)))
    clip_only = replace(protocol("gigagan-coco-30k"), judges=(Judge("clip-vit-b32", ("clip-score",)),))
    result = evaluate(run(protocol=replace(clip_only, reference=None), prompts=own), no_ray)
    assert list(values(result)) == [f"clip-score_{named(judges, 'clip-vit-b32')}_256_12"]
    assert result.record["real"] is None
    assert "took the place of the protocol's" in " ".join(result.cautions)
    file = evaluate(run("prompt-file", prompts=own), no_ray)
    assert values(file) == values(result)
    assert "has 1,000,000" not in " ".join(file.cautions)
