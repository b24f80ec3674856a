"""Tables from outside: found, known by their columns, brought to one set of columns."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gigagan_core.data.openmoji import PublishedSet
from gigagan_core.data.schemas import CANONICAL, LAION_JOINED, SCORES, adapt, detect
from gigagan_core.data.tables import find_tables, read_rows
from gigagan_core.errors import GigaganError

HOSTILE = "<script>alert(1)</script> \x1b[31mred\x1b[0m \u202eevil"


def laion(**columns: list) -> pa.Table:
    rows = len(next(iter(columns.values())))
    values = {
        "URL": [f"http://a.example/{row}" for row in range(rows)],
        "TEXT": ["a cat"] * rows,
        "WIDTH": [300] * rows,
        "HEIGHT": [200] * rows,
        "similarity": [0.3] * rows,
        "hash": [1] * rows,
        "punsafe": [0.1] * rows,
        "pwatermark": [0.2] * rows,
        **columns,
    }
    return pa.table(values)


def canonical(table: pa.Table, sha256: str = "ab" * 32, start: int = 0) -> list[dict]:
    schema = detect(tuple(table.column_names), "t.parquet")
    return adapt(table, schema, sha256, start, "t.parquet").to_pylist()


def test_laion_becomes_canonical_columns_and_what_is_left_is_kept() -> None:
    row = canonical(laion(hash=[77]))[0]
    assert list(row) == list(CANONICAL)
    assert row["clip_similarity_b32"] == 0.3
    assert row["nsfw_laion"] == pytest.approx(0.1)
    assert row["watermark_laion"] == pytest.approx(0.2)
    assert row["aesthetic_laion_v1"] is None
    assert row["sha256"] is None
    assert row["source"] == "laion2B-en-joined"
    assert json.loads(row["extra"]) == {"hash": 77}


@pytest.mark.parametrize(("url", "caption"), [("url", "caption"), ("URL", "TEXT"), ("image_url", "text")])
def test_a_plain_table_is_known_by_a_url_and_a_caption_column(url: str, caption: str) -> None:
    row = canonical(pa.table({url: ["http://a.example/"], caption: ["x"], "day": [pa.scalar(3)]}))[0]
    assert (row["source"], row["url"], row["caption"]) == ("url-caption", "http://a.example/", "x")
    assert json.loads(row["extra"]) == {"day": 3}


def test_a_plain_tables_sizes_and_sums_are_known_and_its_scores_are_not() -> None:
    plain = {"url": ["http://a.example/"], "caption": ["x"], "SHA256": ["AB" * 32], "width": [640.0]}
    (row,) = canonical(pa.table({**plain, "height": ["480"], "aesthetic": [0.3]}))
    assert (row["sha256"], row["width"], row["height"]) == ("ab" * 32, 640, 480)
    assert not [score for score in SCORES if row[score] is not None]
    assert json.loads(row["extra"]) == {"aesthetic": 0.3}
    schema = detect(("link", "words", "width"), "t", url_column="link", caption_column="words")
    assert schema.columns == {"url": "link", "caption": "words", "width": "width"}


@pytest.mark.parametrize(
    "columns",
    [
        ("url", "caption", "width", "height", "punsafe", "pwatermark"),
        ("URL", "TEXT", "WIDTH", "HEIGHT", "similarity"),
        ("url", "text", "width", "height", "aesthetic_score_laion_v2"),
    ],
    ids=["Re-LAION without similarity", "LAION without NSFW", "a part of COYO"],
)
def test_a_part_of_a_published_table_keeps_its_sizes(columns: tuple[str, ...]) -> None:
    schema = detect(columns, "t")
    assert (schema.name, schema.columns["width"], schema.columns["height"]) == ("url-caption", *columns[2:4])


def test_columns_of_other_names_can_be_named() -> None:
    schema = detect(("link", "words"), "t", url_column="link", caption_column="words")
    assert schema.columns == {"url": "link", "caption": "words"}
    with pytest.raises(GigaganError, match=r"t has no column 'wrds'; did you mean 'words'"):
        detect(("link", "words"), "t", url_column="link", caption_column="wrds")


def test_sizes_that_are_no_sizes_are_null_and_scores_that_are_nan_too() -> None:
    rows = canonical(
        laion(
            WIDTH=[math.nan, 0.0, -5.0, 640.0],
            HEIGHT=[10.0, 20.0, math.inf, 480.0],
            similarity=[math.nan, None, 0.0, 0.5],
        )
    )
    assert [row["width"] for row in rows] == [None, None, None, 640]
    assert [row["height"] for row in rows] == [10, 20, None, 480]
    assert [row["clip_similarity_b32"] for row in rows] == [None, None, 0.0, 0.5]


def test_a_strangers_caption_is_data_to_the_last_byte() -> None:
    captions = [HOSTILE, None, "", "  spaces  ", "å\U0001f600\n\ttab"]
    assert [row["caption"] for row in canonical(laion(TEXT=captions))] == captions


def test_keys_say_table_and_row_and_never_meet() -> None:
    table = laion(TEXT=["a", "b", "c"])
    first = [row["key"] for row in canonical(table, "ab" * 32)]
    later = [row["key"] for row in canonical(table, "ab" * 32, start=3)]
    other = [row["key"] for row in canonical(table, "cd" * 32)]
    assert first == ["abababababab000000000", "abababababab000000001", "abababababab000000002"]
    assert len({*first, *later, *other}) == 9


def test_a_table_of_no_known_schema_is_one_sentence_with_both_sides() -> None:
    with pytest.raises(
        GigaganError, match=r"t has the columns a, b, which is no schema known here"
    ) as raised:
        detect(("a", "b"), "t")
    assert LAION_JOINED.name in str(raised.value)
    with pytest.raises(GigaganError, match=r"'laion' is not known; .*laion2B-en-joined"):
        detect(("URL", "TEXT"), "t", name="laion")
    with pytest.raises(
        GigaganError, match="columns URL, TEXT, and table_schema 'laion2B-en-joined' needs others"
    ):
        detect(("URL", "TEXT"), "t", name="laion2B-en-joined")


def test_a_column_of_an_impossible_type_is_named() -> None:
    with pytest.raises(GigaganError, match=r"column 'WIDTH' of type string cannot be read as width"):
        canonical(laion(WIDTH=["wide"]))


def test_tables_are_found_in_files_folders_and_lists(published: PublishedSet) -> None:
    from_folder = find_tables(published.train)
    assert [table.rows for table in from_folder] == [27, 27]
    assert find_tables([str(path) for path in published.train_tables]) == from_folder
    assert find_tables(published.train_tables[1]) == from_folder[1:]
    assert find_tables([published.train, published.train_tables[0]]) == from_folder
    assert len(from_folder[0].sha256) == 64


def test_a_piece_of_a_table_is_read_by_its_row_groups(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"n": list(range(100))}), path, row_group_size=7)
    assert read_rows(str(path), 0, 3)["n"].to_pylist() == [0, 1, 2]
    assert read_rows(str(path), 12, 20)["n"].to_pylist() == list(range(12, 32))
    assert read_rows(str(path), 95, 5)["n"].to_pylist() == [95, 96, 97, 98, 99]


@pytest.mark.parametrize(
    "name", ["with space", "ünï 日本", "br[v2]acket", "st*r", "{a,b}", "hash#tag", "a~b"]
)
def test_a_folder_of_any_name_is_read(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    pq.write_table(laion(TEXT=["a"]), folder / "part 0 [x].parquet")
    (folder / "._part 0 [x].parquet").write_bytes(b"what a Mac leaves beside a file")
    (folder / "part.parquet").mkdir()
    for given in (folder, folder / "part 0 [x].parquet"):
        (found,) = find_tables(given)
        assert read_rows(found.uri, 0, 1)["TEXT"].to_pylist() == ["a"]


def test_a_table_of_another_kind_is_told_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("url,caption\nhttp://a.example/,x\n")
    with pytest.raises(GigaganError, match=r"t\.csv .*write it as parquet where it is a CSV"):
        find_tables(tmp_path / "t.csv")


def test_metadata_that_is_no_metadata_is_one_sentence(tmp_path: Path, published: PublishedSet) -> None:
    with pytest.raises(GigaganError, match="does not exist"):
        find_tables(tmp_path / "nowhere")
    with pytest.raises(GigaganError, match=r"holds no .*parquet file"):
        find_tables(tmp_path)
    whole = published.train_tables[0].read_bytes()
    for name, content in {"cut": whole[: len(whole) // 2], "zero": b"", "text": b"URL,TEXT\n"}.items():
        (tmp_path / f"{name}.parquet").write_bytes(content)
        with pytest.raises(
            GigaganError, match=rf"{name}\.parquet is not a whole parquet file .*copy it again"
        ):
            find_tables(tmp_path / f"{name}.parquet")
    pq.write_table(laion(TEXT=["a"]).slice(0, 0), tmp_path / "empty.parquet")
    with pytest.raises(GigaganError, match=r"empty\.parquet is a parquet table without a row"):
        find_tables(tmp_path / "empty.parquet")


def test_blanks_around_a_columns_name_are_no_part_of_it() -> None:
    assert detect((" url", "Caption ", "\tWIDTH"), "t.parquet").columns == {
        "url": " url",
        "caption": "Caption ",
        "width": "\tWIDTH",
    }
    # Two of one name but for blanks: nothing says which is meant.
    with pytest.raises(GigaganError, match="which is no schema known here"):
        detect((" url", "URL ", "caption"), "t.parquet")
