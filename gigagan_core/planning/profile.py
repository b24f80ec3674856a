"""One whole training step, on tensors without values, counted phase by phase."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from gigagan_core.config.training import BaseTrainingSettings, UpsamplerTrainingSettings
from gigagan_core.models.discriminator import Discriminator
from gigagan_core.planning import encoders
from gigagan_core.planning.encoders import FrozenNetworks
from gigagan_core.planning.fakes import fake_workers, faking
from gigagan_core.planning.tracker import OTHER, Phase, Tracker
from gigagan_core.training.loop import Batch, Recipe, Term, train_step
from gigagan_core.training.recipes import base_training, upsampler_training
from gigagan_core.training.state import TrainState
from gigagan_core.training.world import World

TrainingSettings = BaseTrainingSettings | UpsamplerTrainingSettings

PARAMETERS, GRADIENTS, OPTIMISER = "parameters", "gradients", "optimiser states"
AVERAGE, FROZEN, BATCH = "moving average", "frozen networks", "prepared batch"
STATES = (PARAMETERS, GRADIENTS, OPTIMISER, AVERAGE, FROZEN)
PREPARE, DISCRIMINATOR, R1, GENERATOR = "prepare", "discriminator", "r1", "generator"
AVERAGING, UPDATE, DIAGNOSIS = "averaging", "update", "diagnosis"
ENCODER = "text and image encoder"
FIRST_GRADIENT = "the images' gradient, to be differentiated again"
_CAPTION = "a red apple on a wooden table"


@dataclass(frozen=True)
class Shape:
    """samples: of the micro-batch. workers: how many share the global batch. recompute: activation checkpointing.
    penalty: whether R1 is due."""

    samples: int
    workers: int = 1
    recompute: bool = False
    penalty: bool = True


@dataclass
class StepProfile:
    """One step's counts on one worker; bytes.

    phases: prepare (frozen text encoder), r1, discriminator, generator (each with its backward pass), averaging (of
    gradients), update (optimisers, average), diagnosis (entropies, due seldom, as R1 is). kept: by phase, what the
    forward pass leaves for the backward pass, by block; of prepare: the batch. states: what is there between steps.
    """

    shape: Shape
    phases: dict[str, Phase]
    kept: dict[str, Counter[str]]
    states: dict[str, int]

    @property
    def peak(self) -> int:
        """Bytes held at the fullest moment of the step."""
        return max(phase.peak for phase in self.phases.values())


@dataclass(frozen=True)
class _CountedWorld(World):
    tracker: Tracker | None = None

    def average_gradients(self, *args: Any) -> None:
        self.tracker.enter_phase(AVERAGING)
        super().average_gradients(*args)


def profile(
    settings: TrainingSettings, frozen: FrozenNetworks, shapes: list[Shape], as_on_gpu: bool = True
) -> list[StepProfile]:
    """The settings' own networks, steps and optimisers, run once for each shape, with R1 due.

    All shapes have equally many workers. as_on_gpu: see `fakes.faking`.
    """
    workers = {shape.workers for shape in shapes}
    if len(workers) != 1:
        raise ValueError(f"shapes must have equally many workers, not {sorted(workers)}")
    world = World(0, workers.pop())
    double = settings.training.schedule.precision == "float64"
    with fake_workers(world.size), faking(as_on_gpu), _default_dtype(double):
        state, recipe, further = _build(settings, frozen, world)
        _make_optimiser_states(state)
        granularity = 512 if as_on_gpu else 1  # CUDA's allocator gives no less
        return [
            _run(settings, shape, state, recipe, further, Tracker(granularity), world) for shape in shapes
        ]


@contextlib.contextmanager
def _default_dtype(double: bool) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64 if double else before)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _build(
    settings: TrainingSettings, frozen: FrozenNetworks, world: World
) -> tuple[TrainState, Recipe, dict[str, nn.Module]]:
    encoder = encoders.build(frozen.encoder, frozen.encoder_name)
    further: dict[str, nn.Module] = {ENCODER: encoder}
    training = settings.training
    if isinstance(settings, BaseTrainingSettings):
        vision = None
        if frozen.vision_encoder is not None and training.losses.vision_aided:
            vision = encoders.build(frozen.vision_encoder, frozen.vision_encoder_name)
            further["vision-aided encoder"] = vision
        state, recipe = base_training(
            settings.generator, settings.discriminator, training, encoder, "cpu", world, vision
        )
    else:
        lpips = encoders.build_lpips() if training.losses.lpips and training.objective == "gan" else None
        if lpips is not None:
            further["LPIPS"] = lpips
        state, recipe = upsampler_training(
            settings.upsampler, settings.discriminator, training, encoder, "cpu", world, lpips
        )
    return state, recipe, further


def _run(
    settings: TrainingSettings,
    shape: Shape,
    state: TrainState,
    recipe: Recipe,
    further: dict[str, nn.Module],
    tracker: Tracker,
    world: World,
) -> StepProfile:
    for network in state.networks.values():
        network.checkpoint_activations = shape.recompute
    state.step = 0 if shape.penalty else 1
    kept: dict[str, Counter[str]] = {}
    for holder, tensors in _states(state, further).items():
        tracker.claim(tensors, holder)
    states = {holder: tracker.held[holder] for holder in STATES}
    counted = _CountedWorld(world.rank, world.size, tracker)
    with _watching(state, further, tracker), tracker:
        with tracker.holding(BATCH):
            batch = _batch(settings, shape.samples)
        train_step(state, _marked(recipe, tracker, kept), batch, counted)
    return StepProfile(shape, tracker.phases, kept, states)


def _states(state: TrainState, further: dict[str, nn.Module]) -> dict[str, list[Tensor]]:
    """Every tensor that is there between steps, by holder; gradients are those of the step before."""
    networks = list(state.networks.values())
    weights = [tensor for network in networks for tensor in (*network.parameters(), *network.buffers())]
    states = [each for optimizer in state.optimizers.values() for each in optimizer.state.values()]
    return {
        PARAMETERS: weights,
        GRADIENTS: [weight.grad for weight in weights if weight.grad is not None],
        OPTIMISER: [value for each in states for value in each.values() if isinstance(value, Tensor)],
        AVERAGE: [*state.ema.parameters(), *state.ema.buffers()],
        FROZEN: [t for module in further.values() for t in (*module.parameters(), *module.buffers())],
    }


def _make_optimiser_states(state: TrainState) -> None:
    """As after a step: the first one would meet less memory than all others."""
    for name, optimizer in state.optimizers.items():
        for parameter in state.networks[name].parameters():
            if parameter.requires_grad:
                parameter.grad = torch.empty_like(parameter)
        optimizer.step()


def _batch(settings: TrainingSettings, samples: int) -> Batch:
    size = settings.image_size
    network = settings.generator if isinstance(settings, BaseTrainingSettings) else settings.upsampler
    return Batch(
        images=torch.empty(samples, 3, size, size),
        captions=[f"{_CAPTION} {number}" for number in range(samples)],
        keys=[str(number) for number in range(samples)],
        indices=torch.arange(samples),
        labels=torch.arange(samples) if network.conditioning == "class" else None,
    )


def _marked(recipe: Recipe, tracker: Tracker, kept: dict[str, Counter[str]]) -> Recipe:
    """The same recipe, which tells the tracker where it is and notes what each forward pass leaves."""

    def prepare(batch: Batch) -> Any:
        tracker.enter_phase(PREPARE)
        before = tracker.held.copy()
        with tracker.holding(BATCH):
            made = recipe.prepare(batch)
        kept[PREPARE] = +(tracker.held - before)
        return made

    def marked(term: Term) -> Term:
        def function(step: Any) -> Any:
            tracker.enter_phase(term.name)
            before = tracker.held.copy()
            loss = term.function(step)
            kept[term.name] = +(tracker.held - before)
            if term.name == R1:
                kept[R1][FIRST_GRADIENT] = kept[R1].pop(OTHER, 0)
            return loss

        return replace(term, function=function)

    def after(step: Any) -> None:
        tracker.enter_phase(UPDATE)
        recipe.after(step)

    def diagnose(step: Any) -> Any:
        tracker.enter_phase(DIAGNOSIS)
        found = recipe.diagnose(step)
        tracker.enter_phase(UPDATE)
        return found

    updates = tuple(
        replace(update, terms=tuple(marked(term) for term in update.terms)) for update in recipe.updates
    )
    return replace(recipe, prepare=prepare, updates=updates, after=after, diagnose=diagnose)


@contextlib.contextmanager
def _watching(state: TrainState, further: dict[str, nn.Module], tracker: Tracker) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for name, network in state.networks.items():
            for label, block in blocks(name, network):
                stack.enter_context(tracker.watching(block, label))
            for parameter in network.parameters():
                hook = parameter.register_post_accumulate_grad_hook(
                    lambda owner: tracker.claim([owner.grad], GRADIENTS)
                )
                stack.callback(hook.remove)
        for name, module in further.items():
            # Each part: what is called is not the module itself, but a method that calls some of them.
            for part in module.modules():
                stack.enter_context(tracker.watching(part, name))
        for optimizer in state.optimizers.values():
            hook = optimizer.register_step_pre_hook(lambda *_: tracker.enter_phase(UPDATE))
            stack.callback(hook.remove)
        yield


def blocks(name: str, network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """(label, module) of a network's parts: each resolution's stage and predictor, and every other child."""
    settings = network.settings
    for child_name, child in network.named_children():
        if not isinstance(child, nn.ModuleList):
            yield f"{name}, {child_name.replace('_', ' ')}", child
            continue
        sizes = list(settings.resolutions)
        if isinstance(network, Discriminator):
            sizes.reverse()
        elif child_name == "encoder":
            sizes = list(settings.encoder_resolutions[1:])
        what = {"predictors": "predictor at ", "encoder": "down to "}.get(child_name, "")
        for size, member in zip(sizes, child, strict=True):
            if member is not None:
                yield f"{name}, {what}{size} px", member
