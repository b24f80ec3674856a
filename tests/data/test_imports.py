"""Pictures that are there already become a shard set that every later stage can read."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from gigagan_core.config.ingest import ImportSettings
from gigagan_core.data import import_writing
from gigagan_core.data.caption_tables import read_captions
from gigagan_core.data.imports import plan_import
from gigagan_core.data.reader import load_all
from gigagan_core.errors import GigaganError

from .helpers import rows_of
from .importing import by_name, picture, run, sample, write_files, write_tar

# ---- shards ------------------------------------------------------------------------------------------


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Two tars of img2dataset with LAION's scores; a number is in both, as it is when two sets are joined."""
    laion = {"similarity": 0.31, "hash": 5, "punsafe": 0.25, "pwatermark": 0.5, "aesthetic": 7.25}
    laion |= {"width": 24, "height": 20, "status": "success", "NSFW": "x"}
    first = {**sample(0, **laion), **sample(1, "png", pwatermark=None), **sample(2, "webp", aesthetic=7.0)}
    write_tar(tmp_path / "in" / "00000.tar", first)
    write_tar(tmp_path / "in" / "00001.tar", {**sample(3), **sample(0)})
    return tmp_path / "in"


def test_shards_are_imported_with_bytes_captions_and_scores(shards: Path, tmp_path: Path) -> None:
    artifact = run(shards, tmp_path / "store", licence="L", attribution="A")
    images, captions, keys = load_all(artifact, 16)
    assert images.shape == (4, 3, 16, 16)
    assert captions == ["caption 0", "caption 1", "caption 2", "caption 3"]
    assert len(set(keys)) == 4
    assert artifact.manifest["counts"] == {"in": 5, "out": 4, "rejected": {"duplicate_url": 1}}
    rows = rows_of(artifact)
    scores = ("clip_similarity_b32", "nsfw_laion", "watermark_laion", "aesthetic_laion_v1")
    assert [rows[0][name] for name in scores] == [0.31, 0.25, 0.5, 7.25]
    assert (rows[0]["url"], rows[0]["width"], rows[0]["label"]) == ("http://a.example/0", 24, None)
    assert json.loads(rows[0]["extra"])["hash"] == 5
    assert rows[0]["sha256"] == hashlib.sha256(picture(0)).hexdigest()
    # `aesthetic` without the rest of LAION's tags may be any model's.
    assert (rows[2]["aesthetic_laion_v1"], rows[2]["aesthetic_laion_v2"]) == (None, None)
    assert (artifact.notes["licence"], artifact.notes["layout"]) == ("L", "shards")
    with tarfile.open(artifact.path / "00000.tar") as tar:
        kept = {name: tar.extractfile(name).read() for name in tar.getnames()}
    assert [name.partition(".")[2] for name in kept] == [
        "jpg",
        "txt",
        "json",
        "png",
        "txt",
        "json",
        "webp",
        "txt",
        "json",
    ]
    assert kept[f"{rows[0]['key']}.jpg"] == picture(0)


def test_webdataset_classes_and_captions_in_json_are_read(tmp_path: Path) -> None:
    files = {
        "train/a.b/x.jpg": picture(0),
        "train/a.b/x.cls": b"7\n",
        "train/a.b/x.txt": b"seven",
        "train/y.seg.png": picture(1, "PNG"),
        "train/y.json": json.dumps({"caption": "only in the notes", "label": 3}).encode(),
        "train/z.json": b'{"caption": "no picture"}',
        "__index__.bin": b"x",
        "n.png": picture(2, "PNG"),
        "n.txt": b"caf\xe9",
        "n.json": b"[not json",
    }
    write_tar(tmp_path / "in" / "t.tar", files)
    rows = by_name(run(tmp_path / "in", tmp_path / "store"))
    assert {name: (row["status"], row["caption"], row["label"]) for name, row in rows.items()} == {
        "train/a.b/x": ("success", "seven", 7),
        "train/y": ("no_picture", "only in the notes", 3),
        "train/z": ("no_picture", "no picture", None),
        "n": ("no_caption", None, None),
    }


def test_a_sample_with_a_class_and_no_caption_is_called_by_its_class(tmp_path: Path) -> None:
    files: dict[str, bytes] = {}
    for number, name in enumerate(("numbered", "named", "tabled", "own", "by_key", "nothing", "truth")):
        files[f"{name}.jpg"] = picture(number)
        files |= {f"{name}.cls": b"7\n"} if name not in ("tabled", "nothing", "truth") else {}
    files |= {"named.json": b'{"class_name": "a cock"}', "tabled.cls": b"3", "own.txt": b"a bird, asleep"}
    files["truth.json"] = b'{"label": true}'
    table = tmp_path / "captions.csv"
    table.write_text("class,name\n3,a tench\nby_key,a hen\n")
    members = {name: files[name] for name in sorted(files)}
    artifact = run(write_tar(tmp_path / "in" / "0.tar", members).parent, tmp_path / "store", table)
    assert {
        name: (row["status"], row["caption"], row["label"]) for name, row in by_name(artifact).items()
    } == {
        "numbered": ("success", "class 7", 7),
        "named": ("success", "a cock", 7),
        "tabled": ("success", "a tench", 3),
        "own": ("success", "a bird, asleep", 7),
        "by_key": ("success", "a hen", 7),
        "nothing": ("no_caption", None, None),
        "truth": ("no_caption", None, None),
    }
    assert artifact.notes["captions_from"] == {"class number": 1, "class_name": 1, "table of classes": 1}


def test_a_table_without_a_caption_takes_none_from_a_sample(tmp_path: Path) -> None:
    files = {"own.jpg": picture(0), "own.txt": b"a bird", "other.jpg": picture(1), "other.cls": b"7"}
    table = tmp_path / "captions.parquet"
    pq.write_table(pa.table({"key": ["own", "7"], "caption": pa.nulls(2, pa.string())}), table)
    rows = by_name(run(write_tar(tmp_path / "in" / "0.tar", files).parent, tmp_path / "store", table))
    assert {name: row["caption"] for name, row in rows.items()} == {"own": "a bird", "other": "class 7"}


@pytest.mark.parametrize("cut", ["inside a picture", "between two samples", "to nothing"])
def test_a_tar_that_was_cut_is_one_sentence_wherever_it_was(shards: Path, tmp_path: Path, cut: str) -> None:
    path = shards / "00001.tar"
    with tarfile.open(path) as tar:
        members = tar.getmembers()
    ends = {
        "inside a picture": members[3].offset_data + 100,
        "between two samples": members[3].offset,
        "to nothing": 0,
    }
    path.write_bytes(path.read_bytes()[: ends[cut]])
    with pytest.raises(GigaganError, match=r"00001\.tar is no whole tar \(.*copy it again from its source"):
        run(shards, tmp_path / "store")
    assert not list(tmp_path.glob("store/import/*/manifest.json"))


def test_a_run_that_was_cut_off_goes_on_where_it_was(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(shards, tmp_path / "undisturbed")
    real, made, killed_at = import_writing.import_piece, [], 1

    def import_piece(plan: Any, piece: Any, *rest: Any) -> int:
        if piece.number == killed_at:
            raise KeyboardInterrupt
        made.append(piece.number)
        return real(plan, piece, *rest)

    monkeypatch.setattr(import_writing, "import_piece", import_piece)
    with pytest.raises(KeyboardInterrupt):
        run(shards, tmp_path / "store", threads=1)
    killed_at = None
    again = run(shards, tmp_path / "store", threads=1)
    assert made == [0, 1]
    assert again.output_digest == whole.output_digest


def test_a_second_import_of_the_same_folder_does_nothing_and_a_new_tar_is_seen(
    shards: Path, tmp_path: Path
) -> None:
    first = run(shards, tmp_path / "store")
    assert run(shards, tmp_path / "store") == first
    write_tar(shards / "00002.tar", sample(9))
    assert run(shards, tmp_path / "store").manifest["counts"]["in"] == 6


# ---- folders of pictures -----------------------------------------------------------------------------


def test_pictures_with_texts_beside_them(tmp_path: Path) -> None:
    files = {f"deep/{number}.jpg": picture(number) for number in range(4)} | {"b.PNG": picture(9, "PNG")}
    files |= {f"deep/{number}.txt": f"caption {number}\n".encode() for number in range(3)} | {
        "b.txt": "ä ☃".encode()
    }
    files |= {".hidden/x.jpg": b"x", "notes.md": b"x", "wrong.jpg": b"not a picture", "wrong.txt": b"x"}
    source = write_files(tmp_path / "in", files)
    artifact = run(source, tmp_path / "store", rows_per_shard=2)
    assert len(json.loads((artifact.path / "shards.json").read_text())) == 3
    rows = by_name(artifact)
    assert {name: (row["status"], row["caption"]) for name, row in rows.items()} == {
        **{f"deep/{number}.jpg": ("success", f"caption {number}") for number in range(3)},
        "deep/3.jpg": ("no_caption", None),
        "b.PNG": ("success", "ä ☃"),
        "wrong.jpg": ("not_an_image", "x"),
    }
    assert artifact.manifest["counts"]["rejected"] == {"no_caption": 1, "not_an_image": 1}


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet", "txt"])
def test_pictures_with_a_table_of_captions(tmp_path: Path, kind: str) -> None:
    files = {f"{number}.jpg": picture(number) for number in range(3)} | {"moving.gif": b"GIF89a"}
    source = write_files(tmp_path / "in", files)
    rows = [("0.jpg", "a cat, asleep"), ("1.jpg", "two"), ("lost.jpg", "not there"), ("moving.gif", "x")]
    table = tmp_path / f"captions.{kind}"
    if kind == "parquet":
        pq.write_table(
            pa.table({"file_name": [row[0] for row in rows], "text": [row[1] for row in rows]}), table
        )
    elif kind == "txt":
        table.write_text("".join(f"{name} {caption}\n" for name, caption in rows))
    else:
        with open(table, "w", newline="") as file:
            csv.writer(file, delimiter="\t" if kind == "tsv" else ",").writerows(
                [("file_name", "text"), *rows]
            )
    found = by_name(run(source, tmp_path / "store", table))
    assert {name: (row["status"], row["caption"]) for name, row in found.items()} == {
        "0.jpg": ("success", "a cat, asleep"),
        "1.jpg": ("success", "two"),
        "2.jpg": ("no_caption", None),
        "lost.jpg": ("no_picture", "not there"),
        "moving.gif": ("not_an_image", "x"),
    }


def test_a_table_of_captions_reaches_no_file_outside_the_folder(tmp_path: Path) -> None:
    write_files(tmp_path, {"outside.jpg": picture(1), "in/a.jpg": picture(0)})
    names = ["a.jpg", "../outside.jpg", str(tmp_path / "outside.jpg")]
    pq.write_table(pa.table({"file": names, "text": ["x"] * 3}), tmp_path / "captions.parquet")
    rows = by_name(run(tmp_path / "in", tmp_path / "store", tmp_path / "captions.parquet"))
    assert {name: row["status"] for name, row in rows.items()} == {
        names[0]: "success",
        names[1]: "no_picture",
        names[2]: "no_picture",
    }


def test_a_folder_for_each_class_gives_names_and_numbers(tmp_path: Path) -> None:
    files = {
        f"{name}/{number}.JPEG": picture(10 * place + number)
        for place, name in enumerate(("tree_frog", "cat"))
        for number in range(2)
    }
    source = write_files(tmp_path / "in", {**files, "cat/more/3.JPEG": picture(99)})
    artifact = run(source, tmp_path / "store")
    assert artifact.notes["classes"] == ["cat", "tree_frog"]
    rows = by_name(artifact)
    assert {(name.partition("/")[0], row["caption"], row["label"]) for name, row in rows.items()} == {
        ("cat", "cat", 0),
        ("tree_frog", "tree frog", 1),
    }
    assert pq.read_schema(artifact.path / "00000.parquet").field("label").type == pa.int32()
    with tarfile.open(artifact.path / "00000.tar") as tar:
        labels = [
            json.loads(tar.extractfile(name).read())["label"]
            for name in tar.getnames()
            if name.endswith(".json")
        ]
    assert sorted(labels) == [0, 0, 0, 1, 1]


def test_imagenets_codes_get_their_names_from_a_table(tmp_path: Path) -> None:
    source = write_files(tmp_path / "in", {"n01440764/a.JPEG": picture(0), "n01443537/a.JPEG": picture(1)})
    names = tmp_path / "LOC_synset_mapping.txt"
    names.write_text("n01440764 tench, Tinca tinca\nn01443537 goldfish, Carassius auratus\n")
    rows = rows_of(run(source, tmp_path / "store", names))
    assert [(row["caption"], row["label"]) for row in rows] == [
        ("tench, Tinca tinca", 0),
        ("goldfish, Carassius auratus", 1),
    ]


def test_pictures_are_shrunk_where_a_size_is_asked_for(tmp_path: Path) -> None:
    source = write_files(
        tmp_path / "in", {"c/a.jpg": picture(0, size=(64, 48)), "c/b.jpg": picture(1, size=(8, 8))}
    )
    artifact = run(source, tmp_path / "store", image_size=16, encode_format="png")
    rows = by_name(artifact)
    assert rows["c/a.jpg"]["status"] == "success"
    assert (rows["c/a.jpg"]["original_width"], rows["c/a.jpg"]["original_height"]) == (64, 48)
    assert rows["c/b.jpg"]["status"] == "picture_too_small"
    with tarfile.open(artifact.path / "00000.tar") as tar:
        kept = tar.extractfile(f"{rows['c/a.jpg']['key']}.png").read()
    assert Image.open(io.BytesIO(kept)).size == (16, 16)


def test_equal_pictures_are_kept_once_and_pictures_without_urls_are_not_all_equal(tmp_path: Path) -> None:
    source = write_files(
        tmp_path / "in", {"c/a.jpg": picture(0), "c/b.jpg": picture(1), "c/c.jpg": picture(0)}
    )
    assert [row["status"] for row in rows_of(run(source, tmp_path / "store"))] == [
        "success",
        "success",
        "duplicate_bytes",
    ]


def test_a_copy_of_a_folder_gets_the_same_keys(tmp_path: Path) -> None:
    files = {"c/a.jpg": picture(0), "c/b.jpg": picture(1)}
    keys = [
        [row["key"] for row in rows_of(run(write_files(tmp_path / name, files), tmp_path / "store"))]
        for name in ("one", "other")
    ]
    assert keys[0] == keys[1]


def test_other_folders_with_tars_of_equal_names_and_sizes_have_other_keys(tmp_path: Path) -> None:
    keys = []
    for name, first in (("one", 0), ("other", 10)):
        files: dict[str, bytes] = {}
        for number in range(2):
            files |= {f"{number}.png": picture(first + number, "PNG", (8, 8)), f"{number}.txt": b"x"}
        path = write_tar(tmp_path / name / "0.tar", files)
        assert path.stat().st_size == 10_240
        keys += [row["key"] for row in rows_of(run(path.parent, tmp_path / "store"))]
    assert len(set(keys)) == 4


def test_other_class_folders_with_files_of_equal_names_and_sizes_have_other_keys(tmp_path: Path) -> None:
    keys = set()
    for name, shade in (("one", 0), ("other", 255)):
        body = io.BytesIO()
        Image.new("L", (8, 8), shade).save(body, "PNG", compress_level=0)
        keys |= {
            row["key"]
            for row in rows_of(
                run(write_files(tmp_path / name, {"c/a.png": body.getvalue()}), tmp_path / "s")
            )
        }
    assert len(keys) == 2


# ---- what is left out, or is no picture that is read -------------------------------------------------


def test_pictures_of_other_formats_are_counted_by_their_names(tmp_path: Path) -> None:
    files = {f"{name}/1.png": picture(place) for place, name in enumerate(("dog", "cat"))}
    files |= {"dog/2.bmp": picture(2, "BMP"), "dog/3.GIF": picture(3, "GIF")}
    artifact = run(write_files(tmp_path / "in", files), tmp_path / "store")
    assert artifact.notes["classes"] == ["cat", "dog"]
    assert {name: row["status"] for name, row in by_name(artifact).items()} == {
        "cat/1.png": "success",
        "dog/1.png": "success",
        "dog/2.bmp": "not_an_image",
        "dog/3.GIF": "not_an_image",
    }


def test_pictures_of_other_formats_in_tars_are_counted(tmp_path: Path) -> None:
    files = {"a.png": picture(0), "a.txt": b"x", "b.bmp": picture(1, "BMP"), "b.cls": b"3", "c.tiff": b"?"}
    files |= {"d.jfif": picture(2, "JPEG"), "d.txt": b"a JPEG by its other name"}
    rows = by_name(run(write_tar(tmp_path / "in" / "0.tar", files).parent, tmp_path / "store"))
    assert {name: row["status"] for name, row in rows.items()} == {
        "a": "success",
        "b": "not_an_image",
        "c": "no_caption",
        "d": "success",
    }


def test_tars_and_pictures_in_one_folder_are_one_sentence_until_one_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_files(tmp_path / "in", {"dog/1.png": picture(0), "top.gif": b"?", "dog/2.tar.gz": b"?"})
    write_tar(source / "backup.tar", sample(5))
    with pytest.raises(
        GigaganError, match=r"holds tars \(backup\.tar\) and pictures \(dog/1\.png\); set layout"
    ):
        run(source, tmp_path / "store")
    for layout, left_out in (
        ("shards", "3 (dog/1.png, dog/2.tar.gz, top.gif)"),
        ("classes", "3 (backup.tar, dog/2.tar.gz, top.gif)"),
    ):
        assert run(source, tmp_path / "store", layout=layout).manifest["counts"]["in"] == 1
        said = " ".join("".join(capsys.readouterr()).split())
        assert f"left out of layout={layout}: {left_out}" in said


def test_a_tar_in_capitals_is_one_and_a_packed_one_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tar(tmp_path / "in" / "a.TAR", sample(0))
    write_tar(tmp_path / "in" / "b.tar", sample(1))
    (tmp_path / "in" / "c.tar.gz").write_bytes(b"?")
    assert run(tmp_path / "in", tmp_path / "store").manifest["counts"]["in"] == 2
    assert "1 (c.tar.gz)" in " ".join("".join(capsys.readouterr()).split())
    with pytest.raises(GigaganError, match=r"holds no \.tar file and no picture .*, or unpack c\.tar\.gz"):
        plan_import(write_files(tmp_path / "packed", {"c.tar.gz": b"?"}), ImportSettings())


def test_a_strangers_notes_and_formats_spoil_no_import(tmp_path: Path) -> None:
    half, deep = r'{"caption": "a cat \ud83d", "url": "http://a.example/\ud83d"}', b"[" * 100_000
    numbers = '{"caption": "x", "width": 1e999, "height": 99999999999, "label": NaN, "punsafe": 1%s}' % (
        "0" * 400
    )
    views = io.BytesIO()
    Image.new("RGB", (24, 20)).save(views, "MPO", save_all=True, append_images=[Image.new("RGB", (24, 20))])
    files = {
        "half.jpg": picture(0),
        "half.json": half.encode(),
        "deep.jpg": picture(1),
        "deep.json": deep,
        "deep.txt": b"deep",
        "boxes.jpg": picture(5),
        "boxes.json": b'{"a": %s}' % (b"[" * 700 + b"]" * 700),
        "boxes.txt": b"boxes",
        "numbers.jpg": picture(2),
        "numbers.json": numbers.encode(),
        "class.jpg": picture(3),
        "class.cls": "²".encode(),
        "class.txt": b"class",
        "large.jpg": picture(4),
        "large.cls": b"99999999999",
        "large.txt": b"large",
        "views.jpg": views.getvalue(),
        "views.txt": b"views",
        "none.jpg": b"<html>",
        "none.txt": b"none",
    }
    write_tar(tmp_path / "in" / "0.tar", files)
    rows = by_name(run(tmp_path / "in", tmp_path / "store"))
    statuses = {name: row["status"] for name, row in rows.items()}
    kept = ("half", "deep", "numbers", "class", "large", "views", "boxes")
    assert statuses == {**dict.fromkeys(kept, "success"), "none": "not_an_image"}
    assert (rows["half"]["caption"], rows["half"]["url"]) == ("a cat ?", "http://a.example/?")
    assert [rows["numbers"][name] for name in ("width", "height", "label", "nsfw_laion")] == [None] * 4
    assert [rows[name]["label"] for name in ("class", "large")] == [None, None]
    assert rows["none"]["error_message"] == "it is no PNG, JPEG, WEBP", "the same in every run"


# ---- what cannot be imported -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "settings", "sentence"),
    [
        (None, {}, "is no folder; name the one"),
        ({"a.gif": b"x"}, {}, r"holds no \.tar file and no picture \(\.png"),
        ({"a.jpg": b"x"}, {}, "holds 1 pictures and no caption for them; put a .txt beside each"),
        ({"a.jpg": b"x"}, {"layout": "shards"}, r"holds no \.tar file; name the folder"),
        ({"a.jpg": b"x", "c/b.jpg": b"x"}, {"layout": "classes"}, "a.jpg lies in no class folder"),
    ],
)
def test_a_folder_of_nothing_to_import_is_one_sentence(
    tmp_path: Path, files: dict[str, bytes] | None, settings: dict[str, Any], sentence: str
) -> None:
    if files is not None:
        write_files(tmp_path / "in", files)
    with pytest.raises(GigaganError, match=sentence):
        plan_import(tmp_path / "in", ImportSettings(**settings))


def test_pictures_of_which_none_is_left_are_one_sentence(tmp_path: Path) -> None:
    source = write_files(tmp_path / "in", {"c/a.jpg": b"x", "c/b.jpg": picture(0)[:200]})
    with pytest.raises(GigaganError, match=r"none of 2 rows is left \(not_an_image 2\); .*these pictures"):
        run(source, tmp_path / "store")


def test_a_tar_without_a_sample_is_one_sentence(tmp_path: Path) -> None:
    write_tar(tmp_path / "in" / "0.tar", {"a.npy": b"x"})
    with pytest.raises(GigaganError, match="there is no row in these pictures; name another place"):
        run(tmp_path / "in", tmp_path / "store")


@pytest.mark.parametrize(
    ("name", "content"),
    [("lost.csv", None), ("one.csv", b"a\nb\n"), ("cut.parquet", b"PAR1"), ("bytes.txt", b"a caf\xe9\n")],
)
def test_a_table_of_captions_that_is_none_is_one_sentence(
    tmp_path: Path, name: str, content: bytes | None
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(GigaganError, match=rf"captions .*{name} cannot be read \(.*give a \.csv"):
        read_captions(path)
