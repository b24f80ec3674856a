"""Training from a checkpoint to the end, and back to it where a loss is not finite; whoever reads and keeps.

torch is imported where it is needed: deciding that nothing is to be trained imports the launchers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from gigagan_core.training.loop import Batch, NonFiniteError, Recipe
    from gigagan_core.training.samples import BaseSampler, UpsamplerSampler
    from gigagan_core.training.settings import ScheduleSettings
    from gigagan_core.training.state import TrainState
    from gigagan_core.training.world import World


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


def train_rounds(
    build: Callable[[], tuple[TrainState, Recipe, BaseSampler | UpsamplerSampler]],
    reader: Callable[..., Iterable[Batch]],
    schedule: ScheduleSettings,
    reporter: Reporter,
    world: World,
    sample_count: int,
    init_from: str | None = None,
    further_metrics: Callable[[dict[str, float]], dict[str, float]] = lambda metrics: {},
) -> None:
    """Train to the end, or until the reporter says stop, from the beginning or from the newest checkpoint.

    build: makes state, recipe and sampler as they are before the first step. reader: takes batch_size, rank,
    world_size, flip and start_image, and gives batches for ever. sample_count: how many samples the sampler may take
    its prompts from. init_from: a model's bundle to start from, whose average goes on (see `EmaSettings.ramp`).
    further_metrics: what follows from those of the loop.
    Where a loss or gradient is not finite, training goes back to the newest checkpoint and leaves out the images up to
    that step, `max_rollbacks` times from one checkpoint. Raises NonFiniteError where it happened once more.
    """
    from gigagan_core.training.loop import NonFiniteError, run_loop

    rollbacks = _Rollbacks(schedule.max_rollbacks, schedule.batch_size)
    while True:
        state, recipe, sampler = build()
        if init_from is not None:
            # the ramp is there to forget untrained weights; StyleGAN2-ADA leaves it out of transfer learning as well
            recipe = replace(recipe, ema=replace(recipe.ema, ramp=0.0))
        _go_on(state, init_from, reporter)
        news = rollbacks.skip(state)
        if world.rank == 0:
            sampler.choose(next(iter(reader(batch_size=sample_count))))
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
            hooks = _Hooks(schedule.seed, world, reporter, sampler, further_metrics)
            run_loop(state, recipe, batches, schedule, hooks, world)
            reporter.settle()
            return
        except NonFiniteError as error:
            rollbacks.note(error, state.next_index, world)


def give_up(error: Exception) -> str:
    """What to say when a loss is not finite once too often."""
    return f"{error}; lower the learning rate or raise r1.strength and train again"


def _go_on(state: TrainState, init_from: str | None, reporter: Reporter) -> None:
    """From the newest checkpoint, or else from the model to start from."""
    from gigagan_core.training.checkpoint import load_checkpoint, start_warm

    with reporter.newest() as folder:
        if folder is not None:
            load_checkpoint(folder, state)
        elif init_from is not None:
            start_warm(state, Path(init_from))


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


class _Hooks:
    """The loop's hooks: rank 0 speaks, every rank meets at a checkpoint."""

    def __init__(
        self,
        seed: int,
        world: World,
        reporter: Reporter,
        sampler: Any,
        further_metrics: Callable[[dict[str, float]], dict[str, float]],
    ):
        self._seed, self._world, self._reporter, self._sampler = seed, world, reporter, sampler
        self._further_metrics = further_metrics

    def on_metrics(self, images_seen: int, metrics: dict[str, float]) -> None:
        if self._world.rank == 0:
            further = {"memory_mib": _memory_mib(), **self._further_metrics(metrics)}
            self._reporter.metrics(images_seen, metrics | further)

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
            write_checkpoint(folder, saved, self._world, self._seed)

        self._reporter.checkpoint(state.images_seen, write if self._world.rank == 0 else None)

    def should_save(self) -> bool:
        return self._reporter.should_save()

    def should_stop(self) -> bool:
        return self._reporter.should_stop()


def _memory_mib() -> float:
    """Held at most so far, MiB: of the GPU, or of this process where it uses none."""
    import resource

    import torch

    # Asked of a GPU that is not in use, the answer is 0.
    on_gpu = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    return on_gpu / 2**20 if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
