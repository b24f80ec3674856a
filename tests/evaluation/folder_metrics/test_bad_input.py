"""Every kind of bad input to a comparison of folders: one sentence each."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image

from gigagan_core.errors import GigaganError
from gigagan_core.evaluation.captions import captions_of, read_captions
from gigagan_core.evaluation.extraction import loaded
from gigagan_core.evaluation.extractors.registry import ExtractorPlace

from .conftest import values

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*")


def test_folders_that_are_missing_empty_or_of_other_files_are_named(compare, tmp_path):
    with pytest.raises(GigaganError, match="is no folder"):
        compare(real=tmp_path / "none")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(GigaganError, match="empty holds no images"):
        compare(fake=empty)
    (empty / "a.txt").write_text("x")
    with pytest.raises(GigaganError, match="holds no images"):
        compare(fake=empty)


def test_counts_that_differ_and_names_that_do_not_pair_are_refused_for_paired_measures_only(
    compare, picture_folder, tmp_path, sets
):
    fewer = picture_folder(39, 48, 2)
    with pytest.raises(GigaganError, match=r"holds 40 images and .* 39; PSNR"):
        compare(fake=fewer, metrics=("fd", "psnr"))
    assert compare(fake=fewer, metrics=("fd",)).figures[0].fake == 39
    renamed = tmp_path / "renamed"
    shutil.copytree(sets[1], renamed)
    (renamed / "0003.png").rename(renamed / "x.png")
    with pytest.raises(GigaganError, match=r"do not pair by name \(0003\)"):
        compare(fake=renamed, metrics=("ssim",))
    with pytest.raises(GigaganError, match="differ in size"):
        compare(fake=picture_folder(40, 32, 2), metrics=("psnr",))


@pytest.mark.parametrize(("backbone", "smallest"), [("alex", 31), ("vgg", 16)])
def test_images_too_small_for_a_measure_are_one_sentence(compare, picture_folder, backbone, smallest):
    small = {"real": picture_folder(4, 8, 1), "fake": picture_folder(4, 8, 2)}
    with pytest.raises(GigaganError, match=rf"LPIPS by {backbone} takes images of at least {smallest} px"):
        compare(**small, metrics=("lpips",), lpips=f"{backbone}:not-looked-at.pth")
    with pytest.raises(GigaganError, match="SSIM needs images of at least 11 pixels"):
        compare(**small, metrics=("ssim",))


def test_a_work_folder_that_cannot_be_written_is_one_sentence(compare, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(
        GigaganError, match=r"features cannot be written below .*file \(Not a directory\); make room"
    ):
        compare(work=tmp_path / "file")


def test_images_that_repeat_are_said(compare, sets, tmp_path):
    fake = tmp_path / "fake"
    shutil.copytree(sets[1], fake)
    for copy in ("a.png", "b.png"):
        shutil.copy(fake / "0000.png", fake / copy)
    assert (
        "2 of 42 generated images repeat another one, byte for byte"
        in compare(fake=fake, metrics=("fd",)).cautions
    )


def test_what_is_no_image_is_named_without_an_address_in_memory(compare, sets, tmp_path):
    fake = tmp_path / "fake"
    shutil.copytree(sets[1], fake)
    (fake / "0005.png").write_bytes(b"text")
    with pytest.raises(
        GigaganError, match=r"0005\.png does not decode \(no image format that Pillow knows\)"
    ):
        compare(fake=fake, metrics=("fd",))


def test_a_corrupt_image_is_named_or_left_out_and_counted(compare, sets, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(sets[1], broken)
    cut = (broken / "0005.png").read_bytes()[:200]
    (broken / "0005.png").write_bytes(cut)
    with pytest.raises(GigaganError, match=r"0005\.png does not decode \(.*\); remove or replace it"):
        compare(fake=broken, metrics=("fd",))
    measured = compare(fake=broken, metrics=("fd", "psnr"), skip_corrupt=True)
    assert list(values(measured)) == ["fd_openmoji-judge_48_39", "psnr_48_39"]
    assert measured.record["sets"]["fake"]["corrupt"][0][0] == "0005.png"
    assert "1 of 40 generated images do not decode and were left out" in measured.cautions


def test_features_that_are_not_finite_are_named(compare, judge, monkeypatch):
    extractor = loaded(ExtractorPlace(str(judge)))
    monkeypatch.setattr(
        extractor, "features_of", lambda prepared: np.full((len(prepared), 16), np.nan, dtype=np.float32)
    )
    for metric in ("fd", "kid", "precision-recall"):
        with pytest.raises(GigaganError, match="40 of 40 images have NaN or infinite features"):
            compare(metrics=(metric,))


def test_what_a_metric_needs_is_said_before_any_work(compare, judge, scripted_inception, tmp_path):
    for metric, wanted in {
        "is": "needs Inception",
        "clip-score": "needs captions: give --captions",
        "lpips": "needs its weights",
        "fidd": r"no metric 'fidd'; .*valid: .*patch-fd",
    }.items():
        with pytest.raises(GigaganError, match=wanted):
            compare(metrics=(metric,))
    assert not (tmp_path / "work").exists()
    with pytest.raises(GigaganError, match="cmmd needs a CLIP"):
        compare(metrics=("cmmd",), extractors=(f"inception:{scripted_inception}",))
    with pytest.raises(GigaganError, match="is given twice"):
        compare(extractors=(judge, judge))


def test_patches_of_images_of_different_sizes_are_refused(compare, picture_folder):
    for metrics in (("patch-fd",), ("fd", "patch-fd")):
        with pytest.raises(
            GigaganError, match=r"differ in size \(\[48, 48\] and \[32, 32\]\): 0000\.png; .*patch"
        ):
            compare(fake=picture_folder(40, 32, 2), metrics=metrics, patch_size=16)


def test_the_extractor_that_is_given_twice_is_named(compare, judge, scripted_inception, tmp_path):
    shutil.copytree(judge, tmp_path / "copy")
    with pytest.raises(GigaganError, match=r"extractor openmoji-judge is given twice"):
        compare(extractors=(f"inception:{scripted_inception}", judge, tmp_path / "copy"))


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        ("a.txt", "0000.png a cat\n", "line 1: no tab between file name and caption"),
        ("a.txt", "", "there are none"),
        ("a.jsonl", '{"file": "0000.png", "caption": "a"}\n{"file": "x"', "line 2: not a JSON object"),
        ("a.jsonl", '["0000.png", "a"]\n', "line 1: not a JSON object with a file and a caption"),
        ("a.jsonl", '{"caption": "a"}\n', "line 1: not a JSON object with a file and a caption"),
        ("a.csv", "picture,words\na.png,b\n", "line 2: .*header must name"),
        ("a.tsv", "file\tcaption\na.png\tb\na.png\tc\n", "line 3: 'a.png' has a second caption"),
        ("a.csv", "file,caption\na.png,a cat, sitting\n", "line 2: more fields than the header has columns"),
        ("a.csv", "file,caption\na.png,\n", "line 2: the caption of 'a.png' is blank"),
        ("a.csv", 'file,caption\na.png,"a cat\nb.png,a dog\n', "line 2: unexpected end of data; mend"),
        ("a.tsv", "file\tcaption\na.png\t" + 140_000 * "x" + "\n", r"line 2: field larger than .*; mend"),
        ("a.txt", "a.png\t \n", "line 1: the caption of 'a.png' is blank"),
        ("a.jsonl", '{"file": "a", "caption": ["b", "c"]}', "line 1: .*caption is no text"),
        ("a.jsonl", '{"file": ["a"], "caption": "b"}', "line 1: .*file is no text"),
        ("a.jsonl", '{"file": "a", "caption": 7}', "line 1: .*caption is no text but '7'"),
        ("a.txt", "0000.png\ta cat\n", r"39 of 40 images have no caption in .* \(first: 0001.png\)"),
    ],
)
def test_captions_that_cannot_be_read_or_do_not_cover_the_images_are_named(
    compare, tmp_path, name, text, wanted
):
    (tmp_path / name).write_text(text)
    with pytest.raises(GigaganError, match=wanted):
        compare(metrics=("clip-score",), captions=tmp_path / name)


def test_captions_of_no_image_are_said(compare, sets, tmp_path):
    file = tmp_path / "captions.txt"
    file.write_text("".join(f"{row:04}\tdisc {row}\n" for row in range(43)))
    cautions = compare(metrics=("clip-score",), captions=file).cautions
    assert cautions == (f"3 captions of {file} belong to no image",)


def test_one_caption_serves_one_file():
    captions = {"a/0.png": "cat", "0.png": "dog", "1": "bird"}
    assert captions_of(["a/0.png", "b/0.png", "b/1.png"], captions, "x") == (["cat", "dog", "bird"], 0)
    for files in (["b/0.png", "c/0.png"], ["0.png", "b/0.png"]):
        with pytest.raises(
            GigaganError, match=f"'0.png' may be {files[0]} or {files[1]}; name files by their"
        ):
            captions_of(files, captions, "x")
    with pytest.raises(GigaganError, match=r"'1' may be 1\.png or 1\.jpg"):
        captions_of(["1.png", "1.jpg"], captions, "x")


def test_captions_are_read_from_every_format(tmp_path):
    written = {
        "a.txt": "x/1.png\ta cat, red\n\n2\ta dog\n",
        "a.jsonl": '{"key": "x/1.png", "text": "a cat, red"}\n{"key": 2, "text": "a dog"}\n',
        "a.csv": 'file_name,caption\nx/1.png,"a cat, red"\n2,a dog\n',
        "a.tsv": "image\tprompt\nx/1.png\ta cat, red\n2\ta dog\n",
    }
    # captions of the web hold separators that are no line ends
    for cat in ("a cat", "a\u2028cat", "a\x85cat\x0b", "a cat\x1c"):
        for name, text in written.items():
            (tmp_path / name).write_text(text.replace("a cat", cat), encoding="utf-8")
            if name == "a.jsonl" and cat != cat.strip("\x0b\x1c"):
                continue  # JSON has these escaped
            assert read_captions(tmp_path / name) == {"x/1.png": f"{cat}, red", "2": "a dog"}


@pytest.mark.parametrize(("dtype", "ending"), [("uint16", "png"), ("int32", "tif"), ("float32", "tif")])
def test_greys_of_more_than_8_bits_are_refused_not_clipped_to_white(compare, picture_folder, dtype, ending):
    fake = picture_folder(12, 48, 2)
    Image.fromarray(np.full((48, 48), 30_000, dtype)).save(fake / f"deep.{ending}")
    with pytest.raises(
        GigaganError, match=rf"deep\.{ending} does not decode \(greys of more than 8 bits.*save it"
    ):
        compare(fake=fake, metrics=("fd",))
    assert compare(fake=fake, metrics=("fd",), skip_corrupt=True).figures[0].fake == 12


def test_a_single_image_is_refused_with_its_folder(compare, picture_folder):
    one, two = picture_folder(1, 48, 2), picture_folder(2, 48, 2)
    with pytest.raises(GigaganError, match=rf"{one} holds 1 image, .*fd needs at least 2 of either set"):
        compare(fake=one)
    assert "too few images for precision-recall, density-coverage" in compare(real=two, fake=two).cautions


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        (
            "whole.json",
            '[{"file_name": "a.png", "caption": "a cat"}]',
            r"line 1: not a JSON object with a file",
        ),
        (
            "short.csv",
            "file,caption\na.png,a cat\nb.png\n",
            r"line 3: fewer fields than the header has columns",
        ),
    ],
)
def test_captions_of_a_near_form_are_told_what_is_wrong_with_them(tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    with pytest.raises(GigaganError, match=said):
        read_captions(tmp_path / name)
