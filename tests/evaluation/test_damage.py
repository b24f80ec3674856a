"""Each kind of damage has the property it is named for, to the stated amount, and comes out the same for one seed."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image

from gigagan_core.config.base import with_overrides
from gigagan_core.config.damage import (
    DAMAGE_KINDS,
    Blur,
    DamageSettings,
    Jpeg,
    LatentGrid,
    ResidualNoise,
    Resized,
)
from gigagan_core.errors import GigaganError
from gigagan_core.evaluation import damage
from gigagan_core.evaluation.features import to_unit_range

SETTINGS = DamageSettings()
DRAWN = ("residual_noise", "latent_grid")


@pytest.fixture(scope="module")
def textured() -> torch.Tensor:
    """uint8 [4, 3, 64, 64] with energy at every frequency."""
    generator = torch.Generator().manual_seed(0)
    return (128 + 25 * torch.randn(4, 3, 64, 64, generator=generator)).clamp(0, 255).to(torch.uint8)


def flat(value: int, count: int = 8, size: int = 64) -> torch.Tensor:
    return torch.full((count, 3, size, size), value, dtype=torch.uint8)


def energy(images: torch.Tensor, low: float) -> float:
    """Of the frequencies from `low` on along either axis, in cycles a pixel; 0.5 is the highest."""
    spectrum = torch.fft.fft2(to_unit_range(images).double()).abs().square()
    down, across = (torch.fft.fftfreq(side).abs() for side in images.shape[-2:])
    return float(spectrum[..., torch.maximum(down[:, None], across) >= low].sum())


def test_blur_takes_high_frequencies_by_its_gaussian_and_leaves_the_mean(textured):
    for sigma in (0.8, 1.5):
        made = damage.blur(textured, Blur(sigma=sigma))
        at_edge = math.exp(-((2 * math.pi * 0.25 * sigma) ** 2))  # of the energy, where the band begins
        assert energy(made, 0.25) < at_edge * energy(textured, 0.25)
        assert made.double().mean() == pytest.approx(textured.double().mean(), abs=0.5)
    assert torch.equal(damage.blur(flat(77), Blur(sigma=3.0)), flat(77))
    assert damage.blur(flat(77, size=4), Blur(sigma=8.0)).shape == (8, 3, 4, 4)


def test_jpeg_leaves_steps_at_the_edges_of_blocks_of_eight():
    ramp = torch.arange(64).expand(4, 3, 64, 64).to(torch.uint8) * 2 + 60

    def steps(images: torch.Tensor) -> tuple[float, float]:
        """Mean step across the blocks' edges, and elsewhere."""
        step = (images[..., 1:].double() - images[..., :-1].double()).abs().mean((0, 1, 2))
        at_edges = torch.arange(1, 64) % 8 == 0
        return float(step[at_edges].mean()), float(step[~at_edges].mean())

    before, after = steps(ramp), steps(damage.jpeg(ramp, Jpeg(quality=5)))
    assert before[0] == before[1] == 2
    assert after[0] > 3 * after[1]
    fine = steps(damage.jpeg(ramp, Jpeg(quality=95)))
    assert fine[0] < 1.5 * fine[1]


def test_residual_noise_has_the_stated_variance_and_keeps_the_variances_sum():
    indices = torch.arange(4)
    for level in (0.05, 0.2):
        made = to_unit_range(damage.residual_noise(flat(128, 4), ResidualNoise(level=level), 0, indices))
        assert float(made.var()) == pytest.approx(level**2, rel=0.03)
    bright = to_unit_range(damage.residual_noise(flat(200, 4), ResidualNoise(level=level), 0, indices))
    kept = math.sqrt(1 - level**2)
    assert float(bright.mean()) == pytest.approx(kept * float(to_unit_range(flat(200)).mean()), abs=0.004)
    across = made[..., 1:] * made[..., :-1]
    assert abs(float(across.mean())) < 0.05 * 0.2**2, "neighbours are independent"


def test_ringing_stands_at_the_period_of_the_latents_and_nowhere_else():
    only = LatentGrid(period=8, ringing=0.1, blocks=0.0, colour=0.0)
    made = to_unit_range(damage.latent_grid(flat(128), only, 0, torch.arange(8))).double()
    for profile in (made.mean((0, 1, 2)), made.mean((0, 1, 3))):
        amplitude = torch.fft.rfft(profile).abs() * 2 / 64
        assert float(amplitude[64 // 8]) == pytest.approx(0.1, rel=0.02)
        others = torch.cat([amplitude[1:8], amplitude[9:]])
        assert float(others.max()) < 0.005
    sixteen = only.model_copy(update={"period": 16})
    other = to_unit_range(damage.latent_grid(flat(128), sixteen, 0, torch.arange(8))).double()
    assert int(torch.fft.rfft(other.mean((0, 1, 2))).abs()[1:].argmax()) + 1 == 64 // 16


def test_blocks_are_constant_in_a_cell_and_of_the_stated_spread():
    only = LatentGrid(period=8, ringing=0.0, blocks=0.1, colour=0.0)
    made = to_unit_range(damage.latent_grid(flat(128, 16), only, 0, torch.arange(16)))
    cells = made.unflatten(-2, (8, 8)).unflatten(-1, (8, 8))  # [N, 3, cell, row, cell, column]
    assert float(cells.std((3, 5)).max()) == 0
    values = cells[:, :, :, 0, :, 0]
    assert float(values.std()) == pytest.approx(0.1, rel=0.1)
    assert torch.equal(values[:, 0], values[:, 2]), "one offset a cell, for all channels"
    odd = damage.latent_grid(flat(128, 1, 20), only, 0, torch.arange(1))
    assert odd.shape == (1, 3, 20, 20)


def test_colours_shift_by_one_offset_a_picture_and_channel():
    only = LatentGrid(ringing=0.0, blocks=0.0, colour=0.1)
    made = to_unit_range(damage.latent_grid(flat(128, 64, 8), only, 0, torch.arange(64)))
    assert float(made.std((2, 3)).max()) == 0
    offsets = made[:, :, 0, 0]
    assert float(offsets.std()) == pytest.approx(0.1, rel=0.2)
    assert len(offsets.unique(dim=0)) == 64


def test_pixels_repeat_and_detail_is_gone_after_resizing(textured):
    nearest = damage.damaged(textured, "resized_nearest", SETTINGS, torch.arange(4))
    blocks = nearest.unflatten(-2, (32, 2)).unflatten(-1, (32, 2))
    assert torch.equal(blocks[:, :, :, :1, :, :1].expand_as(blocks), blocks)
    assert set(nearest[0].unique().tolist()) <= set(textured[0].unique().tolist())
    bicubic = damage.damaged(textured, "resized_bicubic", SETTINGS, torch.arange(4))
    assert energy(bicubic, 0.3) < 0.1 * energy(textured, 0.3)
    assert energy(bicubic, 0.3) < 0.1 * energy(nearest, 0.3)
    third = damage.resized(textured, Resized(factor=3), Image.Resampling.BICUBIC)
    assert energy(third, 0.2) < 0.2 * energy(bicubic, 0.2)


@pytest.mark.parametrize("kind", DAMAGE_KINDS)
def test_a_picture_is_damaged_alike_in_any_batch_and_for_one_seed(kind, textured):
    indices = torch.arange(4)
    whole = damage.damaged(textured, kind, SETTINGS, indices)
    assert whole.dtype == torch.uint8
    assert whole.shape == textured.shape
    assert not torch.equal(whole, textured)
    assert torch.equal(damage.damaged(textured[2:], kind, SETTINGS, indices[2:]), whole[2:])
    other = damage.damaged(textured, kind, SETTINGS.model_copy(update={"seed": 1}), indices)
    assert torch.equal(other, whole) == (kind not in DRAWN)
    elsewhere = damage.damaged(textured, kind, SETTINGS, indices + 7)
    assert torch.equal(elsewhere, whole) == (kind not in DRAWN)


@pytest.mark.parametrize("kind", DAMAGE_KINDS)
def test_black_stays_dark_and_white_bright(kind):
    for value, near in ((0, range(60)), (255, range(196, 256))):
        made = damage.damaged(flat(value), kind, SETTINGS, torch.arange(8))
        assert int(made.double().mean()) in near
        assert set(made.unique().tolist()) <= set(near), "nothing wraps around"


@pytest.mark.parametrize("kind", DAMAGE_KINDS)
def test_grey_stays_grey_transparency_is_kept_and_a_picture_stands_upright(kind):
    pixels = np.random.default_rng(0).integers(60, 200, (24, 40), np.uint8)
    grey = damage.damaged_picture(Image.fromarray(pixels), kind, SETTINGS)
    assert (grey.mode, grey.size) == ("L", (40, 24))
    assert np.asarray(grey).std() > 1
    alpha = Image.fromarray(pixels[::-1].copy())
    colour = Image.fromarray(np.stack([pixels, pixels // 2, 255 - pixels], axis=2))
    colour.putalpha(alpha)
    made = damage.damaged_picture(colour, kind, SETTINGS, index=3)
    assert made.mode == "RGBA"
    assert made.getchannel("A").tobytes() == alpha.tobytes()
    assert made.convert("RGB").tobytes() != colour.convert("RGB").tobytes()
    turned = colour.convert("RGB")
    turned.getexif()[0x0112] = 6
    assert damage.damaged_picture(turned, kind, SETTINGS).size == (24, 40)


def test_settings_name_what_they_do_not_know():
    changed = with_overrides(SETTINGS, ["blur.sigma=2", 'kinds=["blur"]'])
    assert (changed.blur.sigma, changed.kinds) == (2.0, ("blur",))
    with pytest.raises(GigaganError, match="'sigma'"):
        with_overrides(SETTINGS, ["blur.sigmas=2"])
    with pytest.raises(GigaganError, match=r"kinds\.0"):
        with_overrides(SETTINGS, ['kinds=["blurr"]'])
    assert set(damage.WHAT) == set(DAMAGE_KINDS)
