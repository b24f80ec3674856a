"""LPIPS from files: the network is the package's, the weights are the ones named, nothing is fetched."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision

from gigagan_core.encoders.perceptual import load_lpips
from gigagan_core.errors import GigaganError
from gigagan_core.stages.references import lpips_weights

RELU_LAYERS = (3, 8, 15, 22, 29)  # relu1_2 ... relu5_3 of VGG-16 (Zhang et al. 2018)


@pytest.fixture(scope="module")
def backbone() -> torch.nn.Module:
    torch.manual_seed(0)
    return torchvision.models.vgg16(weights=None).eval()


@pytest.fixture(scope="module")
def weights(backbone: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "vgg16.pth"
    features = {key: value for key, value in backbone.state_dict().items() if key.startswith("features.")}
    torch.save(features, path)
    return path


def test_it_is_the_weighted_distance_of_unit_features_of_the_named_backbone(
    backbone: torch.nn.Module, weights: Path
) -> None:
    network = load_lpips(f"vgg:{weights}")
    torch.manual_seed(1)
    fake, real = torch.rand(2, 2, 3, 32, 32) * 2 - 1
    mean = torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1)
    std = torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1)
    expected, maps = torch.zeros(2), [(fake - mean) / std, (real - mean) / std]
    with torch.no_grad():
        for number, layer in enumerate(backbone.features):
            maps = [layer(x.clone()) for x in maps]
            if number in RELU_LAYERS:
                first, second = (x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10) for x in maps)
                head = network.lins[RELU_LAYERS.index(number)].model[-1].weight
                expected += (head * (first - second).square()).sum(1).mean((1, 2))
        torch.testing.assert_close(network(fake, real).flatten(), expected, rtol=1e-4, atol=1e-6)


def test_it_is_frozen_zero_for_equal_images_and_differentiable(weights: Path) -> None:
    network = load_lpips(f"vgg:{weights}")
    image = torch.rand(1, 3, 32, 32) * 2 - 1
    assert network(image, image).abs().max() == 0
    moved = (image + 0.1 * torch.randn_like(image)).requires_grad_()
    network(moved, image).mean().backward()
    assert moved.grad.abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert not network.training


def test_what_is_missing_or_does_not_fit_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(GigaganError, match="BACKBONE:PATH"):
        load_lpips("/weights/vgg16.pth")
    with pytest.raises(GigaganError, match="BACKBONE:PATH"):
        lpips_weights("/weights/vgg16.pth")
    with pytest.raises(GigaganError, match="no such file"):
        load_lpips(f"vgg:{tmp_path / 'none.pth'}")
    with pytest.raises(GigaganError, match=r"LPIPS weights vgg:.*no such weight file"):
        lpips_weights(f"vgg:{tmp_path / 'none.pth'}")
    (tmp_path / "damaged.pth").write_bytes(b"not weights")
    with pytest.raises(GigaganError, match="do not fit"):
        load_lpips(f"vgg:{tmp_path / 'damaged.pth'}")
    torch.save({"features.0.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(GigaganError, match="do not fit"):
        load_lpips(f"vgg:{tmp_path / 'other.pth'}")
