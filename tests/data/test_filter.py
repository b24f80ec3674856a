"""The metadata filter: every refusal has its reason, every missing value its policy."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from gigagan_core.config.ingest import FilterSettings
from gigagan_core.data.filter import filter_rows
from gigagan_core.errors import GigaganError

COLUMNS = {
    **dict.fromkeys(("url", "caption"), pa.string()),
    **dict.fromkeys(("width", "height"), pa.int32()),
    **dict.fromkeys(("clip_similarity", "watermark", "nsfw"), pa.float64()),
}
GOOD = {
    "caption": "a cat",
    "width": 300,
    "height": 200,
    "clip_similarity": 0.3,
    "watermark": 0.1,
    "nsfw": 0.1,
}


def reasons(rows: list[dict[str, Any]], **settings: Any) -> list[str | None]:
    return outcome(rows, **settings)[0]


def outcome(rows: list[dict[str, Any]], **settings: Any) -> tuple[list[str | None], dict[str, int]]:
    filled = [{"url": f"http://a.example/{number}", **GOOD, **row} for number, row in enumerate(rows)]
    table = pa.table({name: pa.array([row[name] for row in filled], kind) for name, kind in COLUMNS.items()})
    return filter_rows(table, FilterSettings(**settings), "t.parquet")


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
        ({"clip_similarity": 0.27}, {"min_clip_similarity": 0.28}, "low_clip_similarity_in_table"),
        ({"nsfw": 0.6}, {"max_nsfw": 0.5}, "nsfw_in_table"),
        ({"watermark": 0.6}, {"max_watermark": 0.5}, "watermark_in_table"),
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
        ("clip_similarity", {"min_clip_similarity": 0.28}, "clip_similarity"),
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
