"""What an upsampler is judged by, and the baselines everything is judged beside."""

from __future__ import annotations

import pytest
import torch

from gigagan_core.errors import GigaganError
from gigagan_core.evaluation import baselines, patches
from gigagan_core.evaluation.features import to_unit_range


def random_images(count: int, size: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8)


def rms(outputs: torch.Tensor, low: torch.Tensor) -> float:
    return float(patches.consistency_error(outputs, low).mean().sqrt())


def test_places_of_patches_depend_on_seed_and_image_alone():
    whole = patches.patch_positions(torch.arange(50), 64, 16, 8, seed=3)
    assert torch.equal(whole[20:30], patches.patch_positions(torch.arange(20, 30), 64, 16, 8, seed=3))
    assert not torch.equal(whole, patches.patch_positions(torch.arange(50), 64, 16, 8, seed=4))
    assert whole.min() >= 0
    assert whole.max() == 64 - 16
    # uniform: about as many in every quarter of the range
    counts = torch.histc(whole.to(torch.float64), bins=4, min=0, max=49)
    assert counts.min() > 0.8 * counts.mean()


def test_patches_are_the_images_pixels_at_their_places():
    images = random_images(3, 20)
    places = patches.patch_positions(torch.arange(3), 20, 6, 4, seed=0)
    cut = patches.cut_patches(images, places, 6)
    assert cut.shape == (12, 3, 6, 6)
    for image in range(3):
        for number in range(4):
            row, column = places[image, number].tolist()
            assert torch.equal(cut[image * 4 + number], images[image, :, row : row + 6, column : column + 6])


def test_a_patch_may_be_the_whole_image_but_no_more():
    images = random_images(2, 8)
    places = patches.patch_positions(torch.arange(2), 8, 8, 1, seed=0)
    assert torch.equal(patches.cut_patches(images, places, 8), images)
    with pytest.raises(GigaganError, match="do not fit into images of 8"):
        patches.patch_positions(torch.arange(2), 8, 9, 1, seed=0)


def test_psnr_has_its_known_value_and_stays_finite_for_equal_images():
    flat = torch.full((2, 3, 4, 4), 100, dtype=torch.uint8)
    off = flat.clone()
    off[1] += 10
    found = patches.psnr(off, flat)
    assert found[1].item() == pytest.approx(28.1308, abs=1e-4)
    assert found[0].item() == pytest.approx(58.92, abs=0.01)


def test_shrunk_and_enlarged_images_are_pils():
    from PIL import Image

    # away from black and white: PIL clips between its two passes as well
    image = random_images(1, 32) // 2 + 64
    pil = Image.fromarray(image[0].permute(1, 2, 0).numpy())
    for ours, size in ((patches.shrink(image, 8), 8), (patches.bicubic(image, 128), 128)):
        theirs = torch.tensor(list(pil.resize((size, size), Image.Resampling.BICUBIC).tobytes()))
        difference = ours[0].permute(1, 2, 0).flatten().int() - theirs.int()
        # PIL computes in 8 bit fixed point, twice rounded
        assert difference.abs().max() <= 1


def test_an_output_that_shrinks_to_its_input_is_consistent_and_another_image_is_not():
    smooth = patches.bicubic(random_images(4, 8), 64)
    low = patches.shrink(smooth, 16)
    assert rms(smooth, low) == 0.0
    assert rms(smooth.roll(1, 0), low) > 0.1
    brighter = (smooth.int() + 51).clamp(max=255).to(torch.uint8)
    flat = torch.full((1, 3, 64, 64), 60, dtype=torch.uint8)
    assert rms(flat + 51, patches.shrink(flat, 16)) == pytest.approx(0.2)
    assert rms(brighter, low) > 0.1
    # each image for itself
    each = patches.consistency_error(torch.cat([smooth, brighter]), low.repeat(2, 1, 1, 1))
    assert each[:4].tolist() == [0] * 4
    assert each[4:].min() > 0.01


def test_blurring_keeps_the_mean_of_each_cell_and_takes_the_detail_out():
    images = random_images(3, 32)
    blurred = baselines.blurred(images, 8)
    assert blurred.shape == images.shape
    cells = torch.nn.functional.avg_pool2d(images.float(), 4)
    assert torch.allclose(torch.nn.functional.avg_pool2d(blurred.float(), 4), cells, atol=40)
    assert blurred.float().std() < 0.5 * images.float().std()
    flat = torch.full((1, 3, 32, 32), 77, dtype=torch.uint8)
    assert torch.equal(baselines.blurred(flat), flat)


def test_the_mean_image_is_one_image_and_samples_are_distinct_and_seeded():
    pair = torch.stack([torch.zeros(3, 4, 4), torch.full((3, 4, 4), 101.0)]).to(torch.uint8)
    assert torch.equal(baselines.mean_image(pair), torch.full((1, 3, 4, 4), 50, dtype=torch.uint8))
    chosen = baselines.sample(30, 100, seed=1)
    assert len(set(chosen.tolist())) == 30
    assert torch.equal(chosen, baselines.sample(30, 100, seed=1))
    assert not torch.equal(chosen, baselines.sample(30, 100, seed=2))
    with pytest.raises(GigaganError, match="need 30 training images"):
        baselines.sample(30, 29, seed=1)


def test_images_in_both_sets_are_counted():
    training = random_images(20, 8)
    held_out = torch.cat([random_images(5, 8, seed=1), training[3:5]])
    assert baselines.shared_images(training, held_out) == 2


def test_uint8_survives_the_range_of_the_networks():
    every = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    unit = to_unit_range(every)
    assert (unit.min(), unit.max()) == (-1, 1)
    assert torch.equal(((unit + 1) * 127.5).round().to(torch.uint8), every)
