"""Rules on captions: what is boilerplate, what only looks like it, and the language."""

from __future__ import annotations

import importlib.metadata
import math
import time
from collections.abc import Callable

import pyarrow.parquet as pq
import pytest
import torch

from gigagan_core.config.curate import (
    BOILERPLATE,
    CaptionRules,
    CurateSettings,
    LanguageRule,
    ScoreRule,
    ScoreSettings,
)
from gigagan_core.data.caption_rules import CaptionCheck
from gigagan_core.data.scorers import language
from gigagan_core.data.shards import read_index
from gigagan_core.errors import GigaganError
from gigagan_core.stages import curate
from gigagan_core.stages.base import RunContext
from gigagan_core.store.artifact import Artifact


@pytest.mark.parametrize(
    ("caption", "pattern"),
    [
        ("IMG_1234.jpg", "file_name"),
        ("  red-shoes_480x480.PNG ", "file_name"),
        ("DSC_0042", "camera_name"),
        ("20190412", "camera_name"),
        ("Screenshot 3", "camera_name"),
        ("image", "placeholder"),
        ("No image available", "placeholder"),
        ("Red shoes, click to enlarge", "click_here"),
        ("CLICK HERE", "click_here"),
        ("Red shoes stock photo", "stock_photo"),
        ("Royalty-free red shoes", "stock_photo"),
        ("Red shoes | Shutterstock", "site_name"),
        ("Getty Images", "site_name"),
        ("red shoes at www.example.org", "web_address"),
    ],
)
def test_boilerplate_leaves_by_the_name_of_its_pattern(caption: str, pattern: str) -> None:
    assert CaptionCheck(CaptionRules()).reason(caption) == f"caption_boilerplate_{pattern}"


@pytest.mark.parametrize(
    "caption",
    [
        "a photo of a dog",
        "the camera clicks",
        "stockings in a photograph",
        "a jpg of a cat, framed",
        "Route 66",
        "keycap: 1",
        "no mobile phones",
        "犬とビーチ",
        "stock car racing",
    ],
)
def test_captions_that_describe_a_picture_stay(caption: str) -> None:
    assert CaptionCheck(CaptionRules()).reason(caption) is None


@pytest.mark.parametrize(
    ("rules", "caption", "reason"),
    [
        ({"min_words": 2}, "dog", "caption_too_few_words"),
        ({"max_words": 2}, "a big dog", "caption_too_many_words"),
        ({"min_characters": 5}, "dog  ", "caption_too_short"),
        ({"max_characters": 5}, "big dog", "caption_too_long"),
        ({"min_words": 1}, None, "caption_too_few_words"),
        ({"boilerplate": {}}, "IMG_1234.jpg", None),
        ({"boilerplate": {"emoji": "emoji"}}, "An EMOJI", "caption_boilerplate_emoji"),
    ],
)
def test_length_rules_and_own_patterns(rules: dict, caption: str | None, reason: str | None) -> None:
    assert CaptionCheck(CaptionRules(**rules)).reason(caption) == reason


def test_a_caption_of_100_kb_costs_no_time() -> None:
    check = CaptionCheck(CaptionRules())
    started = time.monotonic()
    for unit in ("a", " ", "1", ".", "no image ", "stock "):
        check.reason(unit * (100_000 // len(unit)))
    assert time.monotonic() - started < 1


def test_a_pattern_that_does_not_compile_is_named() -> None:
    with pytest.raises(ValueError, match="boilerplate mine is no regular expression"):
        CaptionRules(boilerplate={**BOILERPLATE, "mine": "("})


def test_the_language_is_a_score_and_a_caption_without_letters_has_none() -> None:
    settings = ScoreSettings(scorer="language", language="en", library=language.library())
    scorer = language.load(settings, {})
    captions = ["a dog running on the beach", "ein Hund läuft am Strand entlang", "1967 / 42", "砂浜を走る犬"]
    scores = scorer.score(torch.empty(4, 3, 0, 0, dtype=torch.uint8), captions)["language_en_py3langid"]
    minimum = LanguageRule().minimum
    assert scores[0] > 0.8
    assert scores[1] < minimum
    assert math.isnan(scores[2])
    assert scores[3] < 0.01
    with pytest.raises(GigaganError, match="language 'englisch' is not known"):
        language.load(settings.model_copy(update={"language": "englisch"}), {})


def test_without_the_package_the_sentence_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    with pytest.raises(GigaganError, match="needs the package py3langid"):
        language.library()


class ByLength:
    """Stands for the language scorer: the longer, the more probable; no score for a caption of digits."""

    name, version, image_size = "language_en_by_length", "by length 1", None

    def score(self, images: torch.Tensor, captions: list[str]) -> dict[str, torch.Tensor]:
        assert images.shape == (len(captions), 0)
        values = [math.nan if caption.isdigit() else len(caption) / 100 for caption in captions]
        return {self.name: torch.tensor(values)}


def test_a_scorer_of_captions_opens_no_picture(
    context: RunContext,
    shard_set: Callable[..., Artifact],
    encoder: Callable[..., Artifact],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(language, "library", lambda: "by length 1")
    monkeypatch.setattr(language, "load", lambda settings, places: ByLength())
    captions = {"000000001": "x", "000000002": "1967", "000000003": "y" * 40}
    data = shard_set(shards=1, corrupt=("000000003",), captions=captions)
    settings = CurateSettings(
        captions=CaptionRules(boilerplate={}),
        clip_similarity=ScoreRule(),
        language=LanguageRule(language="en", minimum=0.05),
    )
    curated = curate.run(settings, {"data": data, "encoder": encoder()}, context)
    rows = {row["key"]: row for row in pq.read_table(read_index(curated)[0].parquet).to_pylist()}
    assert rows["000000001"]["rejected_by"] == "language_too_low"
    assert rows["000000002"]["language_en_by_length"] is None
    assert rows["000000002"]["selected"]
    assert rows["000000003"]["language_en_by_length"] == pytest.approx(0.4)
    assert rows["000000003"]["clip_similarity_test-condition"] is None
    assert curated.manifest["counts"] == {"in": 10, "out": 9, "rejected": {"language_too_low": 1}}
    assert curated.summary["kept_without_language"] == 1
