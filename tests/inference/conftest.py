"""Models small enough for milliseconds, with every part switched on and no weight left at zero."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gigagan_core.encoders.open_clip_encoder import ClipEncoder, load_encoder
from gigagan_core.inference.pipeline import GigaGANPipeline
from gigagan_core.inference.upsampling import TiledUpsampler
from gigagan_core.models.generator import Generator
from gigagan_core.models.settings import GeneratorSettings, UpsamplerSettings
from gigagan_core.models.upsampler import Upsampler
from gigagan_core.training.checkpoint import export_bundle

TEXT = {"text_dim": 16, "text_width": 8, "text_depth": 1, "text_head_dim": 4}
ATTENTION = {"attention_head_dim": 4, "attention_mlp_ratio": 2.0}
GENERATOR = {
    "image_size": 16,
    "z_dim": 6,
    "w_dim": 8,
    "mapping_depth": 2,
    "mapping_lr_multiplier": 1.0,
    "channel_base": 128,
    "channel_max": 8,
    "kernels": (1, 2, 2),
    "blocks": (1, 1, 1),
    "attention_depths": (0, 1, 0),
    **TEXT,
    **ATTENTION,
}
UPSAMPLER = {
    "low_size": 16,
    "image_size": 128,
    "bottleneck_size": 4,
    "z_dim": 6,
    "w_dim": 8,
    "mapping_depth": 2,
    "mapping_lr_multiplier": 1.0,
    "channel_base": 512,
    "channel_max": 8,
    "encoder_blocks": (1, 1),
    "encoder_attention_depths": (0, 1),
    "kernels": (2, 2, 1, 1, 1, 1),
    "blocks": (1, 1, 1, 1, 1, 1),
    "attention_depths": (1, 0, 0, 0, 0, 0),
    "lowest_rgb": 16,
    "residual_output": True,
    **TEXT,
    **ATTENTION,
}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks this small spend their time waiting for threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def stirred(network: nn.Module) -> Any:
    """Random weights where training starts at zero: noise strengths, biases, RGB outputs, the mean of w."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in (*network.parameters(), network.w_mean):
            if not value.any():
                value.copy_(0.3 * torch.randn(value.shape, generator=generator))
    return network.eval().requires_grad_(False)


def make_generator(**changes: Any) -> Generator:
    torch.manual_seed(0)
    return stirred(Generator(GeneratorSettings(**{**GENERATOR, **changes})))


def make_upsampler(**changes: Any) -> Upsampler:
    torch.manual_seed(2)
    return stirred(Upsampler(UpsamplerSettings(**{**UPSAMPLER, **changes})))


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory, save_tiny_encoder: Callable[..., None]) -> Path:
    path = tmp_path_factory.mktemp("encoder") / "tiny"
    save_tiny_encoder(path)
    return path


@pytest.fixture(scope="session")
def encoder(encoder_folder: Path) -> ClipEncoder:
    return load_encoder(encoder_folder)


@pytest.fixture
def pipe(encoder: ClipEncoder) -> GigaGANPipeline:
    return GigaGANPipeline(make_generator(), encoder)


@pytest.fixture
def upsampler(encoder: ClipEncoder) -> TiledUpsampler:
    return TiledUpsampler(make_upsampler(), encoder)


@pytest.fixture
def bundle(tmp_path: Path, encoder: ClipEncoder) -> Callable[[nn.Module, str], Path]:
    """Write a network as a bundle; gives its folder."""

    def write(network: nn.Module, kind: str) -> Path:
        size = network.settings.image_size
        config = {"kind": kind, "image_size": size, "encoder_sha256": encoder.sha256, "seed": 0}
        export_bundle(tmp_path / kind, network, config, "# card")
        return tmp_path / kind

    return write
