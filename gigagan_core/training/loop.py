"""The training loop: which losses make which update, in which order, and what happens in between.

One loop for the base, the upsampler and its L1 control; Ray Train and `plain` launch the same one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from gigagan_core.training.optimisation import ema_decay, set_learning_rate, update_ema
from gigagan_core.training.settings import EmaSettings, OptimiserSettings, ScheduleSettings
from gigagan_core.training.state import TrainState
from gigagan_core.training.world import World


class NonFiniteError(RuntimeError):
    """A loss or a gradient is not finite; no weight was changed by this step's update."""


@dataclass
class Batch:
    """One worker's share of a global batch, as the reader gives it.

    images: [N, 3, H, W] float32 in [-1, 1]. captions, keys: N each; keys name the samples in their shards.
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
    """One loss: `function(step)` -> (scalar, metrics), where `step` is what `Recipe.prepare` made.

    every: how often it is due, in steps; it is due at step 0.
    """

    name: str
    function: Loss
    every: int = 1


@dataclass(frozen=True)
class Update:
    """One optimiser update: the weights of `network`, moved by the sum of the terms' gradients."""

    network: str
    optimiser: OptimiserSettings
    terms: tuple[Term, ...]


@dataclass(frozen=True)
class Recipe:
    """What one step of training does.

    prepare: Batch -> what the losses take (frozen encoders run here, once a batch).
    updates: made in order. after: called with the prepared step after the updates, before the average.
    """

    prepare: Callable[[Batch], Any]
    updates: tuple[Update, ...]
    ema: EmaSettings
    after: Callable[[Any], None] = lambda step: None


class Hooks(Protocol):
    """What the loop tells the outside; every worker's hooks are called equally often."""

    def on_metrics(self, images_seen: int, metrics: dict[str, float]) -> None:
        """Means since the last call, with throughput."""

    def on_samples(self, state: TrainState) -> None:
        """Time to draw sample images."""

    def on_checkpoint(self, state: TrainState) -> None:
        """Time to save; called once more at the end."""

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

    batches: this worker's, starting at image `state.images_seen`. Raises NonFiniteError.
    """
    if state.images_seen == 0 and schedule.sample_every_images:
        hooks.on_samples(state)
    clock = _Clock(state.images_seen)
    saved_at = state.images_seen
    source = iter(batches)
    while state.images_seen < schedule.total_images:
        before = state.images_seen
        with clock.waiting():
            batch = next(source)
        state.window.add(train_step(state, recipe, batch, world))
        last = state.images_seen >= schedule.total_images
        if state.step % schedule.metrics_every_steps == 0 or last:
            metrics = state.window.read(world)
            state.history.append({"images": state.images_seen, **metrics})
            hooks.on_metrics(state.images_seen, {**metrics, **clock.read(state.images_seen)})
        if last or _crossed(before, state.images_seen, schedule.sample_every_images):
            hooks.on_samples(state)
        # Asked when the metrics are read: agreeing with the other workers waits for the device as well.
        stop = state.step % schedule.metrics_every_steps == 0 and world.any(hooks.should_stop())
        if last or stop or _crossed(before, state.images_seen, schedule.checkpoint_every_images):
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
    step = recipe.prepare(batch)
    for update in recipe.updates:
        metrics |= _make_update(state, update, step, batch, world)
    recipe.after(step)
    state.step += 1
    state.images_seen += len(batch.indices) * world.size
    decay = ema_decay(recipe.ema, len(batch.indices) * world.size, state.images_seen)
    update_ema(state.ema, state.generator, decay)
    return metrics


def _make_update(
    state: TrainState, update: Update, step: Any, batch: Batch, world: World
) -> dict[str, Tensor]:
    optimizer = state.optimizers[update.network]
    parameters = [p for p in state.networks[update.network].parameters() if p.requires_grad]
    metrics: dict[str, Tensor] = {}
    losses: dict[str, Tensor] = {}
    for parameter in parameters:
        parameter.grad = None
    for term in update.terms:
        if state.step % term.every == 0:
            loss, term_metrics = term.function(step)
            # Only this network's weights: the other one takes part, and its gradients would be thrown away.
            loss.backward(inputs=parameters)
            losses[term.name] = loss.detach()
            metrics |= term_metrics
    world.average_gradients(parameters)
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    # The one wait for the device a step that buys the promise "before the update".
    if not torch.isfinite(norm):
        raise NonFiniteError(_bad_news(state, update, losses, batch))
    set_learning_rate(optimizer, update.optimiser, state.images_seen)
    optimizer.step()
    metrics[f"grad_norm/{update.network}"] = norm
    return metrics


def _bad_news(state: TrainState, update: Update, losses: dict[str, Tensor], batch: Batch) -> str:
    bad = [f"loss {name} is {value.item()}" for name, value in losses.items() if not torch.isfinite(value)]
    what = ", ".join(bad) or f"the gradient of {' + '.join(losses)} is not finite though the loss is"
    return (
        f"step {state.step} ({state.images_seen} images seen), update of the {update.network}: {what}; "
        f"no update was applied; batch keys: {' '.join(batch.keys)}"
    )


def _crossed(before: int, after: int, every: int) -> bool:
    return every > 0 and before // every != after // every


class _Clock:
    """Images a second and the share of time spent waiting for data, since the last read."""

    def __init__(self, images_seen: int):
        self._images, self._start, self._waited = images_seen, time.perf_counter(), 0.0
        self._wait_start = 0.0

    def waiting(self) -> _Clock:
        return self

    def __enter__(self) -> None:
        self._wait_start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._waited += time.perf_counter() - self._wait_start

    def read(self, images_seen: int) -> dict[str, float]:
        seconds = max(time.perf_counter() - self._start, 1e-9)
        rates = {
            "images_per_second": (images_seen - self._images) / seconds,
            "data_wait_share": self._waited / seconds,
        }
        self._images, self._start, self._waited = images_seen, time.perf_counter(), 0.0
        return rates
