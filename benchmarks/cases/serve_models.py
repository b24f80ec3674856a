"""The demonstration's networks with random weights, as bundles on disk, for a server to open."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from gigagan_core.config.presets import demo
from gigagan_core.encoders.clip_model import ClipModel
from gigagan_core.encoders.open_clip_encoder import load_encoder, save_encoder
from gigagan_core.encoders.training import PREPROCESSING, architecture_of
from gigagan_core.models.generator import Generator
from gigagan_core.models.upsampler import Upsampler
from gigagan_core.training.checkpoint import export_bundle


class Models(NamedTuple):
    """Folders."""

    encoder: Path
    base: Path
    upsampler: Path


def write_models(folder: Path) -> Models:
    """Encoder, base model (32 px) and upsampler (to 128 px) of the preset `demo`, seed 0."""
    torch.manual_seed(0)
    preset = demo()
    models = Models(folder / "encoder", folder / "base", folder / "upsampler")
    save_encoder(models.encoder, ClipModel(architecture_of(preset.condition)), PREPROCESSING, name="random")
    sha256 = load_encoder(models.encoder).sha256
    networks: dict[str, nn.Module] = {
        "base": Generator(preset.base.generator),
        "upsampler": Upsampler(preset.upsampler.upsampler),
    }
    for kind, network in networks.items():
        size = network.settings.image_size
        config = {"kind": kind, "image_size": size, "encoder_sha256": sha256, "seed": 0}
        export_bundle(folder / kind, network, config, "# Random weights\n")
    return models


if __name__ == "__main__":
    for name, path in write_models(Path(sys.argv[1]))._asdict().items():
        print(name, path)
