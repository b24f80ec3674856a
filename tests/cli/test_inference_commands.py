"""`gigagan generate`, `interpolate`, `mix`, `upsample` and `export` as a person or a script calls them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from PIL import Image

from gigagan_core.cli.inference_options import NoiseOption
from gigagan_core.config.noise import LARGEST_NOISE
from gigagan_core.inference.outputs import read_record
from gigagan_core.inference.recipes import Walk, save_recipe

from .conftest import BASE, CLASSES, LARGER_BASE, UPSAMPLER, failure

# ---- generate --------------------------------------------------------------------------------------


def test_generate_takes_the_latest_models_and_says_where_the_pictures_are(trained, inside, tmp_path) -> None:
    done = inside("generate", "red apple", "a dog", "--count", "2", "--seed", "3")
    assert done.exit_code == 0, done.stderr
    assert done.stdout == ""
    shown = [line.split()[1] for line in done.stderr.splitlines() if line.startswith("picture ")]
    assert len(shown) == 4
    assert done.stderr.splitlines()[-1].endswith(shown[-1])
    for path in shown:
        assert Path(path).parent == tmp_path / "pictures"
        assert Image.open(path).size == (16, 16)
    assert read_record(Path(shown[1]))["prompt"] == "red apple"
    assert read_record(Path(shown[1]))["index"] == 1


def test_json_names_every_picture_and_the_models(trained, ask) -> None:
    document = ask("generate", "a dog", "--truncation", "0.7", "--upsampler", "none")
    (picture,) = document["pictures"]
    assert picture["truncation"] == 0.7
    assert picture["made_before"] is False
    assert Image.open(picture["path"]).size == (8, 8)
    assert set(document["model"]) == {"name", "sha256"}
    assert "upsampler" not in document


def test_json_is_all_there_is_on_standard_output(trained, gigagan) -> None:
    done = gigagan("generate", "a dog", "--json")
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["pictures"]) == 1


def test_what_is_there_is_not_made_again_unless_it_is_asked_for(trained, ask) -> None:
    first = ask("generate", "a dog")
    path = Path(first["pictures"][0]["path"])
    stamp = path.stat().st_mtime_ns
    again = ask("generate", "a dog", "a cat")
    assert [picture["made_before"] for picture in again["pictures"]] == [True, False]
    assert path.stat().st_mtime_ns == stamp
    other = ask("generate", "a dog", "--truncation", "0.5")
    assert other["pictures"][0]["path"] != str(path), "other settings are another picture"
    forced = ask("generate", "a dog", "--overwrite")
    assert forced["pictures"][0]["made_before"] is False
    assert path.stat().st_mtime_ns > stamp


def test_a_picture_of_the_command_line_is_the_pipelines(trained, ask, models) -> None:
    from gigagan_core.inference.pipeline import GigaGANPipeline
    from gigagan_core.store.store import open_store

    document = ask("generate", "a dog", "--count", "3", "--seed", "9", "--upsampler", "none")
    pipe = GigaGANPipeline.from_pretrained("latest", device="cpu", store=open_store(models.store))
    expected = np.asarray(pipe("a dog", seed=9, index=2).images[0]).astype(int)
    found = np.asarray(Image.open(document["pictures"][2]["path"])).astype(int)
    assert abs(found - expected).max() <= 1


def test_prompts_come_from_a_file_too(trained, ask, tmp_path) -> None:
    (tmp_path / "prompts.txt").write_text("a dog\n\n  a cat \n")
    document = ask("generate", "--prompts", "prompts.txt")
    assert [picture["prompt"] for picture in document["pictures"]] == ["a dog", "a cat"]


def test_a_prompt_too_long_for_the_encoder_is_a_warning(trained, ask) -> None:
    document = ask("generate", "one two three four five six seven")
    assert document["cut_prompts"] == ["one two three four five six seven"]
    assert "warning: the encoder reads 8 tokens" in document["said"]


def test_an_edited_prompt_that_is_too_long_is_one_warning(trained, ask) -> None:
    document = ask("interpolate", "one two three four five six seven", "a dog", "--columns", "2")
    assert document["said"].count("warning: the encoder reads 8 tokens") == 1


def test_a_model_of_classes_takes_labels(models, ask, inside) -> None:
    models.model(CLASSES, "base-model", None)
    document = ask("generate", "0", "3")
    assert [picture["prompt"] for picture in document["pictures"]] == [0, 3]
    assert "labels from 0 to 3" in failure(inside("generate", "4"))
    assert "'dog' is no label" in failure(inside("generate", "dog"))


def test_without_an_upsampler_pictures_stay_small_and_it_is_said(models, ask, inside) -> None:
    models.model(BASE, "base-model", models.encoder())
    document = ask("generate", "a dog")
    assert Image.open(document["pictures"][0]["path"]).size == (8, 8)
    assert "pictures stay at 8 px: store" in document["said"]
    assert "has no upsampler" in failure(inside("generate", "a dog", "--upsampler", "latest"))


def test_an_upsampler_of_another_size_enlarges_only_where_it_is_named(models, ask) -> None:
    encoder = models.encoder()
    models.model(UPSAMPLER, "upsampler-model", encoder)
    models.model(LARGER_BASE, "base-model", encoder)
    document = ask("generate", "a dog")
    assert "upsampler" not in document
    assert Image.open(document["pictures"][0]["path"]).size == (16, 16)
    sizes = "the upsampler was trained on pictures of 8 px, and the model makes 16 px"
    assert f"pictures stay at 16 px: {sizes}" in document["said"]
    document = ask("generate", "a dog", "--upsampler", "latest")
    assert Image.open(document["pictures"][0]["path"]).size == (32, 32)
    assert f"warning: {sizes}" in document["said"]


def test_a_recipe_is_replayed(trained, ask, tmp_path) -> None:
    save_recipe(tmp_path / "walk.json", Walk(prompts=("a dog", "a cat"), stops=2, steps=3))
    (picture,) = ask("generate", "--recipe", "walk.json")["pictures"]
    assert Image.open(picture["path"]).n_frames == 6
    again = ask("generate", "--recipe", picture["recipe"])["pictures"][0]
    assert again == {**picture, "made_before": True}


# ---- interpolate, mix ------------------------------------------------------------------------------


def test_interpolate_draws_a_row_or_a_grid_and_keeps_its_recipe(trained, ask, inside) -> None:
    row = ask("interpolate", "a dog", "a cat", "--columns", "4")["pictures"][0]
    assert Image.open(row["path"]).size == (4 * 18 - 2, 16)
    recipe = json.loads(Path(row["recipe"]).read_text())["recipe"]
    assert recipe["prompts"] == ["a dog", "a cat"]
    grid = ask("interpolate", "a", "b", "c", "d", "--rows", "3", "--columns", "2")
    assert Image.open(grid["pictures"][0]["path"]).size == (2 * 18 - 2, 3 * 18 - 2)
    film = ask("interpolate", "a", "b", "--animate", "mp4")["pictures"][0]
    assert film["path"].endswith(".mp4")
    assert Path(film["path"]).stat().st_size > 0
    assert "prompts must be 2 or 4" in failure(inside("interpolate", "a", "b", "c"))


def test_mix_has_a_column_a_layer_and_a_row_a_seed(trained, ask) -> None:
    mixed = ask("mix", "a dog", "a cat", "--layer", "1", "--layer", "2", "--seed", "1", "--seed", "5")[
        "pictures"
    ][0]
    assert Image.open(mixed["path"]).size == (2 * 18 - 2, 2 * 18 - 2)
    recipe = json.loads(Path(mixed["recipe"]).read_text())["recipe"]
    assert recipe["layers"] == [1, 2]
    assert [(point["prompt"], point["seed"]) for point in recipe["second"]] == [("a cat", 1), ("a cat", 5)]
    alone = ask("mix", "a dog", "--words", "first")["pictures"][0]
    recipe = json.loads(Path(alone["recipe"]).read_text())["recipe"]
    assert recipe["second"][0] == {**recipe["first"][0], "seed": 1}
    assert recipe["layers"] == [0, 1, 2, 3]


# ---- upsample --------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures in a folder and below it."""
    folder = tmp_path / "in"
    (folder / "more").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 255, (10, 12, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "a.png")
    Image.fromarray(pixels).save(folder / "more" / "b.jpg")
    Image.fromarray(pixels[..., 0]).save(folder / "more" / "c.png")
    (folder / "notes.txt").write_text("no picture")
    return folder


def test_upsample_takes_a_folder_and_keeps_its_shape(trained, ask, folder, tmp_path) -> None:
    pictures = ask("upsample", "in")["pictures"]
    names = [Path(picture["path"]).relative_to(tmp_path / "upsampled").as_posix() for picture in pictures]
    assert names == ["a.png", "more/b.png", "more/c.png"]
    assert [Image.open(picture["path"]).size for picture in pictures] == [(24, 20)] * 3
    assert Image.open(pictures[2]["path"]).mode == "L"


def test_upsample_takes_files_globs_scales_and_sizes(trained, ask, folder) -> None:
    one = ask("upsample", "in/a.png", "--scale", "3.5", "--out", "one")["pictures"]
    assert [Image.open(picture["path"]).size for picture in one] == [(42, 35)]
    some = ask("upsample", "in/more/*", "--size", "48", "--out", "some")["pictures"]
    assert [Image.open(picture["path"]).size for picture in some] == [(48, 40)] * 2


def test_an_upsampler_of_classes_wants_a_label(models, ask, inside, folder) -> None:
    of_classes = replace(UPSAMPLER, conditioning="class", classes=4, cross_attention=False)
    models.model(of_classes, "upsampler-model", None)
    sentence = failure(inside("upsample", "in"))
    assert sentence.endswith("no label says what a picture shows; give one from 0 to 3")
    assert len(ask("upsample", "in", "--prompt", "2")["pictures"]) == 3


def test_upsample_goes_on_where_it_was_cut_off(trained, ask, inside, folder, tmp_path) -> None:
    ask("upsample", "in/a.png")
    pictures = ask("upsample", "in")["pictures"]
    assert [picture["made_before"] for picture in pictures] == [True, False, False]
    sentence = failure(inside("upsample", "in", "--noise", "0.3"))
    assert "a.png is there and was made otherwise; give --overwrite" in sentence
    again = ask("upsample", "in", "--noise", "0.3", "--overwrite")["pictures"]
    assert [picture["made_before"] for picture in again] == [False] * 3
    assert read_record(tmp_path / "upsampled" / "a.png")["noise"] == 0.3
    coarser = inside("upsample", "in", "--noise", "0.3", "--precision", "bfloat16")
    assert "a.png is there and was made otherwise" in failure(coarser)


def test_a_corrupt_picture_is_left_out_and_said_at_the_end(trained, inside, folder, tmp_path) -> None:
    (folder / "broken.png").write_bytes(b"nothing")
    sentence = failure(inside("upsample", "in"))
    assert "1 of 4 pictures were left out" in sentence
    assert "broken.png cannot be decoded" in sentence
    assert len(list((tmp_path / "upsampled").rglob("*.png"))) == 3
    assert "broken.png cannot be decoded" in failure(inside("upsample", "in/broken.png", "--out", "other"))


def test_a_picture_with_damaged_exif_is_enlarged(trained, ask, folder) -> None:
    exif = b"Exif\0\0no header of TIFF"
    Image.new("RGB", (12, 10)).save(folder / "damaged.png", exif=exif)
    (picture,) = ask("upsample", "in/damaged.png")["pictures"]
    assert Image.open(picture["path"]).size == (24, 20)


def test_one_picture_that_does_not_fit_does_not_keep_the_others(
    trained, inside, folder, tmp_path, capfd
) -> None:
    Image.new("RGB", (100, 3)).save(folder / "a long one.png")
    sentence = failure(inside("upsample", "in", "--size", "48"))
    assert "1 of 4 pictures were left out" in sentence
    assert "a long one.png: --size 48 is below its 100 px" in sentence
    assert len(list((tmp_path / "upsampled").rglob("*.png"))) == 3
    capfd.readouterr()
    assert inside("upsample", "in", "--size", "48", "--json").exit_code == 1
    document = json.loads(capfd.readouterr().out)
    assert [Path(picture["path"]).name for picture in document["pictures"]] == ["a.png", "b.png", "c.png"]
    assert len(document["failed"]) == 1
    assert document["error"].startswith("1 of 4 pictures were left out")


@pytest.mark.parametrize("place", ["{here}/in", "in", "{here}/in/**/*.[jp]*", "in/../in"])
@pytest.mark.parametrize("out", ["in/large", "{here}/in/large"])
def test_results_are_never_enlarged_again(trained, ask, folder, tmp_path, place, out) -> None:
    command = ["upsample", place.format(here=tmp_path), "--out", out.format(here=tmp_path)]
    for _ in range(2):
        assert len(ask(*command)["pictures"]) == 3
    assert len(list(folder.rglob("*.png"))) == 2 + 3


def test_results_do_not_go_where_the_pictures_are(trained, inside, folder) -> None:
    assert "all lie in in, where results go; give another --out" in failure(
        inside("upsample", "in", "--out", "in")
    )


# ---- what does not fit ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["generate"], "nothing says what to make"),
        (["generate", "a", "--recipe", "x.json"], "recipe x.json cannot be used"),
        (["generate", "--prompts", "missing.txt"], "--prompts missing.txt cannot be read"),
        (["generate", "a", "--out", "file/pictures"], "output folder file/pictures cannot be made"),
        (["generate", "a", "--truncation", "7"], "truncation 7.0 cannot be used"),
        (["generate", "a", "--memory", "1e-9"], "raise the limit"),
        (["generate", "a", "--model", "0123456789ab"], "has no base model '0123456789ab'"),
        (["mix", "a", "b", "--layer", "40"], "has no layer 40; its layers are cut at 0 (coarse) to 3 (fine)"),
        (["mix", "a", "b", "--layer", "-1"], "has no layer -1"),
        (["upsample", "nothing.png"], "nothing.png: no such picture"),
        (["upsample", "nothing/*.png"], "no such picture"),
        (["upsample", "empty"], "folder empty holds no pictures"),
        (["upsample", "a.png", "--scale", "0.2"], "does not shrink"),
        (["upsample", "a.png", "--size", "4"], "does not shrink"),
        (["upsample", "a.png", "--scale", "2", "--size", "40"], "--scale and --size were given"),
        (["upsample", "a.png", "--tile", "7"], "multiple of 2"),
        (["upsample", "a.png", "--noise", "-1"], "noise level is -1"),
        (["generate", "a", "--noise", "7"], "noise level is 7; give 0 to 0.5"),
        (["generate", "a", "--noise", "0.1", "--upsampler", "none"], "these pictures go through none"),
        (["interpolate", "a", "b", "--noise", "0.1", "--upsampler", "none"], "go through none"),
        (["mix", "a", "b", "--noise", "0.1", "--upsampler", "none"], "go through none"),
        (["export", "--out", "file/x"], "output folder file/x cannot be made"),
    ],
)
def test_what_does_not_fit_is_one_sentence(trained, inside, tmp_path, arguments, sentence) -> None:
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "empty").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    if "x.json" not in arguments:
        assert sentence in failure(inside(*arguments))
        return
    assert "prompts and --recipe were given; give one of them, not both" in failure(inside(*arguments))
    assert sentence in failure(inside("generate", "--recipe", "x.json"))


def test_the_help_names_the_bound_of_noise() -> None:
    (option,) = get_args(NoiseOption)[1:]
    assert f"0 to {LARGEST_NOISE:g}" in option.help


@pytest.mark.parametrize("command", [["generate", "a"], ["mix", "a", "b"], ["export", "--out", "programs"]])
def test_no_model_is_one_sentence(inside, models, command) -> None:
    assert "has no base model (base-model); run the stage that makes one first" in failure(inside(*command))


def test_export_writes_programs_that_are_checked(trained, ask, tmp_path) -> None:
    document = ask("export", "--out", "programs")
    assert set(document["programs"]) == {"base", "encoder"}
    assert (tmp_path / "programs" / "base.pt2").stat().st_size > 0
    assert document["programs"]["base"]["largest_difference"] < 1e-4


def test_export_writes_onnx_files(trained, ask, tmp_path) -> None:
    document = ask("export", "--out", "programs", "--format", "onnx", "--batch-size", "1")
    assert document["format"] == "onnx"
    assert {each["file"] for each in document["programs"].values()} == {"base.onnx", "encoder.onnx"}
    assert document["programs"]["base"]["largest_difference"] < 1e-4
    assert (tmp_path / "programs" / "export-onnx.json").is_file()
