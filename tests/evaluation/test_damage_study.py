"""An upsampler on damaged pictures: its figures beside bicubic's, its files, and what a reader sees."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gigagan_core.config.damage import DAMAGE_KINDS, DamageSettings
from gigagan_core.encoders.open_clip_encoder import load_encoder
from gigagan_core.errors import GigaganError
from gigagan_core.evaluation import damage_page, damage_study, patches
from gigagan_core.evaluation.bootstrap import bootstrap_mean
from gigagan_core.evaluation.damage import damaged
from gigagan_core.evaluation.damage_study import BICUBIC, OURS, UNDAMAGED, Originals, study
from gigagan_core.evaluation.extraction import loaded
from gigagan_core.evaluation.extractors.registry import ExtractorPlace
from gigagan_core.evaluation.similarity import ssim
from gigagan_core.inference.outputs import OutputFolder
from gigagan_core.inference.upsampling import TiledUpsampler
from gigagan_core.training.checkpoint import load_bundle

COUNT = 6
SETTINGS = DamageSettings(patch_size=8, patches_per_image=3, bootstrap_resamples=100, shown=3)
SCRIPT = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def upsampler(inputs) -> TiledUpsampler:
    """From 8 to 16 px, untrained."""
    network, _ = load_bundle(inputs["upsampler"].path)
    return TiledUpsampler(
        network, load_encoder(inputs["condition"].uri), {"name": "tiny", "sha256": "ab" * 32}
    )


@pytest.fixture(scope="module")
def originals(drawings) -> Originals:
    names = tuple(f"{number:02}" for number in range(COUNT))
    return Originals(names, (SCRIPT, *["a disc"] * (COUNT - 1)), drawings(COUNT, 16, 3), ("a caution",))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> OutputFolder:
    return OutputFolder(tmp_path_factory.mktemp("damage"))


@pytest.fixture(scope="module")
def found(upsampler, originals, folder, inputs) -> damage_study.Study:
    judge = loaded(ExtractorPlace(inputs["judge"].uri))
    return study(upsampler, originals, SETTINGS, folder, [judge])


def test_every_kind_is_tried_beside_the_undamaged_pictures(found, originals):
    assert [trial.kind for trial in found.trials] == [UNDAMAGED, *DAMAGE_KINDS]
    low = patches.shrink(originals.images, 8)
    assert torch.equal(found.trials[0].low, low)
    for trial in found.trials[1:]:
        assert torch.equal(trial.low, damaged(low, trial.kind, SETTINGS, torch.arange(COUNT)))
        assert not torch.equal(trial.enlarged[OURS], found.trials[0].enlarged[OURS])


def test_figures_and_gains_are_those_of_the_pictures(found, originals):
    for trial in found.trials:
        assert torch.equal(trial.enlarged[BICUBIC], patches.bicubic(trial.low, 16))
        for by, figures in trial.figures.items():
            named = {figure.name: figure for figure in figures}
            assert list(named) == [
                "psnr_16_6",
                "ssim_16_6",
                "fd_openmoji-judge_16_6",
                "patch8-fd_openmoji-judge_16_18",
            ]
            for name, measure in (("psnr_16_6", patches.psnr), ("ssim_16_6", ssim)):
                values = measure(trial.enlarged[by], originals.images)
                assert named[name].value == pytest.approx(float(values.mean()))
                assert named[name].interval == bootstrap_mean(values, resamples=100, seed=0)
            assert "6 groups" not in named["fd_openmoji-judge_16_6"].interval.method
        gain, interval = trial.gains["psnr_16_6"]
        difference = patches.psnr(trial.enlarged[OURS], originals.images) - patches.psnr(
            trial.enlarged[BICUBIC], originals.images
        )
        assert gain == pytest.approx(float(difference.mean()))
        assert interval == bootstrap_mean(difference, resamples=100, seed=0)
        assert set(trial.gains) == {"psnr_16_6", "ssim_16_6"}


class Perfect(TiledUpsampler):
    """Gives the originals back, whatever it is given."""

    def __init__(self, known: TiledUpsampler, images: torch.Tensor):
        super().__init__(known.network, known.encoder, {"name": "perfect"})
        self._images = images

    def enlarge(self, low, prompts, scale=None, *, keys, **_):
        return self._images[list(keys.indices)].float() / 127.5 - 1


def test_an_upsampler_that_knows_the_originals_gains_on_every_kind(upsampler, originals, inputs, tmp_path):
    perfect = Perfect(upsampler, originals.images)
    judge = loaded(ExtractorPlace(inputs["judge"].uri))
    made = study(perfect, originals, SETTINGS, OutputFolder(tmp_path / "out"), [judge])
    for trial in made.trials:
        assert torch.equal(trial.enlarged[OURS], originals.images)
        assert all(interval.low > 0 for _, interval in trial.gains.values())
        distances = {by: figures[2:] for by, figures in trial.figures.items()}
        for ours, theirs in zip(distances[OURS], distances[BICUBIC], strict=True):
            assert ours.value == pytest.approx(0, abs=1e-6)
            assert theirs.value > 10 * abs(ours.value)


def test_what_is_there_is_not_made_again_and_other_damage_is_another_picture(
    found, upsampler, originals, folder, monkeypatch
):
    calls = []
    enlarge = TiledUpsampler.enlarge
    monkeypatch.setattr(
        TiledUpsampler, "enlarge", lambda self, *a, **k: calls.append(k["keys"]) or enlarge(self, *a, **k)
    )
    few = SETTINGS.model_copy(update={"kinds": ("blur", "jpeg", "residual_noise")})
    again = study(upsampler, originals, few, folder)
    assert calls == []
    assert torch.equal(again.trials[3].enlarged[OURS], found.trials[3].enlarged[OURS])
    folder.path("upsampled/jpeg/03").unlink()
    study(upsampler, originals, few, folder)
    assert [keys.indices for keys in calls] == [(3,)]
    stronger = few.model_copy(update={"blur": SETTINGS.blur.model_copy(update={"sigma": 3.0})})
    with pytest.raises(GigaganError, match=r"upsampled/blur/00\.png is there and was made otherwise"):
        study(upsampler, originals, stronger, folder)


def test_the_written_study_is_whole(found, folder, tmp_path):
    paths = damage_page.write(found, folder.folder)
    assert set(paths) == {"json", "html", "png", UNDAMAGED, *DAMAGE_KINDS}
    stored = json.loads(paths["json"].read_text())
    assert (stored["schema"], stored["images"], stored["sizes"]) == (
        "gigagan-damage",
        COUNT,
        {"input": 8, "output": 16},
    )
    blur = stored["kinds"][1]
    assert blur["kind"] == "blur"
    assert blur["figures"][OURS]["psnr_16_6"]["value"] == found.trials[1].figures[OURS][0].value
    assert blur["gains"]["ssim_16_6"]["interval"]["low"] <= blur["gains"]["ssim_16_6"]["value"]
    assert stored["settings"]["jpeg"] == {"quality": 20}
    assert "a caution" in stored["cautions"]
    page = paths["html"].read_text()
    assert SCRIPT not in page
    assert not re.search(r"(src|href)=.http", page)
    assert page.count("data:image/png;base64,") == len(found.trials)
    assert page.count("<table>") == 4
    # a sheet has the stated pictures: their pixels are found on it
    sheet = np.asarray(Image.open(paths["latent_grid"]).convert("RGB")).astype(int)
    ours = found.trials[4].enlarged[OURS][0].permute(1, 2, 0).numpy().astype(int)
    places = np.argwhere((sheet == ours[0, 0]).all(-1))
    pixels = [sheet[y : y + 144 : 9, x : x + 144 : 9] for y, x in places]  # 16 px at 144: 9 a pixel
    assert any(found.shape == ours.shape and (found == ours).all() for found in pixels)


def test_pictures_are_cropped_upright_and_unfit_ones_are_left_out_and_counted(tmp_path):
    generator = np.random.default_rng(0)
    files = []
    for number, shape in enumerate(((30, 24), (24, 24), (10, 40))):
        path = tmp_path / f"{number}.png"
        Image.fromarray(generator.integers(0, 255, (*shape, 3), np.uint8)).save(path)
        files.append((path, path.stem))
    (tmp_path / "broken.png").write_bytes(b"nothing")
    files.append((tmp_path / "broken.png", "broken"))
    found = damage_study.originals_of(files, 24, SETTINGS)
    assert found.names == ("0", "1")
    assert found.images.shape == (2, 3, 24, 24)
    plain = np.asarray(Image.open(files[1][0])).transpose(2, 0, 1)
    assert np.array_equal(found.images[1].numpy(), plain)
    assert np.array_equal(
        found.images[0].numpy(), np.asarray(Image.open(files[0][0]))[3:27].transpose(2, 0, 1)
    )
    assert found.cautions == (
        "left out as smaller than 24 px: 1",
        "left out as not to be decoded: 1",
    )
    with pytest.raises(GigaganError, match=r"0 of 4 pictures can be used \(3 are smaller than the 25 px"):
        damage_study.originals_of(files, 25, SETTINGS)


def test_a_part_of_many_pictures_is_drawn_by_seed(tmp_path: Path):
    files = []
    for number in range(8):
        path = tmp_path / f"{number}.png"
        Image.new("RGB", (8, 8), (number, 0, 0)).save(path)
        files.append((path, path.stem))
    few = SETTINGS.model_copy(update={"max_images": 3})
    names = damage_study.originals_of(files, 8, few).names
    assert names == damage_study.originals_of(files, 8, few).names == tuple(sorted(names))
    drawn = {
        damage_study.originals_of(files, 8, few.model_copy(update={"seed": seed})).names for seed in range(5)
    }
    assert len(drawn) > 1
    images = torch.arange(8, dtype=torch.uint8)[:, None, None, None].expand(8, 3, 8, 8)
    keys = [str(number) for number in range(8)]
    held_out = damage_study.originals_of_set(images, [f"c{key}" for key in keys], keys, True, few)
    assert [f"c{name}" for name in held_out.names] == list(held_out.prompts)
    assert held_out.images[:, 0, 0, 0].tolist() == [int(name) for name in held_out.names]
    assert damage_study.originals_of_set(images, keys, keys, False, few).prompts == (None,) * 3
