"""Every publisher's table is known by its columns, and each score goes where its model's scores go."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from gigagan_core.data.schemas import SCORES, adapt, canonical_schema, detect
from gigagan_core.errors import GigaganError

SUM = "ab" * 32
LAION = {
    "URL": pa.array(["http://a.example/1"]),
    "TEXT": pa.array(["a cat"]),
    "WIDTH": pa.array([640], pa.int32()),
    "HEIGHT": pa.array([480], pa.int32()),
    "similarity": pa.array([0.31], pa.float64()),
}
TAGS = {
    "hash": pa.array([-7_000_000_000_000_000_001], pa.int64()),
    "punsafe": pa.array([0.25], pa.float32()),
    "pwatermark": pa.array([0.5], pa.float32()),
}
COYO = {
    "id": pa.array([4_892_263_981_056], pa.int64()),
    "url": pa.array(["http://a.example/1"]),
    "text": pa.array(["a cat"]),
    "width": pa.array([640], pa.int64()),
    "height": pa.array([480], pa.int64()),
    "image_phash": pa.array(["e9d6f0f0f0c0c0c0"]),
    "text_length": pa.array([5], pa.int64()),
    "word_count": pa.array([2], pa.int64()),
    "num_tokens_bert": pa.array([2], pa.int64()),
    "num_tokens_gpt": pa.array([2], pa.int64()),
    "num_faces": pa.array([0], pa.int64()),
    "clip_similarity_vitb32": pa.array([0.3125]),
    "clip_similarity_vitl14": pa.array([0.25]),
    "nsfw_score_opennsfw2": pa.array([0.125]),
    "nsfw_score_gantman": pa.array([0.75]),
    "watermark_score": pa.array([0.5]),
    "aesthetic_score_laion_v2": pa.array([4.75]),
}
DATACOMP = {
    "uid": pa.array(["f" * 32]),
    "url": pa.array(["http://a.example/1"]),
    "text": pa.array(["a cat"]),
    "original_width": pa.array([640], pa.int64()),
    "original_height": pa.array([480], pa.int64()),
    "clip_b32_similarity_score": pa.array([0.3125], pa.float32()),
    "clip_l14_similarity_score": pa.array([0.25], pa.float32()),
    "face_bboxes": pa.array([[[0.1, 0.2, 0.3, 0.4]]]),
    "sha256": pa.array([SUM]),
}
RELAION = {name.lower().replace("text", "caption"): column for name, column in {**LAION, **TAGS}.items()}
TABLES: dict[str, tuple[dict[str, pa.Array], dict[str, float]]] = {
    "laion2B-en": (
        {
            "SAMPLE_ID": pa.array([3_960_182_004_217], pa.int64()),
            **LAION,
            "LICENSE": pa.array(["?"]),
            "NSFW": pa.array(["UNLIKELY"]),
        },
        {"clip_similarity_b32": 0.31},
    ),
    "laion2B-en-joined": (
        {**LAION, **TAGS},
        {"clip_similarity_b32": 0.31, "nsfw_laion": 0.25, "watermark_laion": 0.5},
    ),
    "laion2B-en-aesthetic": (
        {
            **LAION,
            **TAGS,
            "WIDTH": pa.array([640.0]),
            "HEIGHT": pa.array([480.0]),
            "aesthetic": pa.array([7.25], pa.float32()),
        },
        {
            "clip_similarity_b32": 0.31,
            "nsfw_laion": 0.25,
            "watermark_laion": 0.5,
            "aesthetic_laion_v1": 7.25,
        },
    ),
    "laion2B-en-improved-aesthetics": (
        {**LAION, **TAGS, "AESTHETIC_SCORE": pa.array([6.25])},
        {
            "clip_similarity_b32": 0.31,
            "nsfw_laion": 0.25,
            "watermark_laion": 0.5,
            "aesthetic_laion_v2": 6.25,
        },
    ),
    "relaion2B-en": (
        RELAION,
        {"clip_similarity_b32": 0.31, "nsfw_laion": 0.25, "watermark_laion": 0.5},
    ),
    "coyo-700m": (
        COYO,
        {
            "clip_similarity_b32": 0.3125,
            "clip_similarity_l14": 0.25,
            "aesthetic_laion_v2": 4.75,
            "watermark_coyo": 0.5,
            "nsfw_coyo": 0.125,
        },
    ),
    "datacomp-commonpool": (DATACOMP, {"clip_similarity_b32": 0.3125, "clip_similarity_l14": 0.25}),
    "url-caption": ({"url": LAION["URL"], "caption": LAION["TEXT"]}, {}),
}


def canonical(columns: dict[str, Any]) -> list[dict[str, Any]]:
    table = pa.table(columns)
    schema = detect(tuple(table.column_names), "t.parquet")
    adapted = adapt(table, schema, SUM, 0, "t.parquet")
    assert adapted.schema == canonical_schema()
    return adapted.to_pylist()


@pytest.mark.parametrize("name", TABLES)
def test_a_publishers_table_is_known_and_its_scores_go_to_their_models_columns(name: str) -> None:
    columns, scores = TABLES[name]
    (row,) = canonical(columns)
    assert row["source"] == name
    assert (row["url"], row["caption"]) == ("http://a.example/1", "a cat")
    assert {score: row[score] for score in SCORES if row[score] is not None} == pytest.approx(scores)
    if name != "url-caption":
        assert (row["width"], row["height"]) == (640, 480)


@pytest.mark.parametrize("name", TABLES)
def test_the_order_of_the_columns_does_not_matter(name: str) -> None:
    columns, _ = TABLES[name]
    assert canonical(dict(reversed(columns.items())))[0]["source"] == name


def test_coyos_hash_is_canonical_in_one_spelling_and_an_empty_one_is_missing() -> None:
    assert canonical(COYO)[0]["image_phash"] == "e9d6f0f0f0c0c0c0"
    assert "image_phash" not in json.loads(canonical(COYO)[0]["extra"])
    for given, read in (("E9D6 ", "e9d6"), ("", None), (None, None)):
        table = {**COYO, "image_phash": pa.array([given], pa.string())}
        assert canonical(table)[0]["image_phash"] == read
    assert canonical({**COYO, "image_phash": pa.array([-7])})[0]["image_phash"] == "-7"
    assert canonical(DATACOMP)[0]["image_phash"] is None


def test_what_has_no_canonical_name_is_kept_in_extra() -> None:
    assert json.loads(canonical(COYO)[0]["extra"])["nsfw_score_gantman"] == 0.75
    assert json.loads(canonical({**LAION, **TAGS})[0]["extra"]) == {"hash": -7_000_000_000_000_000_001}
    extra = json.loads(canonical(DATACOMP)[0]["extra"])
    assert extra == {"uid": "f" * 32, "face_bboxes": [[0.1, 0.2, 0.3, 0.4]]}


def test_an_aesthetic_score_of_an_unknown_model_is_no_canonical_score() -> None:
    (row,) = canonical({"url": LAION["URL"], "text": LAION["TEXT"], "aesthetic": pa.array([7.0])})
    assert [row[score] for score in SCORES] == [None] * len(SCORES)
    assert json.loads(row["extra"]) == {"aesthetic": 7.0}


def test_sizes_of_joined_tables_may_be_doubles_with_nan() -> None:
    table = {**LAION, **TAGS, "WIDTH": pa.array([math.nan]), "HEIGHT": pa.array([480.0])}
    (row,) = canonical(table)
    assert (row["width"], row["height"]) == (None, 480)


def test_nsfw_tags_are_brought_to_one_spelling_and_empty_ones_are_missing() -> None:
    tags = ["UNLIKELY", " nsfw ", "", None, "Unsure"]
    table = {name: pa.concat_arrays([column] * len(tags)) for name, column in LAION.items()}
    rows = canonical({**table, "NSFW": pa.array(tags)})
    assert [row["nsfw_tag"] for row in rows] == ["UNLIKELY", "NSFW", None, None, "UNSURE"]


@pytest.mark.parametrize(
    "captions",
    [
        pa.array(["a cat", None, "å"], pa.large_string()),
        pa.array(["a cat", None, "å"]).dictionary_encode(),
        pa.array([b"a cat", None, "å".encode()], pa.binary()),
        pa.array([b"a cat", None, "å".encode()], pa.large_binary()),
        pa.array(["a cat", None, "å"], pa.string_view()),
        pa.array([b"a cat", None, "å".encode()], pa.binary_view()),
    ],
    ids=lambda column: str(column.type),
)
def test_captions_of_other_types_are_texts(captions: pa.Array) -> None:
    urls = pa.array([f"http://a.example/{row}" for row in range(3)])
    assert [row["caption"] for row in canonical({"url": urls, "text": captions})] == ["a cat", None, "å"]


def test_bytes_that_are_no_utf_8_are_a_missing_caption_and_spoil_no_other() -> None:
    urls = pa.array([f"http://a.example/{row}" for row in range(2)])
    broken = pa.array([b"caf\xe9", b"tea"], pa.binary())
    # What some writers leave in a column that says it is text.
    lying = pa.Array.from_buffers(pa.string(), 2, broken.buffers())
    for captions in (broken, lying):
        assert [row["caption"] for row in canonical({"url": urls, "text": captions})] == [None, "tea"]
    rows = canonical({"url": urls, "text": ["a", "b"], "licence": lying})
    assert [row["extra"] for row in rows] == [None, '{"licence": "tea"}']


@pytest.mark.parametrize(
    "missing", [pa.nulls(1), pa.array([math.nan]), pa.array([None], pa.int64())], ids=str
)
def test_a_column_of_nothing_is_missing_captions_whatever_its_type(missing: pa.Array) -> None:
    assert canonical({"url": LAION["URL"], "text": missing})[0]["caption"] is None


@pytest.mark.parametrize(
    "captions",
    [pa.array([7]), pa.array([7.5]), pa.array([True]), pa.array([["a", "b"]]), pa.array([{"en": "a"}])],
    ids=lambda column: str(column.type),
)
def test_captions_that_are_no_texts_are_one_sentence(captions: pa.Array) -> None:
    sentence = r"t\.parquet: column 'text' of type .* cannot be read as caption .*write the table again"
    with pytest.raises(GigaganError, match=sentence):
        canonical({"url": LAION["URL"], "text": captions})


@pytest.mark.parametrize(
    ("sums", "read"),
    [
        (pa.array([SUM.upper()]), SUM),
        (pa.array([bytes.fromhex(SUM)], pa.binary(32)), SUM),
        (pa.array([bytes.fromhex(SUM)], pa.binary()), SUM),
        (pa.array([SUM.encode()], pa.binary()), SUM),
        (pa.array(["d41d8cd98f00b204e9800998ecf8427e"]), None),
        (pa.array([""]), None),
        (pa.array([None], pa.string()), None),
    ],
    ids=str,
)
def test_sums_are_64_hex_digits_or_missing(sums: pa.Array, read: str | None) -> None:
    assert canonical({**DATACOMP, "sha256": sums})[0]["sha256"] == read


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("change", [str.lower, str.upper, str.capitalize])
def test_a_table_is_known_by_its_columns_in_any_case(name: str, change: Callable[[str], str]) -> None:
    columns, scores = TABLES[name]
    (row,) = canonical({change(column): values for column, values in columns.items()})
    assert (row["source"], row["url"], row["caption"]) == (name, "http://a.example/1", "a cat")
    assert {score: row[score] for score in SCORES if row[score] is not None} == pytest.approx(scores)


def test_of_columns_alike_but_for_case_the_published_spelling_counts_and_two_others_are_none() -> None:
    table = pa.table({"url": ["http://a.example/1"], "URL": ["x"], "Text": ["a cat"]})
    (row,) = canonical({name: table[name] for name in table.column_names})
    assert (row["url"], row["caption"], json.loads(row["extra"])) == (
        *("http://a.example/1", "a cat"),
        {"URL": "x"},
    )
    with pytest.raises(GigaganError, match="no schema known here"):
        detect(("Url", "URL", "text"), "t.parquet")


@pytest.mark.parametrize(
    "sizes",
    [
        pa.array([640, None, 2**62], pa.int64()),
        pa.array([640, None, 2**64 - 1], pa.uint64()),
        pa.array([640.0, math.nan, math.inf]),
        pa.array([Decimal("640.00"), None, Decimal("-1")], pa.decimal128(10, 2)),
        pa.array([" 640", "", "wide"]),
        pa.array(["6.4e2", None, "1_000"], pa.large_string()),
        pa.array(["640", None, "NaN"], pa.string_view()),
        pa.array([b"640", b"\xff", b"wide"]),
        pa.array([640.4, 0.9, 2**31 - 0.4]),
    ],
    ids=lambda column: str(column.type),
)
def test_sizes_of_every_type_are_whole_numbers_or_missing(sizes: pa.Array) -> None:
    table = {name: pa.concat_arrays([column] * 3) for name, column in (LAION | TAGS).items()}
    assert [row["width"] for row in canonical({**table, "WIDTH": sizes})] == [640, None, None]


@pytest.mark.parametrize("sizes", [pa.array([True]), pa.array([["640"]]), pa.array(["wide"])], ids=str)
def test_sizes_that_are_no_numbers_are_one_sentence(sizes: pa.Array) -> None:
    with pytest.raises(GigaganError, match=r"column 'WIDTH' of type .* cannot be read as width"):
        canonical({**LAION, **TAGS, "WIDTH": sizes})


@pytest.mark.parametrize("nothing", ["None", "N/A", "nan", " NULL ", "na", "-", "", None])
def test_a_piece_of_nothing_but_missing_sizes_stops_no_run(nothing: str | None) -> None:
    (row,) = canonical({**LAION, **TAGS, "WIDTH": pa.array([nothing], pa.string())})
    assert row["width"] is None


def test_a_few_rows_are_not_judged_where_that_is_asked_for() -> None:
    table = pa.table({**LAION, **TAGS, "WIDTH": ["wide"]})
    schema = detect(tuple(table.column_names), "t.parquet")
    assert adapt(table, schema, SUM, 0, "t.parquet", judged=False)["width"].to_pylist() == [None]


def test_extra_is_json_that_every_parser_reads() -> None:
    far = pa.array([2**55], pa.timestamp("s"))
    boxes = pa.array([[{"x": math.nan, "y": 0.5}]])
    (row,) = canonical({**COYO, "score": pa.array([math.inf]), "boxes": boxes, "seen": far})
    read = json.loads(row["extra"], parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert read["boxes"] == [{"x": None, "y": 0.5}]
    assert "score" not in read
    assert isinstance(read["seen"], str)


BYTES_NO_TEXT = pa.StringArray.from_buffers(1, *pa.array([b"\xff"]).buffers()[1:])


@pytest.mark.parametrize(
    ("column", "read"),
    [
        (pa.ListArray.from_arrays([0, 1], BYTES_NO_TEXT), None),
        (pa.array([5], pa.timestamp("us", tz="Mars/Phobos")), "1970-01-01 00:00:00.000005"),
        (pa.array([[2**62]], pa.list_(pa.timestamp("ms"))), None),
        (pa.array([{"t": 2**62}], pa.struct([("t", pa.timestamp("us"))])), None),
        (pa.array([[2**31 - 1]], pa.list_(pa.date32())), None),
        (pa.array([2**62], pa.duration("s")), None),
    ],
    ids=lambda value: str(getattr(value, "type", "")),
)
def test_a_column_that_nobody_uses_stops_no_run(column: pa.Array, read: str | None) -> None:
    (row,) = canonical({**COYO, "odd": column, "even": [1]})
    assert json.loads(row["extra"]).get("odd") == read
    assert json.loads(row["extra"])["even"] == 1


def test_a_value_that_python_has_none_for_takes_no_other_row_with_it() -> None:
    odd = pa.array([2**62, 5], pa.duration("s"))
    rows = canonical({**{name: [*values, *values] for name, values in COYO.items()}, "odd": odd})
    assert [json.loads(row["extra"]).get("odd") for row in rows] == [None, "0:00:05"]


def test_a_table_with_a_column_twice_is_one_sentence() -> None:
    with pytest.raises(GigaganError, match=r"t\.parquet has the column 'url' more than once; write it"):
        detect(("url", "text", "url"), "t.parquet")
