"""Training at a width where a step takes milliseconds, in float64 where numbers are compared."""

from __future__ import annotations

import dataclasses
import io
import json
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from gigagan_core.encoders.clip_model import ClipArchitecture, ClipModel, Tower
from gigagan_core.encoders.open_clip_encoder import ClipEncoder, Preprocessing, save_encoder
from gigagan_core.models.settings import DiscriminatorSettings, GeneratorSettings, UpsamplerSettings
from gigagan_core.store.artifact import Artifact
from gigagan_core.training.flops import FlopMeter
from gigagan_core.training.loop import Batch, Recipe
from gigagan_core.training.recipes import base_training, upsampler_training
from gigagan_core.training.settings import (
    BaseLossSettings,
    BaseTraining,
    EmaSettings,
    OptimiserSettings,
    R1Settings,
    ScheduleSettings,
    UpsamplerLossSettings,
    UpsamplerTraining,
)
from gigagan_core.training.state import TrainState
from gigagan_core.training.world import World

TEXT = {"text_dim": 16, "text_width": 8, "text_depth": 1, "text_head_dim": 4}
ATTENTION = {"attention_head_dim": 4, "attention_mlp_ratio": 2.0}
ARCHITECTURE = ClipArchitecture(
    embed_dim=8,
    image_size=8,
    patch_size=4,
    vision=Tower(width=16, layers=1, heads=2),
    text=Tower(width=TEXT["text_dim"], layers=2, heads=2),
    pool="avg",
    context_length=8,
)
GENERATOR = GeneratorSettings(
    image_size=8,
    z_dim=6,
    w_dim=8,
    mapping_depth=2,
    channel_base=64,
    channel_max=8,
    kernels=(1, 2),
    blocks=(1, 1),
    attention_depths=(0, 1),
    **TEXT,
    **ATTENTION,
)
DISCRIMINATOR = DiscriminatorSettings(
    image_size=8,
    levels=2,
    channel_base=64,
    channel_max=8,
    blocks=(1, 1),
    attention_depths=(0, 1),
    predictor_depth=2,
    minibatch_std_group=2,
    vision_layers=(1,),
    vision_width=ARCHITECTURE.vision.width,
    vision_channels=4,
    **TEXT,
    **ATTENTION,
)
UPSAMPLER = UpsamplerSettings(
    low_size=8,
    image_size=16,
    bottleneck_size=4,
    z_dim=6,
    w_dim=8,
    mapping_depth=2,
    channel_base=64,
    channel_max=8,
    encoder_blocks=(1,),
    encoder_attention_depths=(0,),
    kernels=(1, 1, 2),
    blocks=(1, 1, 1),
    attention_depths=(0, 0, 0),
    lowest_rgb=8,
    **TEXT,
    **ATTENTION,
)
LARGE_DISCRIMINATOR = dataclasses.replace(
    DISCRIMINATOR, image_size=16, blocks=(1, 1, 1), attention_depths=(0, 1, 0), vision_layers=()
)
CAPTIONS = ("red apple", "green pear", "blue bird", "red car", "old tree", "green pear", "dog", "cat")
OPTIMISER = OptimiserSettings(learning_rate=0.01)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks this small spend their time waiting for threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def base_settings(**schedule: Any) -> BaseTraining:
    """Every loss on, R1 every third step."""
    return BaseTraining(
        schedule=ScheduleSettings(
            **{"batch_size": 8, "total_images": 40, "metrics_every_steps": 2, **schedule}
        ),
        losses=BaseLossSettings(level_weights=(1.0, 0.5), matching_block=4, vision_aided=0.5),
        generator=OPTIMISER,
        discriminator=OPTIMISER,
        r1=R1Settings(strength=1.0, interval=3),
        ema=EmaSettings(decay=0.9),
    )


def upsampler_settings(objective: str = "gan", **schedule: Any) -> UpsamplerTraining:
    """Every loss on."""
    return UpsamplerTraining(
        objective=objective,
        schedule=ScheduleSettings(
            **{"batch_size": 8, "total_images": 40, "metrics_every_steps": 2, **schedule}
        ),
        losses=UpsamplerLossSettings(
            level_weights=(1.0, 0.5),
            matching_block=4,
            lpips=10.0,
            feature_distance=10.0,
            feature_patches=1,
            l1=1.0,
            consistency=1.0,
        ),
        generator=OPTIMISER,
        discriminator=OPTIMISER,
        r1=R1Settings(strength=1.0, interval=3),
        ema=EmaSettings(decay=0.9),
    )


def make_encoder(dtype: torch.dtype = torch.float32) -> ClipEncoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = ClipModel(ARCHITECTURE)
    encoder = ClipEncoder(model, Preprocessing(), name="tiny", sha256="5" * 64, role="condition")
    return encoder.to(dtype)


def distance(fake: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """In the place of LPIPS: [N, 3, H, W] twice -> [N, 1, 1, 1]."""
    return (fake - real).square().mean(dim=(1, 2, 3), keepdim=True)


def make_base(settings: BaseTraining | None = None, world: World | None = None) -> tuple[TrainState, Recipe]:
    settings = settings or base_settings()
    dtype = torch.float64 if settings.schedule.precision == "float64" else torch.float32
    return base_training(GENERATOR, DISCRIMINATOR, settings, make_encoder(dtype), world=world)


def make_upsampler(
    settings: UpsamplerTraining | None = None, world: World | None = None
) -> tuple[TrainState, Recipe]:
    settings = settings or upsampler_settings()
    dtype = torch.float64 if settings.schedule.precision == "float64" else torch.float32
    return upsampler_training(
        UPSAMPLER, LARGE_DISCRIMINATOR, settings, make_encoder(dtype), world=world, lpips=distance
    )


def batches(
    size: int, batch_size: int = 8, start_image: int = 0, world: World | None = None
) -> Iterator[Batch]:
    """Images and captions that are a function of the global sample index, as the reader's are."""
    world = world or World()
    share = batch_size // world.size
    while True:
        first = start_image + world.rank * share
        indices = torch.arange(first, first + share)
        images = [
            torch.rand(3, size, size, generator=torch.Generator().manual_seed(int(index))) * 2 - 1
            for index in indices
        ]
        captions = [CAPTIONS[int(index) % len(CAPTIONS)] for index in indices]
        yield Batch(torch.stack(images), captions, [f"key{int(index)}" for index in indices], indices)
        start_image += batch_size


class NoMeter(FlopMeter):
    """Counts nothing: to count a step takes twice the step's own time, and short runs have hardly a step that is not
    the first of its kind."""

    @contextmanager
    def step(self, kind: Any) -> Iterator[None]:
        """Around a step."""
        yield


class Hooks:
    """Remembers what the loop told it; stops after `stop_after` questions."""

    def __init__(self, stop_after: int | None = None):
        self.metrics: list[tuple[int, dict[str, float]]] = []
        self.samples: list[int] = []
        self.checkpoints: list[tuple[int, dict[str, Any]]] = []
        self._stop_after = stop_after

    def on_metrics(self, images_seen: int, metrics: dict[str, float]) -> None:
        self.metrics.append((images_seen, metrics))

    def on_samples(self, state: TrainState) -> None:
        self.samples.append(state.images_seen)

    def on_checkpoint(self, state: TrainState) -> None:
        import copy

        self.checkpoints.append((state.images_seen, copy.deepcopy(state.state_dict())))

    def should_save(self) -> bool:
        return False

    def should_stop(self) -> bool:
        if self._stop_after is None:
            return False
        self._stop_after -= 1
        return self._stop_after < 0


def weights(state: TrainState) -> dict[str, torch.Tensor]:
    """Every tensor of the networks and their average, by name."""
    found = {
        f"{name}.{key}": value
        for name, network in state.networks.items()
        for key, value in network.state_dict().items()
    }
    return found | {f"ema.{key}": value for key, value in state.ema.state_dict().items()}


EVIL = "<script>alert(1)</script> | *bold* \x1b[31m"


def artifact(stage: str, kind: str, folder: Path, notes: dict) -> Artifact:
    manifest = {"notes": notes, "label": stage, "counts": {"in": 16, "out": 16, "rejected": {}}}
    return Artifact(stage, kind, f"{stage}-fingerprint", 1, f"{stage}-digest", str(folder), manifest)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    """16 pictures of 16 px in one shard, and a tiny encoder."""
    data, encoder = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("encoder")
    rows = []
    with tarfile.open(data / "00000.tar", "w") as tar:
        for number in range(16):
            pixels = torch.randint(0, 256, (16, 16, 3), generator=torch.Generator().manual_seed(number))
            picture = io.BytesIO()
            Image.fromarray(pixels.to(torch.uint8).numpy()).save(picture, format="PNG")
            key, caption = f"{number:09d}", CAPTIONS[number % len(CAPTIONS)]
            members = {"png": picture.getvalue(), "txt": caption.encode(), "json": b"{}"}
            for suffix, content in members.items():
                info = tarfile.TarInfo(f"{key}.{suffix}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            rows.append({"key": key, "caption": caption, "status": "success", "selected": True})
    pq.write_table(pa.Table.from_pylist(rows), data / "00000.parquet")
    index = [{"tar": "00000.tar", "parquet": "00000.parquet", "rows": 16, "selected": 16}]
    (data / "shards.json").write_text(json.dumps(index))
    save_encoder(encoder, make_encoder().model, Preprocessing(), name="tiny", role="condition")
    return {
        "data": artifact("ingest", "shard-set", data, {"licence": "CC BY-SA 4.0", "attribution": EVIL}),
        "encoder": artifact("train-encoder", "encoder", encoder, {"role": "condition"}),
    }
