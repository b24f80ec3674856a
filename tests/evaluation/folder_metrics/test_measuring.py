"""Two folders compared: every measure from one pass, under its own name."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gigagan_core.encoders.open_clip_encoder import load_encoder
from gigagan_core.encoders.perceptual import load_lpips
from gigagan_core.errors import GigaganError
from gigagan_core.evaluation import picture_folder as folders
from gigagan_core.evaluation.bootstrap import bootstrap_mean
from gigagan_core.evaluation.clip_score import clip_score
from gigagan_core.evaluation.extraction import loaded
from gigagan_core.evaluation.extractors.registry import ExtractorPlace
from gigagan_core.evaluation.features import caption_features, image_features, to_unit_range
from gigagan_core.evaluation.frechet import frechet_distance
from gigagan_core.evaluation.moments import Moments

from .conftest import FEW, pixels, values

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*")


def test_the_figures_are_those_of_the_evaluate_stage_under_the_same_names(compare, sets, judge):
    measured = compare(metrics=("fd", "precision-recall"))
    encoder = load_encoder(judge)
    real, fake = (image_features(encoder, pixels(folder)) for folder in sets)
    known = frechet_distance(Moments.of(real), Moments.of(fake)).distance
    assert list(values(measured)) == [
        f"{name}_openmoji-judge_48_40" for name in ("fd", "precision", "recall")
    ]
    assert measured.figures[0].value == pytest.approx(known, rel=1e-4)
    interval = measured.figures[0].interval
    assert interval.low < known < interval.high
    assert measured.record["extractors"][0]["sha256"] == encoder.sha256
    assert (measured.figures[0].real, measured.figures[0].fake) == (40, 40)


def test_captions_by_name_give_the_clip_score(compare, sets, judge, tmp_path):
    names = [path.name for path in sorted(sets[1].iterdir())]
    captions = [f"a disc number {row}" for row in range(40)]
    file = tmp_path / "captions.jsonl"
    # the order of the lines says nothing
    lines = [json.dumps({"file_name": n, "caption": c}) for n, c in zip(names, captions, strict=True)]
    file.write_text("\n".join(lines[::-1]))
    measured = compare(metrics=("clip-score",), captions=file)
    encoder = load_encoder(judge)
    known = clip_score(
        image_features(encoder, pixels(sets[1])), caption_features(encoder, captions), captions
    )
    assert measured.figures[0].metric == "clip-score"
    assert values(measured) == {"clip-score_openmoji-judge_48_40": pytest.approx(known.score, abs=1e-6)}


def test_all_measures_come_from_one_decode_of_each_picture(
    compare, sets, scripted_inception, judge, monkeypatch
):
    seen = []
    decode = folders.decode
    monkeypatch.setattr(
        "gigagan_core.evaluation.shard_pass.decode",
        lambda picture, size: seen.append(picture) or decode(picture, size),
    )
    measured = compare(extractors=(f"inception:{scripted_inception}", judge))
    assert len(seen) == len(set(seen)) == 80
    inception = loaded(ExtractorPlace(f"inception:{scripted_inception}")).name
    metrics = {figure.name.split("_")[0] for figure in measured.figures if figure.extractor == inception}
    assert metrics == {"fd", "kid", "precision", "recall", "density", "coverage", "is"}
    assert not any("fid" in name for name in values(measured))
    (fd,) = [figure for figure in measured.figures if figure.metric == "fd" and figure.extractor == inception]
    assert "fewer images (40)" in fd.cautions[0]
    assert "biased" in fd.cautions[0]
    json.dumps(measured.as_json())


def test_paired_images_give_psnr_ssim_and_patch_fd(compare, sets, tmp_path):
    from gigagan_core.evaluation.patches import psnr
    from gigagan_core.evaluation.similarity import ssim

    measured = compare(metrics=("psnr", "ssim", "patch-fd"), patch_size=16, patches_per_image=3)
    found = values(measured)
    real, fake = (pixels(folder) for folder in sets)
    assert found["psnr_48_40"] == pytest.approx(float(psnr(fake, real).mean()), rel=1e-6)
    assert found["ssim_48_40"] == pytest.approx(float(ssim(fake, real).mean()), rel=1e-5)
    assert found["patch16-fd_openmoji-judge_48_120"] > 0
    # patches of one image are drawn together: one image alone tells nothing of the spread
    single = compare(metrics=("patch-fd",), patch_size=48, patches_per_image=3).figures[0]
    whole = compare(metrics=("fd",)).figures[0]
    assert single.value == pytest.approx(whole.value, rel=0.05)  # n - 1 of 120 and of 40
    widths = [each.interval.high - each.interval.low for each in (single, whole)]
    assert widths[0] == pytest.approx(widths[1], rel=0.1)
    # patches of both folders lie at the same places: equal folders are at distance 0
    copy = tmp_path / "copy"
    shutil.copytree(sets[0], copy)
    same = compare(fake=copy, metrics=("patch-fd", "psnr"), patch_size=16)
    assert same.figures[1].value == pytest.approx(0, abs=1e-9)
    assert "40 files occur in both folders" in " ".join(same.cautions)


@pytest.fixture(scope="module")
def alexnet(tmp_path_factory) -> Path:
    """A weight file of torchvision's AlexNet, with fixed random weights."""
    import torchvision

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        features = torchvision.models.alexnet(weights=None).features
    path = tmp_path_factory.mktemp("lpips") / "alexnet.pth"
    torch.save({f"features.{name}": value for name, value in features.state_dict().items()}, path)
    return path


def test_paired_images_give_lpips_by_the_named_backbone(compare, sets, alexnet):
    place = f"alex:{alexnet}"
    measured = compare(metrics=("lpips", "psnr"), lpips=place, batch_size=8)
    network = load_lpips(place)
    real, fake = (to_unit_range(pixels(folder)) for folder in sets)
    with torch.inference_mode():
        known = network(fake, real).flatten().double()
    (found,) = [figure for figure in measured.figures if figure.metric == "lpips"]
    assert found.name == "lpips-alex_48_40"
    assert found.better == "lower"
    assert found.value == pytest.approx(float(known.mean()), rel=1e-4)
    assert known.std() > 1e-3, "images that differ alike would not show whose distance is whose"
    expected = bootstrap_mean(known, resamples=FEW.resamples, seed=FEW.seed)
    assert (found.interval.low, found.interval.high) == pytest.approx((expected.low, expected.high), rel=1e-4)


def test_lpips_of_other_weights_is_computed_anew(compare, sets, alexnet, tmp_path):
    first = values(compare(metrics=("lpips",), lpips=f"alex:{alexnet}"))
    other = tmp_path / "other.pth"
    torch.save({name: 2 * value for name, value in torch.load(alexnet).items()}, other)
    assert values(compare(metrics=("lpips",), lpips=f"alex:{other}")) != first
    moved = tmp_path / "moved.pth"
    shutil.copy(alexnet, moved)
    assert values(compare(metrics=("lpips",), lpips=f"alex:{moved}")) == first
    same = compare(fake=sets[0], metrics=("lpips",), lpips=f"alex:{alexnet}")
    assert same.figures[0].value == pytest.approx(0, abs=1e-7)


def test_the_order_and_place_of_files_do_not_matter(compare, sets, tmp_path):
    plain = values(compare(metrics=("fd", "precision-recall")))
    nested = tmp_path / "nested"
    for row, path in enumerate(sorted(sets[1].iterdir())):
        target = nested / f"part{row % 3}" / f"{999 - row}.PNG"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    assert values(compare(fake=nested, metrics=("fd", "precision-recall"))) == pytest.approx(plain, rel=1e-5)


def test_sizes_and_formats_may_differ_and_that_is_said(compare, picture_folder):
    mixed = picture_folder(12, 40, 5, "webp")
    shutil.copytree(picture_folder(12, 64, 6, "jpg"), mixed / "more")
    (mixed / ".hidden.png").write_bytes(b"no picture")
    (mixed / "notes.txt").write_text("no picture")
    measured = compare(fake=mixed, metrics=("kid",))
    assert list(values(measured)) == ["kid_openmoji-judge_native_24"]
    assert measured.record["sets"]["fake"]["sizes"] == {"40x40": 12, "64x64": 12}
    assert "have 2 sizes" in measured.cautions[0]
    sized = compare(fake=mixed, metrics=("kid",), size=32)
    assert list(values(sized)) == ["kid_openmoji-judge_32_24"]
    assert sized.cautions == ()


def test_every_file_counts_or_is_said_to_be_left_out(compare, picture_folder, sets, tmp_path):
    """Names with spaces and letters of any script, folders in folders and behind links; hidden files do not count."""
    fake = tmp_path / "fäke images"
    shutil.copytree(sets[1], fake / "a b" / "Ünter ☂")
    elsewhere = picture_folder(3, 48, 5)
    (fake / "linked").symlink_to(elsewhere)
    (fake / "round").symlink_to(fake)
    (fake / "lost.png").symlink_to(tmp_path / "nowhere.png")
    (fake / ".thumbnails").mkdir()
    shutil.copy(elsewhere / "0000.png", fake / ".thumbnails" / "x.png")
    shutil.copy(elsewhere / "0000.png", fake / ".hidden.png")
    picture = Image.open(elsewhere / "0001.png")
    for ending in ("tif", "TIFF", "ppm", "bmp"):
        picture.save(fake / f"plain.{ending}")
    (fake / "folder.png").mkdir()
    (fake / "captions.jsonl").write_text("{}")
    assert compare(fake=fake, metrics=("fd",)).figures[0].fake == 40 + 3 + 4
    picture.save(fake / "odd.gif")
    np.save(fake / "odd.npy", np.zeros((4, 4, 3), np.uint8))
    measured = compare(fake=fake, metrics=("fd",))
    assert measured.figures[0].fake == 47
    (said,) = (each for each in measured.cautions if "ending" in each)
    assert said.startswith(
        "2 files among the generated images were left out by their ending (first: odd.gif)"
    )


def test_links_that_lead_nowhere_are_said(compare, sets, tmp_path):
    fake = tmp_path / "fake"
    shutil.copytree(sets[1], fake)
    for name in ("more", "x.png", "notes.txt"):
        (fake / name).symlink_to(tmp_path / "nowhere")
    measured = compare(fake=fake, metrics=("fd",))
    assert measured.figures[0].fake == 40
    assert measured.cautions == ("2 links among the generated images lead to no file (first: more)",)


@pytest.mark.parametrize(
    ("what", "call"), [("sub", "is_file"), ("sub/0001.png", "is_file"), ("sub/0001.png", "read_bytes")]
)
def test_what_may_not_be_read_is_one_sentence(compare, sets, tmp_path, monkeypatch, what, call):
    fake = tmp_path / "fake"
    shutil.copytree(sets[1], fake / "sub")

    def refusing(known):
        # permissions do not bind root, who may run the tests
        def act(path):
            if Path(path) == fake / what:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return known(path)

        return act

    for owner, name in ((os, "scandir"), (Path, call)):
        monkeypatch.setattr(owner, name, refusing(getattr(owner, name)))
    with pytest.raises(GigaganError, match=rf"{what} cannot be read \(Permission denied\); mend that"):
        compare(fake=fake, metrics=("fd",))


def test_few_images_leave_out_what_they_do_not_allow_unless_it_is_asked_for(compare, picture_folder):
    few = picture_folder(5, 48, 2)
    measured = compare(fake=few, real=few)
    assert {figure.metric for figure in measured.figures} == {"fd", "kid", "precision", "recall", "cmmd"}
    assert "too few images for density-coverage" in measured.cautions
    with pytest.raises(GigaganError, match="at least 6 real images, there are 5"):
        compare(fake=few, real=few, metrics=("density-coverage",))
