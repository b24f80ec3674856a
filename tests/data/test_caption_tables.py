"""Tables of captions beside pictures: no caption is changed, lost or made up."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gigagan_core.config.ingest import ImportSettings
from gigagan_core.data.caption_tables import read_captions
from gigagan_core.data.imports import plan_import
from gigagan_core.errors import GigaganError

from .importing import picture, write_files, write_tar


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


@pytest.mark.parametrize("first", ["a.png", "deep/A.JPEG", "scan.tiff", "0"])
def test_a_table_without_a_header_keeps_its_first_row(tmp_path: Path, first: str) -> None:
    path = tmp_path / "captions.csv"
    path.write_text(f"{first},one\nb.png,two\n")
    assert read_captions(path) == {first: "one", "b.png": "two"}


def test_a_first_row_that_names_what_is_there_is_no_header(tmp_path: Path) -> None:
    path = tmp_path / "classes.tsv"
    path.write_text("n01440764\ttench\nn01443537\tgoldfish\n")
    assert read_captions(path, {"n01440764"}) == {"n01440764": "tench", "n01443537": "goldfish"}
    assert read_captions(path) == {"n01443537": "goldfish"}


@pytest.mark.parametrize("content", ["", "file,caption\n", "\n\n"])
def test_a_table_without_a_row_is_one_sentence(tmp_path: Path, content: str) -> None:
    path = tmp_path / "captions.csv"
    path.write_text(content)
    with pytest.raises(GigaganError, match=r"captions .*captions\.csv has no row with a name; write file"):
        read_captions(path)


def test_a_table_in_a_form_that_is_not_read_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "metadata.jsonl"
    path.write_text('{"file_name": "a.png", "text": "one"}\n')
    with pytest.raises(
        GigaganError, match=r"captions .* cannot be read \(\.jsonl is not read\); give a \.csv"
    ):
        read_captions(path)


def test_a_table_without_a_header_captions_its_first_picture_too(tmp_path: Path) -> None:
    source = write_files(tmp_path / "in", {"a.png": picture(0, "PNG"), "b.png": picture(1, "PNG")})
    table = tmp_path / "captions.csv"
    table.write_text("a.png,one\nb.png,two\n")
    plan = plan_import(source, ImportSettings(), table)
    assert plan.captions == {"a.png": "one", "b.png": "two"}


@pytest.mark.parametrize("header", ["", "key\tcaption\n", "sample\ttext\n"])
def test_a_table_of_tars_keeps_its_first_sample_and_no_header(tmp_path: Path, header: str) -> None:
    pair = {"deep/alpha.png": picture(0, "PNG"), "deep/beta.png": picture(1, "PNG")}
    write_tar(tmp_path / "in" / "0.tar", {"zeta.png": picture(2, "PNG")})
    write_tar(tmp_path / "in" / "1.tar", pair)
    table = tmp_path / "captions.tsv"
    table.write_text(f"{header}deep/alpha\tone\nzeta\ttwo\n")
    plan = plan_import(tmp_path / "in", ImportSettings(), table)
    assert plan.captions == {"deep/alpha": "one", "zeta": "two"}


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (
            "id,file\n7,a.png\n",
            "names no picture of .*: it has '7' where 'a.png' lies; write the picture as it",
        ),
        ("/x/a.png,one\n", "names no picture of .*: it has '/x/a.png' where 'a.png' lies"),
    ],
)
def test_a_table_that_names_no_picture_is_one_sentence(tmp_path: Path, rows: str, sentence: str) -> None:
    source = write_files(tmp_path / "in", {"a.png": picture(0, "PNG")})
    table = tmp_path / "captions.csv"
    table.write_text(rows)
    with pytest.raises(GigaganError, match=sentence):
        plan_import(source, ImportSettings(), table)


def test_a_table_that_names_no_class_is_not_passed_over(tmp_path: Path) -> None:
    source = write_files(tmp_path / "in", {"n01/a.png": picture(0, "PNG")})
    table = tmp_path / "classes.csv"
    table.write_text("class,name\nn02,tench\n")
    with pytest.raises(GigaganError, match=r"names no class folder of .*: it has 'n02' where 'n01' lies"):
        plan_import(source, ImportSettings(), table)


def test_a_table_that_lies_beside_its_pictures_is_pointed_at(tmp_path: Path) -> None:
    source = write_files(tmp_path / "in", {"a.png": picture(0, "PNG"), "metadata.csv": b"file_name,text\n"})
    with pytest.raises(
        GigaganError, match=r"give a table of captions \(such as metadata\.csv, which is there\)"
    ):
        plan_import(source, ImportSettings())
