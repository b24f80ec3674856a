"""Two folders compared: names, resuming, every kind of bad input, and one pass for all measures."""

from __future__ import annotations

import errno
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gigagan_core.encoders.clip_model import ClipArchitecture, ClipModel
from gigagan_core.encoders.open_clip_encoder import Preprocessing, load_encoder, save_encoder
from gigagan_core.encoders.perceptual import load_lpips
from gigagan_core.errors import GigaganError
from gigagan_core.evaluation import picture_folder as folders
from gigagan_core.evaluation.bootstrap import bootstrap_mean
from gigagan_core.evaluation.captions import captions_of, read_captions
from gigagan_core.evaluation.clip_score import clip_score
from gigagan_core.evaluation.extraction import loaded
from gigagan_core.evaluation.extractors.registry import ExtractorPlace
from gigagan_core.evaluation.features import caption_features, image_features, to_unit_range
from gigagan_core.evaluation.folder_metrics import FolderMetrics, Measured, measure
from gigagan_core.evaluation.frechet import frechet_distance
from gigagan_core.evaluation.moments import Moments
from gigagan_core.evaluation.set_metrics import MeasureOptions

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*")
FEW = MeasureOptions(resamples=100, kid_subsets=3)


@pytest.fixture(scope="module")
def judge(tmp_path_factory) -> Path:
    """An untrained encoder of 16 dimensions in its folder."""
    torch.manual_seed(0)
    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 8, "head_width": 16},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    }
    model = ClipModel(ClipArchitecture.from_config(config))
    folder = tmp_path_factory.mktemp("judge")
    save_encoder(folder, model, Preprocessing(), name="openmoji-judge", role="judge")
    return folder


@pytest.fixture(scope="module")
def sets(picture_folder) -> tuple[Path, Path]:
    return picture_folder(40, 48, 1), picture_folder(40, 48, 2)


@pytest.fixture
def compare(sets, judge, tmp_path):
    """Compare the two folders with the small judge; what is given replaces that."""

    def run(**changed: object) -> Measured:
        places = tuple(ExtractorPlace(str(each)) for each in changed.pop("extractors", (judge,)))
        given = {"real": sets[0], "fake": sets[1], "options": FEW, "work": tmp_path / "work", **changed}
        ray = given.pop("ray", None)
        return measure(FolderMetrics(extractors=places, **given), ray)

    return run


def values(measured: Measured) -> dict[str, float]:
    return {figure.name: figure.value for figure in measured.figures}


def pixels(folder: Path) -> torch.Tensor:
    files = sorted(folder.iterdir())
    return torch.stack([torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1) for file in files])


# ---- what it measures ------------------------------------------------------------------------------


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
    assert "too few images for density-coverage, is" in measured.cautions
    with pytest.raises(GigaganError, match="at least 6 real images, there are 5"):
        compare(fake=few, real=few, metrics=("density-coverage",))


# ---- continuing ------------------------------------------------------------------------------------


def test_a_killed_evaluation_continues_with_the_shards_it_lacks(compare, sets, judge, tmp_path, monkeypatch):
    undisturbed = values(compare(metrics=("fd", "kid"), work=tmp_path / "other", shard_size=16))
    extractor = loaded(ExtractorPlace(str(judge)))
    seen, features_of = [], extractor.features_of

    def dies_in_the_fourth_shard(prepared):
        if len(seen) == 3:
            raise KeyboardInterrupt
        seen.append(len(prepared))
        return features_of(prepared)

    monkeypatch.setattr(extractor, "features_of", dies_in_the_fourth_shard)
    with pytest.raises(KeyboardInterrupt):
        compare(metrics=("fd", "kid"), shard_size=16)
    monkeypatch.setattr(
        extractor, "features_of", lambda prepared: seen.append(len(prepared)) or features_of(prepared)
    )
    assert values(compare(metrics=("fd", "kid"), shard_size=16)) == undisturbed
    assert seen == [16, 16, 8, 16, 16, 8]
    assert values(compare(metrics=("fd", "kid"), shard_size=16)) == undisturbed
    assert len(seen) == 6, "nothing is computed twice"


def test_damaged_features_are_computed_again(compare, tmp_path):
    first = values(compare(metrics=("fd",)))
    kept = next((tmp_path / "work").rglob("features-fake-*.npy"))
    data = bytearray(kept.read_bytes())
    data[-3] ^= 0x40
    kept.write_bytes(data)
    assert values(compare(metrics=("fd",))) == first


@pytest.mark.parametrize("pattern", ["features-fake-*.json", "facts-fake-*.json"])
@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"fake": {"count": 39, "sizes": {"48x48": 39}, "corrupt": [["0005.png", "gone"]], "kept": []}}',
    ],
)
def test_a_damaged_record_is_computed_again(compare, tmp_path, pattern, content):
    first = values(compare(metrics=("fd",)))
    record = next((tmp_path / "work").rglob(pattern))
    whole = record.read_text()
    record.write_text(content)
    assert values(compare(metrics=("fd",))) == first
    assert record.read_text() == whole


@pytest.mark.parametrize("skip", [False, True])
def test_a_file_that_could_not_be_read_once_is_judged_when_it_can(compare, sets, tmp_path, monkeypatch, skip):
    undisturbed = values(compare(metrics=("fd",), work=tmp_path / "other"))
    fake, away = tmp_path / "fake", tmp_path / "away.png"
    shutil.copytree(sets[1], fake)
    listed = folders.list_pictures

    def loses_one(folder, threads):
        found = listed(folder, threads)
        if folder == fake:
            (fake / "0003.png").rename(away)
        return found

    monkeypatch.setattr("gigagan_core.evaluation.folder_metrics.list_pictures", loses_one)
    with pytest.raises(GigaganError, match=r"0003\.png cannot be read \(No such file or directory\)"):
        compare(fake=fake, metrics=("fd",), skip_corrupt=skip)
    monkeypatch.undo()
    away.rename(fake / "0003.png")
    found = compare(fake=fake, metrics=("fd",), skip_corrupt=skip)
    assert values(found) == undisturbed
    assert found.record["sets"]["fake"]["corrupt"] == []


def test_what_is_no_fault_of_a_pictures_is_raised_and_never_its_verdict(sets, monkeypatch):
    picture = folders.list_pictures(sets[0])[0]
    with pytest.raises(GigaganError, match=r"0000\.png changed while it was being judged"):
        folders.decode(replace(picture, sha256="0" * 64), None)

    def without_memory(data):
        raise MemoryError

    monkeypatch.setattr(folders.Image, "open", without_memory)
    with pytest.raises(GigaganError, match=r"memory ran out while .*0000\.png was decoded"):
        folders.decode(picture, None)


def test_a_corrupt_picture_of_kept_features_has_the_name_that_it_has_now(compare, sets, tmp_path):
    for folder, name in (("broken", "0000.png"), ("renamed", "00000.png")):
        fake = tmp_path / folder
        shutil.copytree(sets[1], fake)
        (fake / "0000.png").unlink()
        (fake / name).write_bytes(b"text")
        found = compare(fake=fake, metrics=("fd",), skip_corrupt=True)
        assert found.record["sets"]["fake"]["corrupt"] == [[name, "no image format that Pillow knows"]]


def test_changed_pictures_of_the_same_name_size_and_time_are_not_taken_for_the_old_ones(
    compare, sets, tmp_path
):
    copy = tmp_path / "copy"
    shutil.copytree(sets[1], copy)
    first = values(compare(fake=copy, metrics=("fd",)))
    files = sorted(copy.iterdir())
    stat = files[0].stat()
    files[0].write_bytes((sets[0] / "0007.png").read_bytes())
    os.utime(files[0], ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert values(compare(fake=copy, metrics=("fd",))) != first


@pytest.mark.slow
def test_ray_gives_the_same_figures_and_the_same_sentences(compare, sets, tmp_path):
    import ray

    plain = values(compare(metrics=("fd", "psnr"), shard_size=16))
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        again = compare(ray=ray, metrics=("fd", "psnr"), shard_size=16, work=tmp_path / "on ray")
        assert values(again) == pytest.approx(plain, rel=1e-5)
        broken = tmp_path / "broken"
        shutil.copytree(sets[1], broken)
        Image.new("RGB", (40, 48)).save(broken / "0020.png")
        with pytest.raises(
            GigaganError, match=r"^paired images differ in size \(\[48, 48\] and \[48, 40\]\)"
        ):
            compare(ray=ray, fake=broken, metrics=("psnr",), work=tmp_path / "broken on ray")
    finally:
        ray.shutdown()


# ---- bad input -------------------------------------------------------------------------------------


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
