"""Reconstruction losses of the upsampler."""

import pytest
import torch
import torch.nn.functional as F

from gigagan_core.losses.reconstruction import (
    crop_patches,
    encoder_feature_distance,
    l1_loss,
    low_resolution_consistency,
    patch_corners,
)


@pytest.fixture
def images():
    return torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture
def embed():
    weight = torch.randn(10, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return lambda x: F.conv2d(x, weight.to(x.dtype)).flatten(1)[:, :20]


def test_equal_images_are_at_no_distance(images, embed):
    assert l1_loss(images, images) == 0
    assert encoder_feature_distance(embed, images, images).abs() < 1e-6


def test_an_image_shrunk_to_its_input_is_consistent_with_it(images):
    low = F.interpolate(images, size=(4, 4), mode="bicubic", antialias=True)
    assert low_resolution_consistency(images, low) == 0
    assert low_resolution_consistency(images, -low) > 0.01


def test_patches_are_the_squares_their_corners_say(images):
    corners = torch.tensor([[[0, 0], [3, 5]], [[8, 8], [1, 2]], [[4, 0], [0, 8]]])
    patches = crop_patches(images, corners, 8)
    assert patches.shape == (6, 3, 8, 8)
    for n in range(3):
        for p in range(2):
            y, x = corners[n, p].tolist()
            assert torch.equal(patches[2 * n + p], images[n, :, y : y + 8, x : x + 8])


def test_corners_are_keyed_by_sample_and_cover_the_image():
    indices = torch.arange(2000)
    corners = patch_corners(0, indices, image_size=16, patch_size=8, count=3)
    assert corners.shape == (2000, 3, 2)
    assert corners.min() == 0
    assert corners.max() == 8
    assert torch.equal(patch_corners(0, indices[50:60], 16, 8, 3), corners[50:60])


def test_patches_see_detail_the_whole_image_hides(images, embed):
    corners = patch_corners(0, torch.arange(3), 16, 8, 4)
    noisy = images + 0.1 * torch.randn(images.shape, generator=torch.Generator().manual_seed(2))
    assert encoder_feature_distance(embed, noisy, images, corners, 8) > 0


def test_gradients_equal_finite_differences_and_spare_the_target(images, embed):
    fake = images[:1, :, :8, :8].double().requires_grad_()
    real = images[1:2, :, :8, :8].double().requires_grad_()
    low = F.interpolate(real, size=(4, 4), mode="bicubic", antialias=True).detach()
    assert torch.autograd.gradcheck(lambda x: encoder_feature_distance(embed, x, real), (fake,))
    assert torch.autograd.gradcheck(lambda x: low_resolution_consistency(x, low), (fake,))
    assert torch.autograd.gradcheck(lambda x: l1_loss(x, low.repeat(1, 1, 2, 2)), (fake,))
    encoder_feature_distance(embed, fake, real).backward()
    assert real.grad is None
    assert fake.grad is not None
