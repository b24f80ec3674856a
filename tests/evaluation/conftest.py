"""A small encoder, small pictures and a stage's inputs for the tests of evaluation."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from gigagan_core.encoders.open_clip_encoder import load_encoder
from gigagan_core.evaluation.extractors import inception
from gigagan_core.evaluation.extractors.inception import quiet_torchscript
from gigagan_core.models.settings import GeneratorSettings, UpsamplerSettings
from gigagan_core.store.artifact import Artifact

HELD_OUT, TRAINING = 18, 24
TONES = ("", " light skin tone", " dark skin tone")
TEXT = {"text_dim": 16, "text_width": 8, "text_depth": 1, "text_head_dim": 4}
SMALL = {"z_dim": 6, "w_dim": 8, "mapping_depth": 2, "channel_base": 64, "channel_max": 8}
GENERATOR = GeneratorSettings(
    image_size=8,
    kernels=(1, 2),
    blocks=(1, 1),
    attention_depths=(0, 0),
    attention_head_dim=4,
    **SMALL,
    **TEXT,
)
UPSAMPLER = UpsamplerSettings(
    low_size=8,
    image_size=16,
    bottleneck_size=4,
    encoder_blocks=(1,),
    encoder_attention_depths=(0,),
    kernels=(1, 1, 2),
    blocks=(1, 1, 1),
    attention_depths=(0, 0, 0),
    attention_head_dim=4,
    lowest_rgb=8,
    **SMALL,
    **TEXT,
)


class PixelEncoder:
    """An encoder by the protocol, untrained and fixed: an image's features are projected pixels.

    A caption's features are those of the picture it was registered for, or noise keyed by the text.
    """

    context_length, width, embed_dim, image_size = 8, 4, 12, 8
    sha256 = "ab" * 32

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self._projection = torch.randn(3 * 8 * 8, 12, generator=generator) / 14
        self._captions: list[str] = []
        self.pictures: dict[str, torch.Tensor] = {}
        self.seen = 0

    def image_embed(self, images: torch.Tensor) -> torch.Tensor:
        self.seen += len(images)
        return F.adaptive_avg_pool2d(images, 8).flatten(1) @ self._projection

    def tokenize(self, captions: list[str]) -> torch.Tensor:
        self._captions += captions
        first = len(self._captions) - len(captions)
        return torch.arange(first, len(self._captions))[:, None]

    def text_embed(self, tokens: torch.Tensor) -> torch.Tensor:
        return torch.stack([self._text(self._captions[row]) for row in tokens[:, 0].tolist()])

    def _text(self, caption: str) -> torch.Tensor:
        if caption in self.pictures:
            return self.image_embed(self.pictures[caption][None].float() / 127.5 - 1)[0]
        key = int.from_bytes(hashlib.sha256(caption.encode()).digest()[:6], "big")
        return torch.randn(12, generator=torch.Generator().manual_seed(key))


@pytest.fixture(scope="module")
def encoder() -> PixelEncoder:
    return PixelEncoder()


@pytest.fixture(scope="session")
def drawings():
    """(count, size, seed) -> uint8 [count, 3, size, size]."""
    return _discs


def _discs(count: int, size: int, seed: int) -> torch.Tensor:
    """uint8 [N, 3, size, size]: coloured discs of random place and radius on white."""
    generator = torch.Generator().manual_seed(seed)
    x, y, radius = (torch.rand(3, count, 1, 1, generator=generator) * 0.5 + 0.25).unbind()
    colour = torch.rand(count, 3, 1, 1, generator=generator) * 200
    grid = (torch.arange(size) + 0.5) / size
    inside = ((grid[None, None] - x) ** 2 + (grid[None, :, None] - y) ** 2 < (radius / 2) ** 2)[:, None]
    return torch.where(inside, colour, torch.full_like(colour, 255.0)).to(torch.uint8)


@pytest.fixture(scope="session")
def scripted_inception(tmp_path_factory) -> Path:
    """A TorchScript file of the published Inception's form, with fixed random weights: its distance is no FID."""
    folder = tmp_path_factory.mktemp("inception")
    torch.manual_seed(0)
    path = folder / "inception-2015-12-05.pt"
    with quiet_torchscript():
        torch.jit.script(_Inception()).save(str(path))
    return path


@pytest.fixture
def narrow_inception(tmp_path_factory, monkeypatch) -> Callable[..., Path]:
    """(classifier or none) -> an Inception's file of 32 features, not 2,048, so that its distances take no seconds."""
    monkeypatch.setattr(inception, "WIDTH", 32)
    monkeypatch.setattr(inception.InceptionClean, "width", 32)

    def make(classifier: bool = True) -> Path:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = _Inception(1) if classifier else _Headless()
        path = tmp_path_factory.mktemp("narrow") / "inception.pt"
        with quiet_torchscript():
            torch.jit.script(network).save(str(path))
        return path

    return make


class _Inception(torch.nn.Module):
    def __init__(self, side: int = 8) -> None:
        super().__init__()
        self.layers = _layers(side)
        self.output = torch.nn.Linear(32 * side**2, 20)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.output(self.layers(x).flatten(1)).softmax(1)


class _Headless(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = _layers(1)


def _layers(side: int) -> torch.nn.Sequential:
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 32, 32, stride=24), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(side)
    )


@pytest.fixture(scope="session")
def picture_folder(tmp_path_factory) -> Callable[..., Path]:
    """(count, size, seed, ending) -> a new folder of noisy discs 0000.png, ..."""

    def make(count: int, size: int = 48, seed: int = 0, ending: str = "png") -> Path:
        folder = tmp_path_factory.mktemp("pictures")
        for row, image in enumerate(_discs(count, size, seed)):
            noise = torch.randint(
                0, 40, image.shape, generator=torch.Generator().manual_seed(seed * 977 + row)
            )
            pixels = (image.int() - noise).clamp(0, 255).to(torch.uint8)
            Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(folder / f"{row:04}.{ending}")
        return folder

    return make


@pytest.fixture(scope="session")
def artifact() -> Callable[..., Artifact]:
    """(folder, kind, notes, inputs) -> an artifact that no store has committed."""
    return _artifact


def _artifact(folder: Path, kind: str, notes: dict | None = None, inputs: dict | None = None) -> Artifact:
    digest = hashlib.sha256(str(folder).encode()).hexdigest()
    manifest = {"created": "2025-01-01T10:00", "notes": notes or {}, "inputs": inputs or {}}
    return Artifact(kind, kind, digest, 1, digest, str(folder), manifest)


@pytest.fixture(scope="session")
def shard_set() -> Callable[..., Artifact]:
    """(new folder, images, captions) -> a shard set of them."""
    return _shard_set


def _shard_set(folder: Path, images, captions: list[str]) -> Artifact:
    from gigagan_core.data.download import partition_schema
    from gigagan_core.data.shards import write_index, write_shard

    folder.mkdir()
    rows = []
    with tarfile.open(folder / "pictures.tar", "w") as tar:
        for number, (image, caption) in enumerate(zip(images, captions, strict=True)):
            png = io.BytesIO()
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(png, "PNG")
            for ending, content in (("png", png.getvalue()), ("txt", caption.encode())):
                member = tarfile.TarInfo(f"{number:04d}.{ending}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
            known = {"key": f"{number:04d}", "caption": caption, "status": "success", "selected": True}
            rows.append({**dict.fromkeys(partition_schema().names), **known})
    table = pa.Table.from_pylist(rows, partition_schema())
    write_index(folder, [write_shard(folder, 0, folder / "pictures.tar", table)])
    return _artifact(folder, "shard-set", {"licence": "CC BY-SA 4.0", "attribution": "OpenMoji"})


@pytest.fixture(scope="session")
def bundle() -> Callable[..., Artifact]:
    """(new folder, network's settings, kind, seed, the encoder's sha256) -> an untrained model."""
    return _bundle


def _bundle(folder: Path, network_settings, kind: str, seed: int, sha256: str, **extra) -> Artifact:
    from gigagan_core.training.checkpoint import export_bundle
    from gigagan_core.training.recipes import initial_network

    config = {
        "kind": kind,
        "image_size": network_settings.image_size,
        "encoder_sha256": sha256,
        "seed": 0,
    }
    export_bundle(folder / "bundle", initial_network(network_settings, seed), config, "a card")
    (folder / "curves.json").write_text(
        json.dumps({"images": [8, 16], "metrics": {"generator/loss": [2, 1]}})
    )
    return _artifact(folder, f"{kind}-model", **extra)


@pytest.fixture(scope="session")
def inputs(tmp_path_factory, drawings, save_tiny_encoder) -> dict[str, Artifact]:
    """Every input of the stages that judge: untrained networks, tiny encoders, drawings in shards."""
    folder = tmp_path_factory.mktemp("inputs")
    encoders = {}
    for seed, role in enumerate(("condition", "judge")):
        save_tiny_encoder(folder / role, f"openmoji-{role}", role, seed)
        encoders[role] = _artifact(folder / role, "encoder", {"role": role})
    sha256 = load_encoder(folder / "condition").sha256
    captions = [f"drawing {number // 3}{TONES[number % 3]}" for number in range(HELD_OUT)]
    train = _shard_set(folder / "train", drawings(TRAINING, 16, seed=1), [f"t {i}" for i in range(TRAINING)])
    return {
        **encoders,
        "model": _bundle(folder / "model", GENERATOR, "base", 1, sha256),
        "upsampler": _bundle(folder / "upsampler", UPSAMPLER, "upsampler", 2, sha256),
        "control": _bundle(folder / "control", UPSAMPLER, "upsampler", 3, sha256),
        "data": _shard_set(folder / "data", drawings(HELD_OUT, 16, seed=2), captions),
        "train": train,
    }
