"""`gigagan damage` as a person or a script calls it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from .conftest import failure

QUICK = ("--set", "bootstrap_resamples=100", "--set", "patch_size=8")


@pytest.fixture
def sharp(tmp_path: Path) -> Path:
    """A folder of pictures: one grey, one with transparency, one below it, one too small."""
    folder = tmp_path / "sharp"
    (folder / "more").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 255, (20, 24, 4), np.uint8)
    Image.fromarray(pixels[..., :3]).save(folder / "a.png")
    Image.fromarray(pixels[..., 0]).save(folder / "grey.png")
    Image.fromarray(pixels).save(folder / "more" / "clear.png")
    Image.fromarray(pixels[:9, :9, :3]).save(folder / "small.png")
    return folder


def test_it_writes_pictures_sheets_figures_and_a_page(trained, ask, sharp, tmp_path) -> None:
    document = ask("damage", "sharp", "--set", 'kinds=["blur","jpeg"]', *QUICK)
    assert [each["kind"] for each in document["kinds"]] == ["undamaged", "blur", "jpeg"]
    assert (document["images"], document["sizes"]) == (3, {"input": 8, "output": 16})
    assert document["cautions"] == ["left out as smaller than 16 px: 1"]
    assert set(document["kinds"][1]["figures"]["upsampler"]) == {"psnr_16_3", "ssim_16_3"}
    stored = json.loads((tmp_path / "damage" / "damage.json").read_text())
    assert stored == {key: document[key] for key in stored}
    for name in ("html", "png", "undamaged", "blur", "jpeg"):
        assert Path(document["paths"][name]).stat().st_size > 0
    for name in ("a", "grey", "more/clear"):
        for place, side in (("original", 16), ("input/blur", 8), ("upsampled/blur", 16)):
            assert Image.open(tmp_path / "damage" / place / f"{name}.png").size == (side, side)


def test_an_extractor_gives_distances_and_what_is_there_is_used_again(
    trained, inside, sharp, tmp_path
) -> None:
    encoder = tmp_path / "judge"
    trained.save_encoder(encoder)
    first = inside("damage", "sharp", "--set", 'kinds=["residual_noise"]', *QUICK)
    assert first.exit_code == 0, first.stderr
    made = tmp_path / "damage" / "upsampled" / "residual_noise" / "a.png"
    stamp = made.stat().st_mtime_ns
    again = inside(
        "damage", "sharp", "--set", 'kinds=["residual_noise"]', *QUICK, "--extractor", str(encoder)
    )
    assert again.exit_code == 0, again.stderr
    assert "patch8-fd_tiny_16_12" in again.stdout
    assert "Residual noise" in again.stdout
    assert made.stat().st_mtime_ns == stamp
    changed = ("--set", "residual_noise.level=0.3")
    sentence = failure(inside("damage", "sharp", "--set", 'kinds=["residual_noise"]', *QUICK, *changed))
    assert "was made otherwise; give --overwrite" in sentence
    forced = inside("damage", "sharp", "--set", 'kinds=["residual_noise"]', *QUICK, *changed, "--overwrite")
    assert forced.exit_code == 0, forced.stderr
    assert made.stat().st_mtime_ns > stamp


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "nothing says what to damage"),
        (["sharp", "--data", "latest"], "and not both"),
        (["sharp/small.png", "sharp/a.png"], "1 of 2 pictures can be used (1 are smaller than the 16 px"),
        (["sharp", "--set", "blur.sigmas=2"], "did you mean 'sigma'"),
        (["sharp", "--weights", "x"], "--weights x belongs to no --extractor"),
        (["--data", "latest"], "held-out shard set"),
    ],
)
def test_what_does_not_fit_is_one_sentence(trained, inside, sharp, arguments, sentence) -> None:
    assert sentence in failure(inside("damage", *arguments, *QUICK))
