"""What one training worker does, whichever launcher started it."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from gigagan_core.config.training import BaseTrainingSettings, UpsamplerTrainingSettings
from gigagan_core.errors import GigaganError

if TYPE_CHECKING:
    from gigagan_core.data.mixture import Mixture
    from gigagan_core.models.settings import GeneratorSettings, UpsamplerSettings
    from gigagan_core.training.loop import NonFiniteError, Recipe
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


class Reporter(Protocol):
    """Where a worker's news go, and where checkpoints come from.

    `checkpoint`, `settle` and `newest` are called on every worker, the others on rank 0 only.
    """

    def started(self, images_seen: int) -> None:
        """Training starts or goes on at this many images."""

    def metrics(self, images_seen: int, metrics: dict[str, float]) -> None:
        """New metrics."""

    def sample(self, images_seen: int, png: bytes) -> None:
        """A grid of sample images."""

    def rolled_back(self, images_seen: int, message: str, details: dict[str, Any]) -> None:
        """A loss or gradient was not finite; training goes on from `images_seen`. details: for a JSON file."""

    def checkpoint(self, images_seen: int, write: Callable[[Path], None] | None) -> None:
        """Keep a checkpoint: `write` fills an existing folder, maybe later and in another thread; None above rank 0."""

    def settle(self) -> None:
        """Wait until the last checkpoint is kept. Raises GigaganError where it could not be."""

    def newest(self) -> AbstractContextManager[Path | None]:
        """Inside, the folder of the newest checkpoint; None where there is none yet."""

    def should_save(self) -> bool:
        """Whether to save out of turn and go on."""

    def should_stop(self) -> bool:
        """Whether to save and leave early."""


def train(job: TrainingJob, world: World, reporter: Reporter) -> None:
    """Train to the end, from the beginning or from the newest checkpoint.

    Where a loss or gradient is not finite, training goes back to the newest checkpoint and leaves out the images up to
    that step, `max_rollbacks` times from one checkpoint.
    Raises GigaganError for what the user can mend and NonFiniteError where a loss or gradient blew up once more.
    """
    import torch

    from gigagan_core.data.mixture import Mixture
    from gigagan_core.data.reader import ShardReader
    from gigagan_core.encoders.open_clip_encoder import load_encoder
    from gigagan_core.training.loop import NonFiniteError, run_loop

    settings, schedule = job.settings, job.settings.training.schedule
    if settings.use_gpu and not torch.cuda.is_available():
        raise GigaganError("use_gpu is set and torch finds no GPU; leave it out to train on the CPU")
    torch.set_num_threads(schedule.threads or _cpus())
    device = torch.device("cuda" if settings.use_gpu else "cpu")
    data = Mixture(job.data)
    _check_labels(data, network_settings(settings))
    reader = partial(
        ShardReader,
        data,
        settings.image_size,
        seed=schedule.seed,
        crop=settings.crop,
        decode_threads=settings.decode_threads,
    )
    encoder = load_encoder(job.encoder, device=device)
    rollbacks = _Rollbacks(schedule.max_rollbacks, schedule.batch_size)
    while True:
        state, recipe, sampler = _build(job, encoder, device, world)
        _go_on(state, job, reporter)
        news = rollbacks.skip(state)
        if world.rank == 0:
            sampler.choose(next(iter(reader(batch_size=settings.sample_count))))
            reporter.started(state.images_seen)
            if news is not None:
                reporter.rolled_back(state.images_seen, *news)
        batches = reader(
            batch_size=schedule.batch_size,
            rank=world.rank,
            world_size=world.size,
            flip=schedule.flip,
            start_image=state.next_index,
        )
        try:
            run_loop(state, recipe, batches, schedule, LoopHooks(job, world, reporter, sampler), world)
            reporter.settle()
            return
        except NonFiniteError as error:
            rollbacks.note(error, state.next_index, world)


def _go_on(state: TrainState, job: TrainingJob, reporter: Reporter) -> None:
    """From the newest checkpoint, or else from the model to start from."""
    from gigagan_core.training.checkpoint import load_checkpoint, start_warm

    with reporter.newest() as folder:
        if folder is not None:
            load_checkpoint(folder, state)
        elif job.init_from is not None:
            start_warm(state, Path(job.init_from))


class _Rollbacks:
    """How often training went back to one checkpoint, and what it leaves out when it goes on.

    A step is a function of state and image indices, so that it must not be met again: the images from the checkpoint
    to the bad step are left out, and those after it take their place.
    """

    def __init__(self, limit: int, batch_size: int):
        self._limit, self._batch_size = limit, batch_size
        self._failed: tuple[NonFiniteError, int, list[list[str]]] | None = None
        self._base, self._count = -1, 0

    def note(self, error: NonFiniteError, index: int, world: World) -> None:
        """A step that began at image `index` failed; every worker calls this, as all of them see the same gradient."""
        self._failed = error, index, world.collect(error.keys)

    def skip(self, state: TrainState) -> tuple[str, dict[str, Any]] | None:
        """Have `state`, fresh from the checkpoint, leave images out; returns a sentence and details for the record.

        None where nothing has failed. Raises NonFiniteError where it was the last one allowed.
        """
        if self._failed is None:
            return None
        error, index, keys = self._failed
        self._count = self._count + 1 if state.images_seen == self._base else 1
        self._base = state.images_seen
        if self._count > self._limit:
            raise error
        state.skipped_images = index + self._batch_size - state.images_seen
        message = (
            f"{error.reason}; training goes back to {state.images_seen} images and leaves out the images up to that "
            f"step (rollback {self._count} of {self._limit} from this checkpoint)"
        )
        details = {
            "step": error.step,
            "images_seen": error.images_seen,
            "network": error.network,
            "losses": {name: repr(value) for name, value in error.losses.items()},
            "first_index": index,
            "keys_by_worker": keys,
            "back_to_images": state.images_seen,
            "skipped_images": state.skipped_images,
        }
        self._failed = None
        return message, details


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


def _check_labels(data: Mixture, network: GeneratorSettings | UpsamplerSettings) -> None:
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
        state, recipe = base_training(
            first, settings.discriminator, settings.training, encoder, device, world, vision
        )
        return state, recipe, BaseSampler(encoder, settings.sample_psis, settings.sample_captions)
    lpips = load_lpips(job.lpips, device) if job.lpips else None
    state, recipe = upsampler_training(
        first, settings.discriminator, settings.training, encoder, device, world, lpips
    )
    return state, recipe, UpsamplerSampler(encoder, first.low_size)


class LoopHooks:
    """The loop's hooks: rank 0 speaks, every rank meets at a checkpoint."""

    def __init__(self, job: TrainingJob, world: World, reporter: Reporter, sampler: Any):
        self._job, self._world, self._reporter, self._sampler = job, world, reporter, sampler

    def on_metrics(self, images_seen: int, metrics: dict[str, float]) -> None:
        if self._world.rank == 0:
            self._reporter.metrics(images_seen, metrics | _of_the_device(self._job.settings, metrics))

    def on_samples(self, state: TrainState) -> None:
        from gigagan_core.training.sharding import gathered

        average = gathered(state.ema)  # by all workers
        if self._world.rank == 0:
            self._reporter.sample(state.images_seen, self._sampler.draw(average))

    def on_checkpoint(self, state: TrainState) -> None:
        from gigagan_core.training.checkpoint import snapshot, write_checkpoint

        self._reporter.settle()  # two snapshots at once would need twice the memory
        saved = snapshot(state, self._world)  # by all workers

        def write(folder: Path) -> None:
            write_checkpoint(folder, saved, self._world, self._job.settings.training.schedule.seed)

        self._reporter.checkpoint(state.images_seen, write if self._world.rank == 0 else None)

    def should_save(self) -> bool:
        return self._reporter.should_save()

    def should_stop(self) -> bool:
        return self._reporter.should_stop()


def _of_the_device(
    settings: BaseTrainingSettings | UpsamplerTrainingSettings, metrics: dict[str, float]
) -> dict[str, float]:
    """Memory held at most so far, MiB, and the share of the peak FLOP/s that is reached, where that is known."""
    if not settings.use_gpu:
        import resource

        return {"memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10}
    import torch

    from gigagan_core.config.plan import gpu_named

    figures = {"memory_mib": torch.cuda.max_memory_allocated() / 2**20}
    sheet = gpu_named(torch.cuda.get_device_name())
    if sheet is not None:
        half = settings.training.schedule.precision == "bfloat16"
        peak = sheet.bfloat16 if half else sheet.tf32
        figures["flops_utilisation"] = metrics["flops_per_second_per_device"] / peak
    return figures


def _cpus() -> int:
    """CPUs given to this worker: what the launcher says (Ray sets OMP_NUM_THREADS), or this process's own."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdigit() and int(given) > 0 else len(os.sched_getaffinity(0))
