"""Tables of captions beside pictures: no caption is changed, lost or made up."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gigagan_core.data.caption_tables import read_captions
from gigagan_core.errors import GigaganError


def parquet(folder: Path, names: pa.Array, captions: pa.Array) -> Path:
    path = folder / "captions.parquet"
    pq.write_table(pa.table({"file": names, "caption": captions}), path)
    return path


@pytest.mark.parametrize("kind", [pa.string(), pa.binary(), pa.large_string(), pa.string_view()], ids=str)
def test_names_and_captions_of_any_text_type_are_texts(tmp_path: Path, kind: pa.DataType) -> None:
    path = parquet(tmp_path, pa.array(["a.png", "b.png"]).cast(kind), pa.array(["one", None]).cast(kind))
    assert read_captions(path) == {"a.png": "one", "b.png": None}


def test_missing_captions_are_missing_whatever_the_columns_type(tmp_path: Path) -> None:
    path = parquet(tmp_path, pa.array(["a.png", "b.png"]), pa.array([float("nan"), None]))
    assert read_captions(path) == {"a.png": None, "b.png": None}


def test_numbers_in_the_place_of_captions_are_one_sentence(tmp_path: Path) -> None:
    path = parquet(tmp_path, pa.array(["a.png", "b.png"]), pa.array([float("nan"), 1.5]))
    with pytest.raises(GigaganError, match=r"captions .* cannot be read \(it holds no text\); give a \.csv"):
        read_captions(path)


def test_numbers_of_classes_are_names(tmp_path: Path) -> None:
    path = parquet(tmp_path, pa.array([0, 7]), pa.array(["tench", "cock"]))
    assert read_captions(path) == {"0": "tench", "7": "cock"}


def test_a_row_without_a_name_captions_nothing(tmp_path: Path) -> None:
    assert read_captions(parquet(tmp_path, pa.array(["a.png", None]), pa.array(["x", "y"]))) == {"a.png": "x"}


@pytest.mark.parametrize("ending", ["csv", "tsv", "txt"])
def test_blank_lines_and_a_byte_order_mark_are_passed_over(tmp_path: Path, ending: str) -> None:
    gap = {"csv": ",", "tsv": "\t", "txt": " "}[ending]
    rows = [("image", "caption")] * (ending != "txt") + [("a.png", "one"), ("b.png", "two")]
    path = tmp_path / f"captions.{ending}"
    path.write_text("\ufeff" + "\n\n".join(gap.join(row) for row in rows) + "\n\n", encoding="utf-8")
    assert read_captions(path) == {"a.png": "one", "b.png": "two"}


def test_a_name_that_stands_alone_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "captions.csv"
    path.write_text("image,caption\na.png,one\nb.png\n")
    with pytest.raises(GigaganError, match=r"cannot be read \('b\.png' stands alone in its row\)"):
        read_captions(path)


def test_several_captions_of_one_picture_are_one_sentence_and_none_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "captions.csv"
    path.write_text("image,caption\na.png,one\na.png,two\na.png,three\nb.png,bee\n")
    with pytest.raises(GigaganError, match=r"captions\.csv names a\.png 3 times; keep one caption for each"):
        read_captions(path)
    path.write_text(path.read_text() + "b.png,bee\n")
    with pytest.raises(GigaganError, match=r"names a\.png 3 times, and 1 others more than once"):
        read_captions(path)
