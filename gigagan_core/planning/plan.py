"""From a step's counts to what a training takes on so many GPUs: memory, micro-batch, hours, cost."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any, Literal

from gigagan_core.config.base import all_settings, with_overrides
from gigagan_core.config.plan import PlanSettings
from gigagan_core.errors import GigaganError
from gigagan_core.planning.encoders import FrozenNetworks
from gigagan_core.planning.profile import (
    AVERAGE,
    AVERAGING,
    DIAGNOSIS,
    ENCODER,
    GENERATOR,
    GRADIENTS,
    OPTIMISER,
    PARAMETERS,
    PREPARE,
    R1,
    STATES,
    UPDATE,
    Shape,
    StepProfile,
    TrainingSettings,
    profile,
)

Layout = Literal["replicated", "sharded"]
LAYOUTS: tuple[Layout, ...] = ("replicated", "sharded")
SHARDED_STATES = (PARAMETERS, GRADIENTS, OPTIMISER, AVERAGE)
_COUNTED_WORKERS = 8
"""Of the steps that are counted: states scale with them where they are split, and nothing else depends on them."""


@dataclass(frozen=True)
class Affine:
    """What a step of n samples takes: fixed + n * per_sample."""

    fixed: float
    per_sample: float

    @classmethod
    def through(cls, first: tuple[int, float], second: tuple[int, float]) -> Affine:
        """The line through two measured points (n, value)."""
        slope = (second[1] - first[1]) / (second[0] - first[0])
        return cls(first[1] - slope * first[0], slope)

    def at(self, samples: int) -> float:
        """Its value for so many samples."""
        return self.fixed + self.per_sample * samples


@dataclass(frozen=True)
class PhaseModel:
    """working: bytes beyond the states at the fullest moment. states: bytes of states then. flops: by precision."""

    working: Affine
    states: Counter[str]
    flops: dict[str, Affine]
    traffic: Counter[str]


@dataclass(frozen=True)
class StepModel:
    """A step of any size, from two that were counted. kept: by phase and block. states: between steps."""

    phases: dict[str, PhaseModel]
    kept: dict[str, dict[str, Affine]]
    states: dict[str, int]

    @classmethod
    def of(cls, first: StepProfile, second: StepProfile) -> StepModel:
        """Counts are affine in the samples: exactly for FLOPs, and for bytes as long as the moment is the same."""
        n, m = first.shape.samples, second.shape.samples
        phases = {}
        for name, phase in first.phases.items():
            other = second.phases[name]
            by_precision = [_by_precision(each.flops) for each in (phase, other)]
            phases[name] = PhaseModel(
                Affine.through((n, phase.peak - _states(phase.held)), (m, other.peak - _states(other.held))),
                Counter({holder: other.held[holder] for holder in STATES}),
                {
                    kind: Affine.through((n, by_precision[0][kind]), (m, by_precision[1][kind]))
                    for kind in by_precision[1]
                },
                other.traffic,
            )
        kept = {
            name: {
                block: Affine.through((n, blocks[block]), (m, second.kept[name][block]))
                for block in second.kept[name]
            }
            for name, blocks in first.kept.items()
        }
        return cls(phases, kept, second.states)


def _by_precision(flops: Counter[tuple[str, str]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for (_, precision), count in flops.items():
        total[precision] += count
    return total


def _states(held: Counter[str]) -> int:
    return sum(held[holder] for holder in STATES)


@dataclass(frozen=True)
class Counted:
    """All that is counted for a preset, whatever the GPUs.

    kept, recomputed: without and with activation checkpointing; R1 is of `kept` alone, for it recomputes nothing.
    sharded_extra: by phase, what a sharded step holds beyond a replicated one's working bytes. traffic: sharded, by
    phase and collective. batch_bytes: of a prepared sample.
    embeds_bytes: of what the contrastive loss gathers of a sample. second_pass: FLOPs by precision of the images and
    embeddings that micro-batches need of each other beforehand. unit: see `sample_unit`.
    """

    kept: StepModel
    recomputed: StepModel
    sharded_extra: dict[str, float]
    sharded_traffic: dict[str, Counter[str]]
    batch_bytes: float
    embeds_bytes: float
    second_pass: dict[str, Affine]
    unit: int

    def model(self, phase: str, recompute: bool) -> PhaseModel:
        """The phase, with activation checkpointing or without."""
        recomputed = recompute and phase in self.recomputed.phases
        return (self.recomputed if recomputed else self.kept).phases[phase]


def count(settings: TrainingSettings, frozen: FrozenNetworks, largest: int) -> Counted:
    """Run the steps on tensors without values: four replicated ones and a sharded one.

    largest: samples of the largest share that is asked about. A peak is the largest of several lines, so between the
    counted sizes, the unit and this, what is read off is never too small, and beyond them it could be.
    """
    unit = sample_unit(settings)
    small, large = unit, max(largest, 2 * unit)
    whole = _laid_out(settings, "replicated")
    shapes = [Shape(n, _COUNTED_WORKERS) for n in (small, large)]
    # R1 recomputes nothing: what it takes is known from the first two.
    shapes += [replace(shape, recompute=True, penalty=False) for shape in shapes]
    *kept, third, fourth = profile(whole, frozen, shapes)
    recompute = settings.training.schedule.activation_checkpointing
    (sharded,) = profile(
        _laid_out(settings, "sharded"), frozen, [Shape(small, _COUNTED_WORKERS, recompute=recompute)]
    )
    models = StepModel.of(*kept), StepModel.of(third, fourth)
    traffic = {name: phase.traffic for name, phase in sharded.phases.items()}
    batch_bytes = sum(line.per_sample for line in models[0].kept[PREPARE].values())
    embeds = sharded.phases[GENERATOR].traffic["allgather"] / (small * _COUNTED_WORKERS)
    counted = Counted(*models, {}, traffic, batch_bytes, embeds, _second_pass(*kept), unit)
    for name, phase in sharded.phases.items():
        working = counted.model(name, recompute).working.at(small)
        counted.sharded_extra[name] = phase.peak - _states(phase.held) - working
    return counted


def _second_pass(first: StepProfile, second: StepProfile) -> dict[str, Affine]:
    """The generator's and the image encoder's forward pass in the generator's step, where nothing is recomputed."""

    def forward(found: StepProfile) -> Counter[str]:
        flops = found.phases[GENERATOR].flops
        return _by_precision(
            Counter({k: n for k, n in flops.items() if k[0] == ENCODER or k[0].startswith("generator, ")})
        )

    n, m, less, more = first.shape.samples, second.shape.samples, forward(first), forward(second)
    return {kind: Affine.through((n, less[kind]), (m, more[kind])) for kind in more}


def sample_unit(settings: TrainingSettings) -> int:
    """Samples that cannot be parted: a matching block, a mini-batch-std group; two, to exchange captions."""
    block, group = settings.training.losses.matching_block, settings.discriminator.minibatch_std_group
    return math.lcm(max(block, 1), max(group, 1)) if max(block, group) > 1 else 2


def on_gpus(settings: TrainingSettings, gpus: int) -> TrainingSettings:
    """The settings with so many workers. Raises GigaganError where the batch does not split over them."""
    return with_overrides(settings, [f"workers={gpus}"], where=f"--gpus {gpus}")


def _laid_out(settings: TrainingSettings, layout: Layout) -> TrainingSettings:
    schedule = {"parallelism": layout, "micro_batch_size": 0}
    return with_overrides(
        settings, ["workers=1", *(f"training.schedule.{key}={value}" for key, value in schedule.items())]
    )


# ---- what it takes on so many GPUs ------------------------------------------------------------------


def plan(
    settings: TrainingSettings, counted: Counted, gpus: tuple[int, ...], assumed: PlanSettings
) -> dict[str, Any]:
    """A JSON-able document; bytes, seconds, dollars. See `docs/plan.md` for its fields."""
    sheet = assumed.sheet
    schedule = settings.training.schedule
    return {
        "assumptions": {
            **all_settings(assumed),
            "gpu_memory": assumed.gpu_memory or sheet.memory_gib,
            "peak_flops": {kind: getattr(sheet, kind) for kind in ("bfloat16", "tf32", "float32")},
            "nvlink_bytes_a_second": sheet.nvlink,
            "network_bytes_a_second": sheet.network,
            "source": sheet.source,
        },
        "schedule": {
            "batch_size": schedule.batch_size,
            "total_images": schedule.total_images,
            "precision": schedule.precision,
            "activation_checkpointing": schedule.activation_checkpointing,
            "parallelism": schedule.parallelism,
            "r1_interval": settings.training.r1.interval,
        },
        "states": dict(counted.kept.states),
        "flops_an_image": _flops_an_image(counted, settings),
        "kept_an_image": {
            name: {
                "without_checkpointing": _kept(counted.kept, name),
                "with_checkpointing": _kept(counted.recomputed, name),
            }
            for name in counted.kept.kept
        },
        "plans": [_on(settings, counted, number, assumed) for number in gpus],
    }


def _kept(model: StepModel, phase: str) -> dict[str, int]:
    blocks = model.kept.get(phase, {})
    return {block: round(line.per_sample) for block, line in blocks.items() if line.per_sample > 0}


def _flops_an_image(counted: Counted, settings: TrainingSettings) -> dict[str, dict[str, float]]:
    """By phase and precision, in a large batch; of R1 when it is due."""
    recompute = settings.training.schedule.activation_checkpointing
    return {
        name: {kind: line.per_sample for kind, line in counted.model(name, recompute).flops.items()}
        for name in counted.kept.phases
        if counted.kept.phases[name].flops
    }


def _on(settings: TrainingSettings, counted: Counted, gpus: int, assumed: PlanSettings) -> dict[str, Any]:
    settings = on_gpus(settings, gpus)
    share = settings.training.schedule.batch_size // gpus
    return {
        "gpus": gpus,
        "samples_a_gpu": share,
        **{
            layout: _layout(settings, counted, gpus, layout, assumed)
            for layout in (LAYOUTS if gpus > 1 else LAYOUTS[:1])
        },
    }


def _layout(
    settings: TrainingSettings, counted: Counted, gpus: int, layout: Layout, assumed: PlanSettings
) -> dict[str, Any]:
    share = settings.training.schedule.batch_size // gpus
    recompute = settings.training.schedule.activation_checkpointing
    found: dict[str, Any] = {}
    for name, recomputes in (("without_checkpointing", False), ("with_checkpointing", True)):
        sizes = micro_batches(share, counted.unit)
        fits = [n for n in sizes if peak(counted, gpus, layout, n, share, recomputes) <= assumed.memory_bytes]
        found[name] = {
            "peak_by_phase": peak_by_phase(counted, gpus, layout, share, share, recomputes),
            "peak": peak(counted, gpus, layout, share, share, recomputes),
            "peak_of_smallest_micro_batch": peak(counted, gpus, layout, sizes[-1], share, recomputes),
            "largest_micro_batch": fits[0] if fits else None,
        }
    chosen = found["with_checkpointing" if recompute else "without_checkpointing"]
    states = _states_on(counted.kept.states, gpus, layout)
    document = {"states": states, **found, "fits": chosen["largest_micro_batch"] is not None}
    if document["fits"]:
        document["time"] = _time(settings, counted, gpus, layout, chosen["largest_micro_batch"], assumed)
    return document


def micro_batches(share: int, unit: int) -> list[int]:
    """Sizes that a worker's share can be cut into, largest first; the share alone where the unit does not divide it."""
    return [n for n in range(share, 0, -1) if share % n == 0 and n % unit == 0] or [share]


def _states_on(states: dict[str, int] | Counter[str], gpus: int, layout: Layout) -> dict[str, float]:
    if layout == "replicated":
        return dict(states)
    return {name: size / gpus if name in SHARDED_STATES else size for name, size in states.items()}


def peak_by_phase(
    counted: Counted, gpus: int, layout: Layout, micro: int, share: int, recompute: bool
) -> dict[str, float]:
    """Bytes on one GPU at the fullest moment of each phase, with micro-batches of `micro` of its `share` samples."""
    waits = counted.batch_bytes * (share - micro)
    found = {}
    for name in counted.kept.phases:
        model = counted.model(name, recompute)
        states = _states_on(model.states, gpus, layout)
        extra = 0.0
        if layout == "sharded":
            if name == AVERAGING:
                continue  # its gradients are averaged as the backward pass goes
            extra = counted.sharded_extra[name]
        found[name] = sum(states.values()) + model.working.at(micro) + extra + waits
    return found


def peak(counted: Counted, gpus: int, layout: Layout, micro: int, share: int, recompute: bool) -> float:
    """The fullest moment of the step."""
    return max(peak_by_phase(counted, gpus, layout, micro, share, recompute).values())


def _time(
    settings: TrainingSettings,
    counted: Counted,
    gpus: int,
    layout: Layout,
    micro: int,
    assumed: PlanSettings,
) -> dict[str, Any]:
    """Seconds of an average step by part, R1's spread over its interval; and what the whole training comes to."""
    schedule = settings.training.schedule
    share = schedule.batch_size // gpus
    seconds = {
        name: _compute_seconds(settings, counted, name, share, micro, assumed)
        for name in counted.kept.phases
        if counted.kept.phases[name].flops
    }
    traffic = traffic_a_step(settings, counted, gpus, layout, share // micro)
    sent = sum(size * _ring_factor(kind, gpus) for kind, size in traffic.items())
    step = sum(seconds.values()) + sent / assumed.bandwidth(gpus)
    hours = step * math.ceil(schedule.total_images / schedule.batch_size) / 3600
    return {
        "micro_batch": micro,
        "micro_batches": share // micro,
        "compute_seconds": seconds,
        "traffic_bytes": traffic,
        "sent_bytes_a_gpu": sent,
        "communication_seconds": sent / assumed.bandwidth(gpus),
        "step_seconds": step,
        "images_a_second": schedule.batch_size / step,
        "hours": hours,
        "gpu_days": hours * gpus / 24,
        "cost": hours * gpus * assumed.gpu_hour_price,
    }


def _compute_seconds(
    settings: TrainingSettings, counted: Counted, phase: str, share: int, micro: int, assumed: PlanSettings
) -> float:
    flops = counted.model(phase, settings.training.schedule.activation_checkpointing).flops
    seconds = _seconds(flops, share, micro, assumed)
    if phase == GENERATOR and micro < share and settings.training.losses.contrastive:
        seconds += _seconds(counted.second_pass, share, micro, assumed)
    return seconds / _interval(settings, phase)


def _seconds(flops: dict[str, Affine], share: int, micro: int, assumed: PlanSettings) -> float:
    return sum(
        line.at(micro) * (share // micro) / (_peak_flops(kind, assumed) * assumed.mfu)
        for kind, line in flops.items()
    )


def _interval(settings: TrainingSettings, phase: str) -> int:
    """Every how many steps a phase is due."""
    often = {R1: settings.training.r1.interval, DIAGNOSIS: settings.training.schedule.diagnostics_every_steps}
    return max(often.get(phase, 1), 1)


def _peak_flops(precision: str, assumed: PlanSettings) -> float:
    if precision == "float64":
        raise GigaganError(
            "no GPU's speed in float64 is known here; set training.schedule.precision=bfloat16"
        )
    return getattr(assumed.sheet, precision)


def traffic_a_step(
    settings: TrainingSettings, counted: Counted, gpus: int, layout: Layout, micro_batches: int
) -> dict[str, float]:
    """Bytes of the whole tensors that an average step reduces, gathers, or reduces and splits, by collective."""
    if gpus == 1:
        return {}
    total: Counter[str] = Counter()
    for name, phase in counted.kept.phases.items():
        sharded = layout == "sharded"
        traffic = counted.sharded_traffic[name] if sharded else phase.traffic
        for kind, size in traffic.items():
            if kind == "allgather":
                continue
            repeated = micro_batches if sharded and name not in (AVERAGING, UPDATE) else 1
            total[kind] += size * repeated / _interval(settings, name)
    if counted.embeds_bytes:
        total["allgather"] = counted.embeds_bytes * settings.training.schedule.batch_size
    return dict(total)


def _ring_factor(collective: str, gpus: int) -> float:
    """What each GPU sends, as a multiple of the whole tensor: a ring does no better (Patarasuk & Yuan 2009)."""
    return (2 if collective.startswith("allreduce") else 1) * (gpus - 1) / gpus
