"""Pictures of any size: tiles leave no seam, and running out of memory or of numbers is survived."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from gigagan_core.config.noise import LARGEST_NOISE
from gigagan_core.errors import GigaganError
from gigagan_core.inference.generate import enlarge, to_uint8
from gigagan_core.inference.latents import Keys
from gigagan_core.inference.memory import OutOfMemory
from gigagan_core.inference.tiles import axis, mirrored, tile_noise
from gigagan_core.inference.upsampling import TiledUpsampler, TileOptions

from .conftest import make_upsampler


def smooth(height: int, width: int, count: int = 1) -> Tensor:
    """[N, 3, h, w] in [-1, 1]: slow waves, so that a step between neighbours is a small one."""
    y, x = torch.arange(height)[:, None] / 9, torch.arange(width) / 7
    waves = torch.stack([torch.sin(x + phase) * torch.cos(y - phase) for phase in range(3)])
    return 0.8 * waves.expand(count, -1, -1, -1)


# ---- geometry --------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [5, 16, 17, 40, 100])
def test_windows_sum_to_one_at_every_pixel(length: int) -> None:
    tiles = axis(length, tile=16, overlap=4, stride=4)
    assert tiles.starts[0] == 0
    assert tiles.starts[-1] + 16 == tiles.padded >= length
    assert all(start % 4 == 0 for start in tiles.starts)
    total = torch.zeros(tiles.padded * 8)
    for start, window in zip(tiles.starts, tiles.windows(8)):
        assert window.min() >= 0
        total[start * 8 : (start + 16) * 8] += window
    torch.testing.assert_close(total, torch.ones_like(total))


def test_windows_are_zero_at_inner_borders_and_change_slowly() -> None:
    windows = axis(40, tile=16, overlap=4, stride=4).windows(8)
    assert windows[0, 0] == 1
    assert windows[0, -1] == windows[1, 0] == windows[1, -1] == windows[-1, 0] == 0
    assert windows.diff(dim=1).abs().max() < 0.1


def test_mirroring_continues_a_picture_as_often_as_needed() -> None:
    row = torch.tensor([1.0, 2.0, 3.0])[None]
    assert mirrored(row, 1, 8).tolist() == [[1, 2, 3, 3, 2, 1, 1, 2]]
    assert mirrored(row, 1, 3).equal(row)


def test_noise_belongs_to_the_picture_and_not_to_the_tile() -> None:
    first, right, below = tile_noise([(0, 0), (0, 8), (8, 0)], 16, 4, "cpu")(3, 64)
    assert first.shape == (1, 64, 64)
    assert torch.equal(first[:, :, 32:], right[:, :, :32])
    assert torch.equal(first[:, 32:], below[:, :32])
    assert not torch.equal(first, right)
    assert not torch.equal(first, below)
    assert abs(float(first.std()) - 1) < 0.05


# ---- seams -----------------------------------------------------------------------------------------


def steps(image: Tensor, dim: int) -> Tensor:
    """Mean absolute step across every line between two neighbouring rows or columns."""
    return image.diff(dim=dim).abs().mean(dim=[d for d in (0, 1, 2, 3) if d != dim])


def seam_steps(image: Tensor, seams: list[int]) -> tuple[float, float]:
    """(largest step across a seam, largest step across any other line), along x and y."""
    on = [float(steps(image, dim)[[seam - 1 for seam in seams]].max()) for dim in (2, 3)]
    off = torch.ones(image.shape[-1] - 1, dtype=torch.bool)
    off[[seam - 1 for seam in seams]] = False
    return max(on), max(float(steps(image, dim)[off].max()) for dim in (2, 3))


def naive(upsampler: TiledUpsampler, low: Tensor) -> Tensor:
    """Tiles side by side, as one would without thinking: each with its own borders, no overlap."""
    size = upsampler.network.settings.low_size
    rows = [
        torch.cat([upsampler.enlarge(tile, [""]) for tile in row.split(size, dim=3)], dim=3)
        for row in low.split(size, dim=2)
    ]
    return torch.cat(rows, dim=2)


def test_the_largest_seam_of_an_eightfold_upsampling_is_no_larger_than_a_step_inside_a_tile(
    upsampler: TiledUpsampler,
) -> None:
    low = smooth(48, 48)
    tiles = axis(48, tile=16, overlap=4, stride=4)
    image = upsampler.enlarge(low, [""])
    assert image.shape == (1, 3, 384, 384)
    # Anywhere in an overlap one tile gives way to the next.
    overlaps = [range(8 * right, 8 * (left + 16) + 1) for left, right in pairwise(tiles.starts)]
    across, inside = seam_steps(image, sorted({line for overlap in overlaps for line in overlap}))
    assert across <= inside
    across, inside = seam_steps(naive(upsampler, low), [128, 256])
    assert across > 2 * inside, "naive tiles must show what this test looks for"


def test_one_tile_is_what_the_network_makes(encoder) -> None:
    # Per-pixel noise lies elsewhere in a picture of tiles, so this network has none.
    network = make_upsampler(noise=False)
    low = torch.randint(0, 256, (3, 3, 16, 16), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    expected = enlarge(network, encoder, low, ["a", "b", "c"], torch.arange(3), 5, 0.1).to(torch.int16)
    found = TiledUpsampler(network, encoder).enlarge(
        low.float() / 127.5 - 1, ["a", "b", "c"], keys=Keys((5,) * 3, (0, 1, 2)), noise=0.1
    )
    assert (to_uint8(found).to(torch.int16) - expected).abs().max() <= 1


def test_a_picture_does_not_depend_on_how_many_tiles_are_made_at_a_time(upsampler) -> None:
    low = smooth(30, 41)
    one = upsampler.enlarge(low, ["dog"], noise=0.1, options=TileOptions(batch_size=1))
    many = upsampler.enlarge(low, ["dog"], noise=0.1, options=TileOptions(batch_size=7))
    assert one.shape == (1, 3, 240, 328)
    torch.testing.assert_close(one, many, rtol=0, atol=1e-5)


def test_one_that_learned_no_mean_of_w_is_not_truncated_towards_zero(upsampler) -> None:
    upsampler.network.w_mean.zero_()
    low = torch.zeros(1, 3, 16, 16)
    upsampler.enlarge(low, ["dog"], truncation=1.0)
    with pytest.raises(GigaganError, match="holds no mean of w to truncate towards"):
        upsampler.enlarge(low, ["dog"], truncation=0.7)


def test_prompt_latent_noise_and_truncation_all_count(upsampler) -> None:
    low = smooth(16, 16)
    plain = upsampler.enlarge(low, ["dog"])
    for changed in (
        upsampler.enlarge(low, ["cat"]),
        upsampler.enlarge(low, ["dog"], keys=Keys((1,), (0,))),
        upsampler.enlarge(low, ["dog"], noise=0.2),
        upsampler.enlarge(low, ["dog"], truncation=0.2),
    ):
        assert (changed - plain).abs().max() > 1e-3


# ---- sizes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "scale", "expected"),
    [
        ((16, 16), None, (128, 128)),
        ((3, 50), 8, (24, 400)),
        ((20, 10), 2.5, (50, 25)),
        ((7, 7), 1, (7, 7)),
        ((4, 6), 30, (120, 180)),
        ((1, 1), 8, (8, 8)),
    ],
)
def test_any_size_and_any_scale(upsampler, size, scale, expected) -> None:
    image = upsampler.enlarge(smooth(*size), [""], scale)
    assert image.shape[-2:] == expected
    assert image.isfinite().all()
    assert image.abs().max() <= 1


def test_a_second_pass_makes_no_more_pixels_than_wanted(upsampler) -> None:
    assert upsampler._passes((64, 64), (4096, 4096)) == [(64, 64), (512, 512)]
    assert upsampler._passes((512, 512), (4096, 4096)) == [(512, 512)]
    assert upsampler._passes((512, 512), (8192, 8192)) == [(512, 512), (1024, 1024)]
    assert upsampler._passes((10, 20), (15, 30)) == [(10, 20)]


def test_an_untrained_residual_upsampler_is_bicubic(encoder) -> None:
    network = make_upsampler()
    for stage in network.decoder:
        for head in stage.to_rgb:
            if head is not None:
                head.weight.zero_()
                head.bias.zero_()
    low = smooth(40, 40)
    bicubic = torch.nn.functional.interpolate(low, scale_factor=8, mode="bicubic", antialias=True)
    found = TiledUpsampler(network, encoder).enlarge(low, [""])
    # At tile borders a bicubic kernel sees the border; the blending hides the rest.
    assert (found - bicubic.clamp(-1, 1)).abs().max() < 0.01


# ---- trouble ---------------------------------------------------------------------------------------


def test_memory_that_runs_out_makes_batches_and_then_tiles_smaller(upsampler, monkeypatch) -> None:
    network, low, seen = upsampler.network, smooth(32, 32), []
    expected = upsampler.enlarge(low, [""], options=TileOptions(tile=8))
    synthesise = network.synthesise

    def small_memory(tiles, *rest):
        seen.append((len(tiles), tiles.shape[-1]))
        if tiles.shape[-1] > 8:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return synthesise(tiles, *rest)

    monkeypatch.setattr(network, "synthesise", small_memory)
    found = upsampler.enlarge(low, [""], options=TileOptions(batch_size=4))
    assert seen[:4] == [(4, 16), (2, 16), (1, 16), (1, 8)]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    monkeypatch.setattr(network, "synthesise", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("no")))
    with pytest.raises(OutOfMemory, match="the smallest there are"):
        upsampler.enlarge(low, [""])


def test_what_is_not_finite_is_made_again_in_float32(upsampler, monkeypatch) -> None:
    network, low, modes = upsampler.network, smooth(16, 16), []
    expected, synthesise = upsampler.enlarge(low, [""]), network.synthesise

    def coarse(*inputs):
        images = synthesise(*inputs)
        modes.append(torch.is_autocast_enabled("cpu"))
        return [image * torch.inf for image in images] if modes[-1] else images

    monkeypatch.setattr(network, "synthesise", coarse)
    found = upsampler.enlarge(low, [""], options=TileOptions(precision="bfloat16"))
    assert modes == [True, False]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    monkeypatch.setattr(network, "synthesise", lambda *inputs: [synthesise(*inputs)[0] * torch.nan])
    with pytest.raises(GigaganError, match="not finite"):
        upsampler.enlarge(low, [""])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"scale": 0.5}, "does not shrink"),
        ({"scale": 0}, "the scale is 0"),
        ({"scale": np.inf}, "the scale is inf"),
        ({"scale": 1e6}, r"8000000 x 8000000 px takes .* GiB are free; choose a smaller scale"),
        ({"scale": 1e300}, r"takes .* GiB of memory and .* GiB are free; choose a smaller scale"),
        ({"scale": 1.7e308}, r"takes .* GiB of memory and .* GiB are free; choose a smaller scale"),
        ({"noise": -1.0}, "noise level is -1"),
        ({"noise": np.nan}, "noise level is nan"),
        ({"noise": LARGEST_NOISE + 0.01}, "noise level is 0.51; give 0 to 0.5"),
        ({"truncation": np.nan}, "truncation nan cannot be used"),
        ({"truncation": 1e9}, "truncation 1000000000.0 cannot be used"),
        ({"options": TileOptions(tile=6)}, "multiple of 4 from 8 on"),
        (
            {"options": TileOptions(tile=4_096_000)},
            "tiles of 4096000 px take .* GiB are free; choose smaller ones",
        ),
        ({"options": TileOptions(tile=0)}, "multiple of 4 from 8 on"),
        ({"prompts": [3]}, "takes captions, and 3 was given"),
        ({"prompts": ["a", "b"]}, "2 prompts were given for 1 images"),
    ],
)
def test_arguments_that_do_not_fit_are_one_sentence(upsampler, arguments, sentence) -> None:
    with pytest.raises(GigaganError, match=sentence):
        upsampler(np.zeros((8, 8, 3), np.uint8), **arguments)


def test_an_upsampler_of_classes_is_told_which(upsampler) -> None:
    low = smooth(16, 16, count=2)
    classes = TiledUpsampler(make_upsampler(conditioning="class", classes=4, cross_attention=False))
    first, other = (classes.enlarge(low[:1], [label]) for label in (0, 3))
    assert (first - other).abs().max() > 1e-3
    with pytest.raises(GigaganError, match="no label says what a picture shows; give one from 0 to 3"):
        classes.enlarge(low, [0, None])
    none = TiledUpsampler(make_upsampler(conditioning="none", cross_attention=False))
    assert none.named([None]) == [None]
    assert upsampler.named([None, "dog"]) == ["", "dog"]


@pytest.mark.parametrize("size", [(0, 5), (5, 0)])
def test_a_picture_without_a_pixel_is_one_sentence(upsampler, size) -> None:
    with pytest.raises(GigaganError, match="has nothing to enlarge"):
        upsampler(Image.new("RGB", size))


def test_options_that_cannot_be_are_one_sentence() -> None:
    with pytest.raises(GigaganError, match=r"precision 'float8'; .*bfloat16"):
        TileOptions(precision="float8")
    with pytest.raises(GigaganError, match="0 tiles at a time"):
        TileOptions(batch_size=0)


def test_the_network_still_refuses_what_no_tile_can_be(upsampler) -> None:
    network = upsampler.network
    with pytest.raises(ValueError, match="multiple of 4 px"):
        network.synthesise(torch.zeros(1, 3, 10, 10), torch.zeros(1, 8), None)
