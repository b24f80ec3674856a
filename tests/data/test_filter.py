"""The metadata filter: every refusal has its reason, every missing value its policy."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from gigagan_core.config.base import result_settings, with_overrides
from gigagan_core.config.ingest import (
    FILTER_PRESETS,
    FetchSettings,
    FilterSettings,
    IngestSettings,
    PartitionSettings,
)
from gigagan_core.data.filter import filter_rows
from gigagan_core.data.schemas import canonical_schema
from gigagan_core.errors import GigaganError

GOOD = {
    "caption": "a cat",
    "width": 300,
    "height": 200,
    "clip_similarity_b32": 0.3,
    "clip_similarity_l14": 0.25,
    "aesthetic_laion_v1": 7.5,
    "aesthetic_laion_v2": 5.5,
    "watermark_laion": 0.1,
    "watermark_coyo": 0.1,
    "nsfw_laion": 0.1,
    "nsfw_coyo": 0.1,
    "nsfw_tag": "UNLIKELY",
}


def reasons(rows: list[dict[str, Any]], **settings: Any) -> list[str | None]:
    return outcome(rows, **settings)[0]


def outcome(rows: list[dict[str, Any]], **settings: Any) -> tuple[list[str | None], dict[str, int]]:
    return filter_rows(canonical(rows), FilterSettings(**settings), "t.parquet")


def canonical(rows: list[dict[str, Any]]) -> pa.Table:
    filled = [{"url": f"http://a.example/{number}", **GOOD, **row} for number, row in enumerate(rows)]
    return pa.Table.from_pylist(filled, canonical_schema())


def test_urls_must_be_there_and_of_the_web() -> None:
    urls = [None, "", "  ", "ftp://a/b", "file:///etc/passwd", "HTTPS://a.example/x", " http://a.example/y"]
    found = reasons([{"url": url} for url in urls])
    assert found == ["no_url", "no_url", "no_url", "not_http", "not_http", None, None]


def test_captions_must_be_there_and_of_the_length_asked_for() -> None:
    captions = [None, "", "   ", "ab", "abcd", "x" * 11]
    found = reasons(
        [{"caption": text} for text in captions], min_caption_characters=3, max_caption_characters=10
    )
    assert found == ["no_caption", "short_caption", "short_caption", "short_caption", None, "long_caption"]


@pytest.mark.parametrize(
    ("row", "rule", "reason"),
    [
        ({"width": 199}, {"min_side": 200}, "small_in_table"),
        ({"height": 99}, {"max_aspect": 3.0}, "narrow_in_table"),
        (
            {"clip_similarity_b32": 0.27},
            {"min_clip_similarity_b32": 0.28},
            "low_clip_similarity_b32_in_table",
        ),
        ({"clip_similarity_l14": 0.2}, {"min_clip_similarity_l14": 0.21}, "low_clip_similarity_l14_in_table"),
        ({"aesthetic_laion_v1": 6.9}, {"min_aesthetic_laion_v1": 7.0}, "low_aesthetic_laion_v1_in_table"),
        ({"aesthetic_laion_v2": 4.9}, {"min_aesthetic_laion_v2": 5.0}, "low_aesthetic_laion_v2_in_table"),
        ({"nsfw_laion": 0.6}, {"max_nsfw_laion": 0.5}, "high_nsfw_laion_in_table"),
        ({"nsfw_coyo": 0.6}, {"max_nsfw_coyo": 0.5}, "high_nsfw_coyo_in_table"),
        ({"watermark_laion": 0.6}, {"max_watermark_laion": 0.5}, "high_watermark_laion_in_table"),
        ({"watermark_coyo": 0.6}, {"max_watermark_coyo": 0.5}, "high_watermark_coyo_in_table"),
        ({"nsfw_tag": "NSFW"}, {"refused_nsfw_tags": ("NSFW", "UNSURE")}, "nsfw_tag_in_table"),
        ({"caption": "cat"}, {"min_caption_words": 2}, "caption_of_few_words"),
    ],
)
def test_a_threshold_refuses_what_is_beyond_it_and_nothing_when_off(
    row: dict[str, Any], rule: dict[str, Any], reason: str
) -> None:
    assert reasons([row, {}], **rule) == [reason, None]
    assert reasons([row, {}]) == [None, None]


@pytest.mark.parametrize(
    ("column", "rule", "name"),
    [
        ("width", {"min_side": 200}, "size"),
        ("height", {"max_aspect": 3.0}, "size"),
        ("clip_similarity_b32", {"min_clip_similarity_b32": 0.28}, "clip_similarity"),
        ("nsfw_tag", {"refused_nsfw_tags": ("NSFW",)}, "nsfw_tag"),
    ],
)
def test_a_missing_value_is_kept_dropped_or_fatal_as_the_policy_says(
    column: str, rule: dict[str, Any], name: str
) -> None:
    rows = [{column: None}, {}]
    assert outcome(rows, missing="keep", **rule) == ([None, None], {name: 1})
    assert reasons(rows, missing="drop", **rule) == [f"no_{name}_in_table", None]
    with pytest.raises(GigaganError, match=rf"t\.parquet: 1 of 2 rows have no {name}.*filter\.missing"):
        reasons(rows, missing="fail", **rule)


def test_the_first_of_equal_urls_stays_unless_it_was_refused_itself() -> None:
    same = "http://a.example/same"
    found = reasons([{"url": same}, {"url": same}, {}, {"url": same}])
    assert found == [None, "duplicate_url", None, "duplicate_url"]
    assert reasons([{"url": same, "caption": None}, {"url": same}]) == ["no_caption", None]


def test_a_row_has_one_reason_only() -> None:
    assert reasons([{"url": "ftp://x", "caption": None, "width": 1}], min_side=10) == ["not_http"]


PRIVATE = ["http://127.0.0.1/a", "http://127.1/a", "http://2130706433/a", "http://[::1]:80/a"]
PRIVATE += ["http://user@10.0.0.1/a", "https://169.254.169.254/latest", "http://[::ffff:192.168.0.1]/"]


@pytest.mark.parametrize("url", PRIVATE)
def test_an_address_that_is_not_public_is_not_asked_unless_it_is_allowed(url: str) -> None:
    rows = canonical([{"url": url}, {"url": "http://93.184.216.34/a"}])
    assert filter_rows(rows, FilterSettings(), "t")[0] == ["private_address", None]
    assert filter_rows(rows, FilterSettings(), "t", allow_private=True)[0] == [None, None]


@pytest.mark.parametrize(
    "url",
    [
        "http://a.example/two words.jpg",
        "http://bücher.example/ä/日本.jpg",
        "HTTP://A.EXAMPLE/x",
        "http://10.example/",
    ],
)
def test_a_strange_url_that_a_browser_opens_is_asked(url: str) -> None:
    assert reasons([{"url": url}]) == [None]


def test_a_url_that_an_earlier_part_of_the_table_asks_for_is_not_asked_again() -> None:
    rows = canonical([{}, {}, {"url": None}])
    found, _ = filter_rows(rows, FilterSettings(), "t", asked_before={"http://a.example/1"})
    assert found == [None, "duplicate_url", "no_url"]


@pytest.mark.parametrize(
    ("rule", "other"),
    [
        ({"min_aesthetic_laion_v1": 7.0}, "aesthetic_laion_v2"),
        ({"min_aesthetic_laion_v2": 5.0}, "aesthetic_laion_v1"),
        ({"max_watermark_laion": 0.5}, "watermark_coyo"),
        ({"max_watermark_coyo": 0.5}, "watermark_laion"),
    ],
)
def test_a_score_by_another_model_is_no_score(rule: dict[str, float], other: str) -> None:
    family = other.partition("_")[0]
    own = next(iter(rule)).partition("_")[2]
    # The other model's score is as good or bad as can be: it must not count.
    for value in (0.0, 10.0):
        row = {own: None, other: value}
        assert outcome([row], missing="keep", **rule) == ([None], {family: 1})
        assert reasons([row], missing="drop", **rule) == [f"no_{family}_in_table"]


def test_a_row_is_judged_by_the_models_that_judged_it() -> None:
    laion = {"aesthetic_laion_v2": None, "watermark_coyo": None, "clip_similarity_l14": None}
    coyo = {"aesthetic_laion_v1": None, "watermark_laion": None}
    rows = [laion, coyo, {**laion, "aesthetic_laion_v1": 6.0}, {**coyo, "aesthetic_laion_v2": 4.0}]
    found, missing = outcome(rows, preset="gigagan", missing="drop")
    low = "low_aesthetic_laion_{}_in_table"
    assert found == [None, None, low.format("v1"), low.format("v2")]
    assert missing == {"clip_similarity": 0, "aesthetic": 0, "watermark": 0}


@pytest.mark.parametrize(
    ("preset", "row", "reason"),
    [
        ("laion-aesthetic", {"watermark_laion": 0.81}, "high_watermark_laion_in_table"),
        ("laion-aesthetic", {"aesthetic_laion_v1": 6.9}, "low_aesthetic_laion_v1_in_table"),
        ("laion-aesthetic", {"nsfw_laion": None}, "no_nsfw_in_table"),
        ("sd-v1", {"aesthetic_laion_v2": 4.9}, "low_aesthetic_laion_v2_in_table"),
        ("sd-v1", {"width": 511}, "small_in_table"),
        ("datacomp-basic", {"caption": "cat  cats"}, "caption_of_few_words"),
        ("datacomp-basic", {"caption": "a b c"}, "short_caption"),
        ("datacomp-basic", {"height": 199}, "small_in_table"),
        ("coyo-basic", {"nsfw_coyo": 0.51}, "high_nsfw_coyo_in_table"),
        ("coyo-basic", {"width": 3601}, "narrow_in_table"),
        ("gigagan", {"watermark_coyo": 0.51}, "high_watermark_coyo_in_table"),
    ],
)
def test_a_preset_refuses_what_its_publisher_refused(preset: str, row: dict[str, Any], reason: str) -> None:
    large = {"width": 1200, "height": 1200, "caption": "a cat on a mat"}
    assert reasons([large, {**large, **row}], preset=preset) == [None, reason]


def test_what_is_given_beside_a_preset_wins() -> None:
    settings = with_overrides(
        IngestSettings(), ["filter.preset=sd-v1", "filter.min_side=64"]
    ).filter.resolved()
    assert (settings.min_side, settings.min_aesthetic_laion_v2, settings.missing) == (64, 5.0, "drop")
    assert settings.resolved() == settings
    assert with_overrides(IngestSettings(), ["filter.missing=fail"]).filter.resolved().missing == "fail"


@pytest.mark.parametrize("name", FILTER_PRESETS)
def test_a_partition_is_known_by_the_numbers_of_a_preset_and_not_by_its_name(name: str) -> None:
    spelt = FilterSettings(**FILTER_PRESETS[name])
    by_name, by_number = (
        PartitionSettings.of(IngestSettings(filter=settings, fetch=FetchSettings()), 0, 1)
        for settings in (FilterSettings(preset=name), spelt)
    )
    assert result_settings(by_name) == result_settings(by_number)
    assert result_settings(by_name) != result_settings(PartitionSettings.of(IngestSettings(), 0, 1))
