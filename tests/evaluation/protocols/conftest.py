"""A small set in COCO's layout, and scripted networks of fixed random weights: no figure of theirs is called FID.

A Frechet distance of 2,048 dimensions takes seconds, its extrapolation minutes: most tests take another measure.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gigagan_core.assets.catalogue import CATALOGUE
from gigagan_core.encoders import weights as encoder_weights
from gigagan_core.encoders.clip_model import ClipArchitecture, ClipModel
from gigagan_core.encoders.open_clip_encoder import load_encoder
from gigagan_core.evaluation.protocols.generation import Model
from gigagan_core.evaluation.protocols.named import protocol
from gigagan_core.evaluation.protocols.protocol import Protocol
from gigagan_core.evaluation.protocols.run import ProtocolRun
from gigagan_core.evaluation.set_metrics import MeasureOptions
from gigagan_core.models.settings import UpsamplerSettings
from gigagan_core.store.artifact import Artifact
from gigagan_core.store.fingerprint import sha256_file

IMAGES, FEW = 28, MeasureOptions(resamples=100)
TEXT = {"text_dim": 16, "text_width": 8, "text_depth": 1, "text_head_dim": 4}
SMALL = {"z_dim": 6, "w_dim": 8, "mapping_depth": 2, "channel_base": 64, "channel_max": 8}
UPSAMPLER = UpsamplerSettings(
    low_size=8,
    image_size=32,
    bottleneck_size=4,
    encoder_blocks=(1,),
    encoder_attention_depths=(0,),
    kernels=(1, 1, 1, 2),
    blocks=(1, 1, 1, 1),
    attention_depths=(0, 0, 0, 0),
    lowest_rgb=8,
    attention_head_dim=4,
    **SMALL,
    **TEXT,
)
TINY_CLIP = {
    "embed_dim": 12,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 16, "patch_size": 8, "head_width": 16},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1},
}


def quick(found: Protocol, *metrics: str) -> Protocol:
    """The protocol with other measures by Inception."""
    first, *others = found.judges
    return replace(found, judges=(replace(first, metrics=metrics), *others)) if metrics else found


def no_ray():
    raise AssertionError("so few shards need no Ray")


@pytest.fixture(autouse=True)
def tiny_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    """The protocols name open_clip's architectures; here the names stand for networks of one block."""
    original = encoder_weights.architecture_config
    tiny = ("ViT-B-32-quickgelu", "ViT-g-14")
    monkeypatch.setattr(
        encoder_weights,
        "architecture_config",
        lambda name: TINY_CLIP if name in tiny else original(name),
    )


@pytest.fixture(scope="session")
def coco(tmp_path_factory, drawings) -> Path:
    """A folder in COCO's layout: JPEGs of several shapes, five captions each; one image without any."""
    folder = tmp_path_factory.mktemp("coco")
    (folder / "val2014").mkdir()
    (folder / "annotations").mkdir()
    images, captions = [], []
    for row, picture in enumerate(drawings(IMAGES + 1, 64, 5)):
        name = f"COCO_val2014_{row:012}.jpg"
        shape = ((64, 64), (64, 48), (40, 64))[row % 3]
        pixels = picture.permute(1, 2, 0).numpy()[: shape[0], : shape[1]]
        Image.fromarray(np.ascontiguousarray(pixels)).save(folder / "val2014" / name, quality=90)
        images.append({"id": 1000 - row, "file_name": name})
        if row < IMAGES:
            captions += [
                {"image_id": 1000 - row, "id": 10 * row + n, "caption": f"disc {row},\n number {n} "}
                for n in range(5)
            ]
    document = {"images": images, "annotations": captions[::-1]}
    (folder / "annotations" / "captions_val2014.json").write_text(json.dumps(document))
    return folder


@pytest.fixture(scope="session")
def judges(tmp_path_factory, scripted_inception) -> dict[str, Path]:
    """Weight files of the protocol's judges, none of them the published one."""
    folder = tmp_path_factory.mktemp("judges")
    found = {"inception": scripted_inception}
    for seed, name in enumerate(("clip-vit-b32", "clip-vit-g14")):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = ClipModel(ClipArchitecture.from_config(TINY_CLIP))
        found[name] = folder / f"{name}.pt"
        torch.save(model.state_dict(), found[name])
    return found


@pytest.fixture(scope="session")
def models(tmp_path_factory, inputs, bundle) -> dict[str, Artifact]:
    """A base model of 8 px, an upsampler to 32 px and their encoder, untrained."""
    sha256 = load_encoder(inputs["condition"].uri).sha256
    large = bundle(tmp_path_factory.mktemp("models"), UPSAMPLER, "upsampler", 1, sha256)
    return {"base": inputs["model"], "upsampler": large, "condition": inputs["condition"]}


@pytest.fixture
def run(coco, judges, models, tmp_path):
    """(changed fields of the run, of the protocol) -> the run of gigagan-coco-30k on the small set."""

    def make(name: str = "gigagan-coco-30k", mode: str = "exact", metrics=("is",), **changed) -> ProtocolRun:
        settings = {
            "protocol": quick(protocol(name, mode), *metrics if name != "prompt-file" else ()),
            "model": Model(models["base"], models["upsampler"], models["condition"], seed=3, batch_size=4),
            "assets": {
                **judges,
                "coco-2014-val": coco / "val2014",
                "coco-2014-captions": coco / "annotations" / "captions_val2014.json",
            },
            "work": tmp_path / "work",
            "shard_size": 8,
            "keep": 5,
            "options": FEW,
        }
        return ProtocolRun(**{**settings, **changed})

    return make


def values(result) -> dict[str, float]:
    return {figure.name: figure.value for figure in result.figures}


def named(judges: dict[str, Path], asset: str) -> str:
    """How figures call one of these CLIPs: no weights of the catalogue, so their sum is part of it."""
    return f"{CATALOGUE[asset].reader}-{sha256_file(judges[asset])[:8]}"
