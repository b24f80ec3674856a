"""From settings to something that trains: networks, optimisers and the recipe of a step."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gigagan_core.models.discriminator import Discriminator
from gigagan_core.models.generator import Generator
from gigagan_core.models.settings import DiscriminatorSettings, GeneratorSettings, UpsamplerSettings
from gigagan_core.models.upsampler import Upsampler
from gigagan_core.training import diagnostics, steps
from gigagan_core.training.loop import Batch, Recipe, Term, Update
from gigagan_core.training.optimisation import adamw
from gigagan_core.training.settings import BaseTraining, Precision, UpsamplerTraining
from gigagan_core.training.sharding import data_parallel_mesh, keep_gathered, shard
from gigagan_core.training.state import TrainState
from gigagan_core.training.steps import BaseModels, StepBatch, UpsamplerModels
from gigagan_core.training.world import World

Device = torch.device | str


def initial_network(
    settings: GeneratorSettings | UpsamplerSettings | DiscriminatorSettings, seed: int
) -> nn.Module:
    """A network as it is before the first step; the same weights for the same settings and seed.

    The discriminator draws from a stream of its own. The global random state is left as it was.
    """
    kinds = {GeneratorSettings: Generator, UpsamplerSettings: Upsampler, DiscriminatorSettings: Discriminator}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + (1 if isinstance(settings, DiscriminatorSettings) else 0))
        return kinds[type(settings)](settings)


def base_training(
    generator: GeneratorSettings,
    discriminator: DiscriminatorSettings,
    training: BaseTraining,
    encoder: Any,
    device: Device = "cpu",
    world: World | None = None,
    vision_encoder: Any = None,
) -> tuple[TrainState, Recipe]:
    """State and recipe of a base model. encoder, vision_encoder (None: the same): frozen, on `device`."""
    world = world or World()
    state = _start({"generator": generator, "discriminator": discriminator}, training, device, world)
    models = BaseModels(
        state.networks["generator"],
        state.networks["discriminator"],
        encoder,
        vision_encoder,
        world,
    )
    discriminator_terms = [
        *_r1_term(models, training),
        _term(steps.discriminator_step, models, training, "discriminator"),
    ]
    recipe = Recipe(
        prepare=_preparation(steps.prepare_base, models, training, device),
        updates=(
            Update("discriminator", training.discriminator, tuple(discriminator_terms)),
            _generator_update(steps.generator_step, models, training, device),
        ),
        ema=training.ema,
        after=lambda micros: steps.track_w_mean(models, micros, training),
        diagnose=_diagnosis(steps.generate_pyramid, state, models, training, device),
        diagnose_every=training.schedule.diagnostics_every_steps,
    )
    return state, recipe


def upsampler_training(
    upsampler: UpsamplerSettings,
    discriminator: DiscriminatorSettings,
    training: UpsamplerTraining,
    encoder: Any,
    device: Device = "cpu",
    world: World | None = None,
    lpips: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> tuple[TrainState, Recipe]:
    """State and recipe of an upsampler, or of its L1 control, which has no discriminator."""
    world = world or World()
    if training.objective == "gan" and training.losses.lpips and lpips is None:
        raise ValueError("losses.lpips is not 0 and no LPIPS network was given")
    networks: dict[str, Any] = {"generator": upsampler}
    if training.objective == "gan":
        networks["discriminator"] = discriminator
    state = _start(networks, training, device, world)
    models = UpsamplerModels(
        state.networks["generator"], state.networks.get("discriminator"), encoder, lpips, world
    )
    updates = []
    if training.objective == "gan":
        terms = [
            *_r1_term(models, training),
            _term(steps.upsampler_discriminator_step, models, training, "discriminator"),
        ]
        updates.append(Update("discriminator", training.discriminator, tuple(terms)))
    step = steps.upsampler_generator_step if training.objective == "gan" else steps.l1_step
    updates.append(_generator_update(step, models, training, device))
    prepare = partial(steps.prepare_upsampler, settings=training)
    recipe = Recipe(
        prepare=_preparation(prepare, models, training, device),
        updates=tuple(updates),
        ema=training.ema,
        after=lambda micros: steps.track_w_mean(models, micros, training),
        diagnose=_diagnosis(steps.upsample_pyramid, state, models, training, device),
        diagnose_every=training.schedule.diagnostics_every_steps,
    )
    return state, recipe


def _generator_update(
    step: Callable[..., tuple[Tensor, dict[str, Tensor]]],
    models: BaseModels | UpsamplerModels,
    training: BaseTraining | UpsamplerTraining,
    device: Device,
) -> Update:
    def before(micros: Sequence[StepBatch]) -> Sequence[StepBatch]:
        with _arithmetic(training, device):
            return steps.meet_peers(models, micros, training)

    # The L1 control compares no samples.
    peers = before if step is not steps.l1_step else None
    return Update("generator", training.generator, (_term(step, models, training, "generator"),), peers)


def _diagnosis(
    make: Callable[..., list[Tensor]],
    state: TrainState,
    models: BaseModels | UpsamplerModels,
    training: BaseTraining | UpsamplerTraining,
    device: Device,
) -> Callable[[Sequence[StepBatch]], dict[str, Tensor]]:
    """Entropies of both networks on the first micro-batch, and how far the average is from the generator."""

    def diagnose(micros: Sequence[StepBatch]) -> dict[str, Tensor]:
        batch = micros[0]
        # A compiled network would be compiled again for the hooks.
        with torch.compiler.set_stance("force_eager"), _arithmetic(training, device):
            metrics = diagnostics.entropies(
                state.generator, lambda: make(models, batch, training.schedule.seed, "generator"), "generator"
            )
            if models.discriminator is not None:
                metrics |= diagnostics.entropies(
                    models.discriminator, lambda: models.discriminator.features(batch.real), "discriminator"
                )
        distance = diagnostics.relative_distance(state.ema, state.generator)
        return metrics | {"ema_distance": distance}

    return diagnose


def _start(
    networks: dict[str, Any], training: BaseTraining | UpsamplerTraining, device: Device, world: World
) -> TrainState:
    schedule = training.schedule
    built = {
        name: initial_network(settings, schedule.seed).to(_weight_dtype(schedule.precision)).train()
        for name, settings in networks.items()
    }
    ema = copy.deepcopy(built["generator"]).eval().requires_grad_(False)
    if schedule.parallelism == "sharded" and world.size > 1:
        # Before anything is on the device: it never holds a whole network.
        mesh = data_parallel_mesh(torch.device(device).type)
        for network in (*built.values(), ema):
            shard(network, mesh)
    for network in (*built.values(), ema):
        network.to(device)
    optimizers = {name: adamw(network, getattr(training, name)) for name, network in built.items()}
    state = TrainState(built, ema, optimizers)
    for network in built.values():
        network.checkpoint_activations = schedule.activation_checkpointing
    if schedule.compile:
        _compile(state)
    return state


def _compile(state: TrainState) -> None:
    """Compile what the steps call most; done after the average is copied, which stays as it is."""
    state.generator.compile()
    if "discriminator" in state.networks:
        discriminator = state.networks["discriminator"]
        discriminator.features = torch.compile(discriminator.features)


def _r1_term(models: BaseModels | UpsamplerModels, training: BaseTraining | UpsamplerTraining) -> list[Term]:
    """To stand before the other terms of its update: of split networks it leaves gathered weights behind, and may leave
    gradients in them, which the backward pass of the next term splits.
    """
    if not training.r1.strength:
        return []
    return [_term(steps.r1_step, models, training, "r1", every=training.r1.interval)]


def _term(
    function: Callable[..., tuple[Tensor, dict[str, Tensor]]],
    models: BaseModels | UpsamplerModels,
    training: BaseTraining | UpsamplerTraining,
    name: str,
    every: int = 1,
) -> Term:
    def loss(batch: StepBatch) -> tuple[Tensor, dict[str, Tensor]]:
        # torch.compile has no double backward
        eager = torch.compiler.set_stance("force_eager") if function is steps.r1_step else nullcontext()
        with eager, _arithmetic(training, batch.indices.device):
            if models.discriminator is not None:
                keep_gathered(models.discriminator, function is steps.r1_step)
            return function(models, batch, training)

    return Term(name, loss, every)


def _arithmetic(training: BaseTraining | UpsamplerTraining, device: Device) -> AbstractContextManager[Any]:
    """What the networks compute in."""
    if training.schedule.precision != "bfloat16":
        return nullcontext()
    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16)


def _preparation(
    prepare: Callable[..., StepBatch],
    models: BaseModels | UpsamplerModels,
    training: BaseTraining | UpsamplerTraining,
    device: Device,
) -> Callable[[Batch], list[StepBatch]]:
    schedule, dtype = training.schedule, _weight_dtype(training.schedule.precision)
    network = models.generator.settings
    # A micro-batch keeps its wrong captions to itself.
    block = training.losses.matching_block or schedule.micro_batch_size

    def ready(batch: Batch) -> list[StepBatch]:
        indices = batch.indices.to(device)
        if network.conditioning == "class":
            if batch.labels is None:
                raise ValueError("the generator is class-conditional and the images have no class labels")
            captions = steps.read_labels(batch.labels.to(device), indices, schedule.seed, block)
        else:
            captions = steps.read_captions(
                models.encoder, batch.captions, indices, schedule.seed, block, dtype, network.text_layer
            )
        images = steps.to_unit_range(batch.images.to(device), dtype)
        return steps.split(prepare(models, images, captions, indices), schedule.micro_batch_size)

    return ready


def _weight_dtype(precision: Precision) -> torch.dtype:
    return torch.float64 if precision == "float64" else torch.float32
