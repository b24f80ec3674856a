"""The training loop: which losses make which update, in which order, and what happens in between.

One loop for the base, the upsampler and its L1 control; Ray Train and `plain` launch the same one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from gigagan_core.training.flops import FlopMeter
from gigagan_core.training.optimisation import ema_decay, set_learning_rate, update_ema
from gigagan_core.training.settings import EmaSettings, OptimiserSettings, ScheduleSettings
from gigagan_core.training.sharding import training_only
from gigagan_core.training.state import TrainState
from gigagan_core.training.world import World, total_norm


class NonFiniteError(RuntimeError):
    """A loss or a gradient is not finite; no weight was changed by this update.

    images_seen: before the step. network: whose update it was. losses: the values by name. keys: the samples of this
    worker's batch. reason: the first part of the message, without the keys.
    """

    def __init__(self, step: int, images_seen: int, network: str, losses: dict[str, float], keys: list[str]):
        bad = [f"loss {name} is {value}" for name, value in losses.items() if not math.isfinite(value)]
        what = ", ".join(bad) or f"the gradient of {' + '.join(losses)} is not finite though the loss is"
        self.reason = f"step {step} ({images_seen} images seen), update of the {network}: {what}"
        super().__init__(f"{self.reason}; no update was applied; batch keys: {' '.join(keys)}")
        self.step, self.images_seen, self.network = step, images_seen, network
        self.losses, self.keys = losses, keys


@dataclass
class Batch:
    """One worker's share of a global batch, as the reader gives it.

    images: [N, 3, H, W], uint8 as the reader gives them (floats are made on the device) or floating point in [-1, 1].
    captions, keys: N each; keys name the samples in their shards.
    indices: [N] int64, the global sample index: position in the endless sequence of images seen. All
    randomness of a step is keyed by it, never by the worker. labels: [N] int64 classes, where the data has them.
    """

    images: Tensor
    captions: list[str]
    keys: list[str]
    indices: Tensor
    labels: Tensor | None = None


Loss = Callable[[Any], tuple[Tensor, dict[str, Tensor]]]


@dataclass(frozen=True)
class Term:
    """One loss: `function(micro)` -> (scalar, metrics), where `micro` is one of what `Recipe.prepare` made.

    every: how often it is due, in steps; it is due at step 0.
    """

    name: str
    function: Loss
    every: int = 1


@dataclass(frozen=True)
class Update:
    """One optimiser update: the weights of `network`, moved by the sum of the terms' gradients.

    before: called with the micro-batches; returns what the terms take, for losses that need to see them all.
    """

    network: str
    optimiser: OptimiserSettings
    terms: tuple[Term, ...]
    before: Callable[[Sequence[Any]], Sequence[Any]] | None = None


@dataclass(frozen=True)
class Recipe:
    """What one step of training does.

    prepare: Batch -> micro-batches, equally large, as the losses take them (frozen encoders run here, once a batch).
    Gradients add up over the micro-batches, and every loss is the mean of theirs.
    updates: made in order. after: called with the micro-batches after the updates, before the average.
    diagnose: called with the micro-batches every `diagnose_every` steps (0: never); metrics that cost a pass of their
    own.
    """

    prepare: Callable[[Batch], Sequence[Any]]
    updates: tuple[Update, ...]
    ema: EmaSettings
    after: Callable[[Sequence[Any]], None] = lambda micros: None
    diagnose: Callable[[Sequence[Any]], dict[str, Tensor]] = lambda micros: {}
    diagnose_every: int = 0

    def diagnoses(self, step: int) -> bool:
        """Whether `diagnose` is due."""
        return self.diagnose_every > 0 and step % self.diagnose_every == 0


class Hooks(Protocol):
    """What the loop tells the outside; every worker's hooks are called equally often."""

    def on_metrics(self, images_seen: int, metrics: dict[str, float]) -> None:
        """Means since the last call, with throughput."""

    def on_samples(self, state: TrainState) -> None:
        """Time to draw sample images."""

    def on_checkpoint(self, state: TrainState) -> None:
        """Time to save; called once more at the end."""

    def should_save(self) -> bool:
        """Whether to save out of turn and go on: a machine is about to be taken away."""

    def should_stop(self) -> bool:
        """Whether to save and leave early."""


def run_loop(
    state: TrainState,
    recipe: Recipe,
    batches: Iterable[Batch],
    schedule: ScheduleSettings,
    hooks: Hooks,
    world: World,
) -> None:
    """Train from `state.images_seen` to `schedule.total_images`, or until a hook says stop.

    batches: this worker's, starting at image `state.next_index`. Raises NonFiniteError.
    """
    if state.images_seen == 0 and schedule.sample_every_images:
        hooks.on_samples(state)
    clock = _Clock(state.images_seen, world.size)
    saved_at = state.images_seen
    source = iter(batches)
    while state.images_seen < schedule.total_images:
        before = state.images_seen
        with clock.spent("data"):
            batch = next(source)
        with clock.flops.step(_due(recipe, state.step)):
            metrics = train_step(state, recipe, batch, world)
        state.window.add(metrics)
        last = state.images_seen >= schedule.total_images
        save = last or _crossed(before, state.images_seen, schedule.checkpoint_every_images)
        stop = False
        if state.step % schedule.metrics_every_steps == 0 or last:
            metrics = state.window.read(world)
            state.remember({"images": state.images_seen, **metrics})
            hooks.on_metrics(state.images_seen, {**metrics, **clock.read(state.images_seen)})
            # Asked now, since agreeing with the other workers waits for the device as well.
            stop = world.any(hooks.should_stop())
            save = save or stop or world.any(hooks.should_save())
        if last or _crossed(before, state.images_seen, schedule.sample_every_images):
            with clock.spent("samples"):
                hooks.on_samples(state)
        if save:
            with clock.spent("checkpoint"):
                hooks.on_checkpoint(state)
            saved_at = state.images_seen
        if stop:
            return
    if saved_at != state.images_seen or state.step == 0:
        hooks.on_checkpoint(state)


def train_step(state: TrainState, recipe: Recipe, batch: Batch, world: World) -> dict[str, Tensor]:
    """One step: every update of the recipe, then the average; counters move. Returns scalar tensors.

    Raises NonFiniteError before the update that would have used the bad gradient.
    """
    metrics: dict[str, Tensor] = {}
    micros = recipe.prepare(batch)
    for update in recipe.updates:
        with training_only(state.networks, update.network):
            metrics |= _make_update(state, update, micros, batch, world)
    recipe.after(micros)
    if recipe.diagnoses(state.step):
        metrics |= recipe.diagnose(micros)
    state.step += 1
    state.images_seen += len(batch.indices) * world.size
    decay = ema_decay(recipe.ema, len(batch.indices) * world.size, state.images_seen)
    update_ema(state.ema, state.generator, decay)
    return metrics


def _make_update(
    state: TrainState, update: Update, micros: Sequence[Any], batch: Batch, world: World
) -> dict[str, Tensor]:
    optimizer = state.optimizers[update.network]
    parameters = [p for p in state.networks[update.network].parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.grad = None
    losses, metrics = _accumulate(update, micros, state.step)
    world.average_gradients(parameters)
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = total_norm(gradients)
    # The one wait for the device a step that buys the promise "before the update".
    if not torch.isfinite(norm):
        values = {name: loss.item() for name, loss in losses.items()}
        raise NonFiniteError(state.step, state.images_seen, update.network, values, batch.keys)
    set_learning_rate(optimizer, update.optimiser, state.images_seen)
    optimizer.step()
    metrics[f"grad_norm/{update.network}"] = norm
    return metrics


def _accumulate(
    update: Update, micros: Sequence[Any], step: int
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Take the gradients of the update's losses; returns losses and metrics, means over micro-batches."""
    if update.before is not None:
        micros = update.before(micros)
    losses: dict[str, Tensor] = {}
    metrics: dict[str, Tensor] = {}
    for term in update.terms:
        if step % term.every:
            continue
        for micro in micros:
            loss, found = term.function(micro)
            # Without `inputs`: split weights are not the leaves that the graph knows.
            (loss / len(micros)).backward()
            _add(losses, {term.name: loss.detach()}, len(micros))
            _add(metrics, found, len(micros))
    return losses, metrics


def _add(means: dict[str, Tensor], values: dict[str, Tensor], count: int) -> None:
    for name, value in values.items():
        means[name] = means[name] + value / count if name in means else value / count


_CLOCKED = {"data": "data_wait_share", "samples": "samples_share", "checkpoint": "checkpoint_stall_share"}


def _due(recipe: Recipe, step: int) -> tuple[bool, ...]:
    terms = [term.every for update in recipe.updates for term in update.terms]
    return *(step % every == 0 for every in terms), recipe.diagnoses(step)


def _crossed(before: int, after: int, every: int) -> bool:
    return every > 0 and before // every != after // every


class _Clock:
    """Images a second, and the shares of time that went to other things than steps, since the last read."""

    def __init__(self, images_seen: int, workers: int):
        self._images, self._workers = images_seen, workers
        self.flops = FlopMeter()
        self._start, self._spent = time.perf_counter(), dict.fromkeys(_CLOCKED, 0.0)

    @contextmanager
    def spent(self, on: str) -> Iterator[None]:
        """Count the block's time as `on`, one of data, samples, checkpoint."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._spent[on] += time.perf_counter() - start

    def read(self, images_seen: int) -> dict[str, float]:
        """Figures since the last read, and a new start."""
        seconds = max(time.perf_counter() - self._start, 1e-9)
        rate = (images_seen - self._images) / seconds
        figures = {
            "images_per_second": rate,
            "images_per_second_per_device": rate / self._workers,
            "flops_per_second_per_device": self.flops.read() / seconds,
            **{name: self._spent[on] / seconds for on, name in _CLOCKED.items()},
        }
        self._images, self._start = images_seen, time.perf_counter()
        self._spent = dict.fromkeys(_CLOCKED, 0.0)
        return figures
