"""Rules over all partitions: every rejection has a reason, and the counts add up."""

from __future__ import annotations

import random
import tracemalloc
from typing import Any

import pyarrow as pa
import pytest

from gigagan_core.config.ingest import IngestSettings
from gigagan_core.data.download import partition_schema
from gigagan_core.data.marks import Marks
from gigagan_core.data.rules import Rules

GOOD = {
    "status": "success",
    "selected": True,
    "original_width": 160,
    "original_height": 160,
    "caption": "a cat",
}


def partition(*rows: dict[str, Any], first: int = 0) -> pa.Table:
    filled = []
    for number, row in enumerate(rows, first):
        own = {
            "key": f"k{number}",
            "url": f"http://a/{number}",
            "sha256": f"s{number}",
            "phash": f"p{number}",
        }
        filled.append({**dict.fromkeys(partition_schema().names), **own, **GOOD, **row})
    return pa.Table.from_pylist(filled, partition_schema())


def statuses(*partitions: pa.Table, **rules: Any) -> list[list[str]]:
    applied = Rules(IngestSettings(image_size=128, rules=rules))
    return [applied.apply(rows)["status"].to_pylist() for rows in partitions]


@pytest.mark.parametrize(
    ("row", "rules", "reason"),
    [
        ({"caption": " "}, {}, "caption_too_few_words"),
        ({"caption": "one"}, {"min_caption_words": 2}, "caption_too_few_words"),
        ({"caption": "one two three"}, {"max_caption_words": 2}, "caption_too_many_words"),
        ({"original_height": 127}, {}, "picture_too_small"),
        ({"original_width": 500}, {"max_aspect": 3.0}, "picture_too_narrow"),
        ({"url": "http://a/0"}, {}, "duplicate_url"),
        ({"sha256": "s0"}, {}, "duplicate_bytes"),
        ({"phash": "p0"}, {}, "duplicate_picture"),
    ],
)
def test_each_rule_rejects_by_its_name_across_partitions(
    row: dict[str, Any], rules: dict[str, Any], reason: str
) -> None:
    first, second = partition({}), partition(row, first=1)
    assert statuses(first, second, **rules) == [["success"], [reason]]


@pytest.mark.parametrize(
    ("row", "rules"),
    [
        ({"original_height": 127}, {"min_side": 100}),
        ({"url": "http://a/0"}, {"duplicate_urls": False}),
        ({"sha256": "s0"}, {"duplicate_bytes": False}),
        ({"phash": "p0"}, {"duplicate_pictures": "off"}),
        # A variant in another skin tone is nearly the same picture with another name.
        ({"phash": "p0", "caption": "a cat, dark skin tone"}, {}),
    ],
)
def test_a_rule_that_is_off_or_does_not_apply_keeps_the_row(
    row: dict[str, Any], rules: dict[str, Any]
) -> None:
    assert statuses(partition({}), partition(row, first=1), **rules) == [["success"], ["success"]]


def test_equal_hashes_alone_are_enough_where_captions_do_not_count() -> None:
    rows = partition({}), partition({"phash": "p0", "caption": "another"}, first=1)
    assert statuses(*rows, duplicate_pictures="any-caption") == [["success"], ["duplicate_picture"]]


def test_the_tables_own_hash_and_the_caption_make_a_duplicate_across_partitions() -> None:
    first = partition({"image_phash": "e9d6", "source": "coyo-700m"})
    others = [
        {"image_phash": "e9d6", "source": "coyo-700m"},
        {"image_phash": "e9d6", "source": "coyo-700m", "caption": "another"},
        {"image_phash": "e9d6", "source": "another publisher's"},
        {"image_phash": None, "source": "coyo-700m"},
    ]
    rejected = ["duplicate_picture_in_table", "success", "success", "success"]
    assert statuses(first, partition(*others, first=1)) == [["success"], rejected]
    rejected[1] = "duplicate_picture_in_table"
    second = partition(*others, first=1)
    assert statuses(first, second, duplicate_pictures="any-caption") == [["success"], rejected]
    assert statuses(first, second, duplicate_pictures="off") == [["success"], ["success"] * 4]


def test_a_rejected_row_makes_no_other_row_a_duplicate() -> None:
    rows = partition({"original_width": 10}, {"sha256": "s0"}, {"sha256": "s0"})
    assert statuses(rows) == [["picture_too_small", "success", "duplicate_bytes"]]


def test_rows_in_are_rows_out_and_rows_rejected() -> None:
    rules = Rules(IngestSettings(image_size=128))
    failed = {
        "status": "http_404",
        "original_width": None,
        "original_height": None,
        "sha256": None,
        "phash": None,
    }
    applied = rules.apply(partition({}, failed, {"sha256": "s0"}, {}, {"caption": None, **failed}))
    assert rules.outcome() == {"in": 5, "out": 2, "rejected": {"duplicate_bytes": 1, "http_404": 2}}
    assert applied["selected"].to_pylist() == [True, False, False, True, False]
    assert applied.schema == partition_schema()


# ---- what was seen -----------------------------------------------------------------------------------


def test_marks_hold_what_was_put_in_and_nothing_else_however_they_are_merged() -> None:
    marks, known = Marks(block=16), set()
    rng = random.Random(0)
    for _ in range(400):
        some = [rng.getrandbits(64), rng.randrange(4000), 2**64 - 1][: rng.randrange(4)]
        known |= set(some)
        marks.update(some)
        asked = [*some, rng.randrange(4000), rng.getrandbits(64)]
        assert [mark in marks for mark in asked] == [mark in known for mark in asked]
    assert all(mark in marks for mark in known)


def test_a_mark_takes_eight_bytes_beside_the_newest_ones() -> None:
    block = 2**12
    before = tracemalloc.start() or tracemalloc.get_traced_memory()[0]
    marks = Marks(block)
    for first in range(0, 64 * block, block):
        marks.update(range(first, first + block))
    held = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert held / (64 * block) < 9


def test_duplicates_are_found_after_the_marks_of_the_first_were_merged() -> None:
    rules = Rules(IngestSettings(image_size=128), _seen=Marks(block=4))
    first = [rules.apply(partition({}, first=number))["status"].to_pylist() for number in range(9)]
    assert first == [["success"]] * 9
    again = [rules.apply(partition({}, first=number))["status"].to_pylist() for number in range(9)]
    assert again == [["duplicate_url"]] * 9
