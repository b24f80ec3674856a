"""What one training worker does, whichever launcher started it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from gigagan_core.config.training import BaseTrainingSettings, UpsamplerTrainingSettings
from gigagan_core.errors import GigaganError
from gigagan_core.training.rounds import Reporter, train_rounds

if TYPE_CHECKING:
    from gigagan_core.data.mixture import Mixture
    from gigagan_core.models.settings import GeneratorSettings, UpsamplerSettings
    from gigagan_core.training.loop import Recipe
    from gigagan_core.training.samples import BaseSampler, UpsamplerSampler
    from gigagan_core.training.state import TrainState
    from gigagan_core.training.world import World


@dataclass(frozen=True)
class TrainingJob:
    """All that a worker needs to know; picklable, paths absolute since workers start in other folders.

    data: folders of shard sets, each with its weight in the mixture. encoder, vision_encoder: an encoder's folder or
    ARCH:PATH. lpips: BACKBONE:PATH. init_from: a model's bundle, or a folder that holds one.
    """

    settings: BaseTrainingSettings | UpsamplerTrainingSettings
    data: tuple[tuple[str, float], ...]
    encoder: str
    vision_encoder: str | None = None
    lpips: str | None = None
    init_from: str | None = None

    @property
    def total_images(self) -> int:
        """How many images training sees."""
        return self.settings.training.schedule.total_images


def train(job: TrainingJob, world: World, reporter: Reporter) -> None:
    """Train to the end, from the beginning or from the newest checkpoint: see `rounds.train_rounds`.

    Raises GigaganError for what the user can mend and NonFiniteError where a loss or gradient blew up once too often.
    """
    import torch

    from gigagan_core.data.mixture import Mixture
    from gigagan_core.data.reader import ShardReader
    from gigagan_core.encoders.open_clip_encoder import load_encoder

    settings, schedule = job.settings, job.settings.training.schedule
    if settings.use_gpu and not torch.cuda.is_available():
        raise GigaganError("use_gpu is set and torch finds no GPU; leave it out to train on the CPU")
    torch.set_num_threads(schedule.threads or _cpus())
    device = torch.device("cuda" if settings.use_gpu else "cpu")
    data = Mixture(job.data)
    check_labels(data, network_settings(settings))
    reader = partial(
        ShardReader,
        data,
        settings.image_size,
        seed=schedule.seed,
        crop=settings.crop,
        decode_threads=settings.decode_threads,
    )
    encoder = load_encoder(job.encoder, device=device)
    build = partial(_build, job, encoder, device, world)
    train_rounds(
        build,
        reader,
        schedule,
        reporter,
        world,
        settings.sample_count,
        init_from=job.init_from,
        further_metrics=partial(_utilisation, settings),
    )


def network_settings(
    settings: BaseTrainingSettings | UpsamplerTrainingSettings,
) -> GeneratorSettings | UpsamplerSettings:
    """The network that is trained to make images."""
    return settings.generator if isinstance(settings, BaseTrainingSettings) else settings.upsampler


def check_text_width(settings: BaseTrainingSettings | UpsamplerTrainingSettings, width: int) -> None:
    """Raise GigaganError where a network expects token features of another width than the encoder's."""
    networks = (("the generator", network_settings(settings)), ("discriminator", settings.discriminator))
    for name, network in networks:
        if network.text_conditioned and network.text_dim != width:
            raise GigaganError(
                f"{name}'s text_dim is {network.text_dim}, but the encoder's token features are {width} wide; "
                f"set text_dim to {width} or give another encoder"
            )


def check_vision_width(settings: BaseTrainingSettings | UpsamplerTrainingSettings, width: int) -> None:
    """Raise GigaganError where the vision-aided heads, if there are any, expect features of another width."""
    discriminator = settings.discriminator
    if discriminator.vision_layers and discriminator.vision_width != width:
        raise GigaganError(
            f"discriminator's vision_width is {discriminator.vision_width}, but the vision encoder's features are "
            f"{width} wide; set discriminator.vision_width={width} or name another --vision-encoder"
        )


def check_vision(settings: BaseTrainingSettings | UpsamplerTrainingSettings, encoder: Any) -> None:
    """Raise GigaganError where the vision-aided heads cannot read the maps of the encoder given, which sees one image.

    encoder: the vision encoder, or the one that stands in for it.
    """
    import torch

    layers, side = settings.discriminator.vision_layers, encoder.image_size
    if not layers:
        return
    with torch.no_grad():
        device = next(encoder.parameters()).device
        _, maps = encoder.image_features(torch.zeros(1, 3, side, side, device=device), layers)
    check_vision_width(settings, maps[0].shape[1])


def check_labels(data: Mixture, network: GeneratorSettings | UpsamplerSettings) -> None:
    """Raise GigaganError where a network expects class labels that the data lack or that it does not know."""
    if network.conditioning != "class":
        return
    if data.unlabelled:
        raise GigaganError(
            f"the network is conditioned on classes, and {data.unlabelled} of {len(data)} samples of "
            f"{', '.join(map(str, data.folders))} have no integer `label`; give data whose tables have that column, or "
            "set conditioning to text"
        )
    highest = int(data.samples.label.max())
    if highest >= network.classes:
        raise GigaganError(
            f"the data have the label {highest} and the network knows {network.classes} classes; set classes to "
            f"{highest + 1} or more"
        )


def _build(
    job: TrainingJob, encoder: Any, device: Any, world: World
) -> tuple[TrainState, Recipe, BaseSampler | UpsamplerSampler]:
    from gigagan_core.encoders.open_clip_encoder import load_encoder
    from gigagan_core.encoders.perceptual import load_lpips
    from gigagan_core.training.recipes import base_training, upsampler_training
    from gigagan_core.training.samples import BaseSampler, UpsamplerSampler

    settings = job.settings
    first = network_settings(settings)
    check_text_width(settings, encoder.width)
    if isinstance(settings, BaseTrainingSettings):
        vision = load_encoder(job.vision_encoder, device=device) if job.vision_encoder else None
        check_vision(settings, vision or encoder)
        state, recipe = base_training(
            first, settings.discriminator, settings.training, encoder, device, world, vision
        )
        return state, recipe, BaseSampler(encoder, settings.sample_psis, settings.sample_captions)
    lpips = load_lpips(job.lpips, device) if job.lpips else None
    state, recipe = upsampler_training(
        first, settings.discriminator, settings.training, encoder, device, world, lpips
    )
    return state, recipe, UpsamplerSampler(encoder, first.low_size)


def _utilisation(
    settings: BaseTrainingSettings | UpsamplerTrainingSettings, metrics: dict[str, float]
) -> dict[str, float]:
    """The share of the peak FLOP/s that is reached, where that is known."""
    if not settings.use_gpu:
        return {}
    import torch

    from gigagan_core.config.plan import gpu_named

    sheet = gpu_named(torch.cuda.get_device_name())
    if sheet is None:
        return {}
    half = settings.training.schedule.precision == "bfloat16"
    peak = sheet.bfloat16 if half else sheet.tf32
    return {"flops_utilisation": metrics["flops_per_second_per_device"] / peak}


def _cpus() -> int:
    """CPUs given to this worker: what the launcher says (Ray sets OMP_NUM_THREADS), or this process's own."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdigit() and int(given) > 0 else len(os.sched_getaffinity(0))
