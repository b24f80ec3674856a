"""From a step's counts to what a training takes on so many GPUs: memory, micro-batch, hours, cost."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from gigagan_core.config.base import all_settings, with_overrides
from gigagan_core.config.plan import PlanSettings
from gigagan_core.errors import GigaganError
from gigagan_core.planning.counting import Affine, Counted, Layout, StepModel
from gigagan_core.planning.profile import (
    AVERAGE,
    AVERAGING,
    DIAGNOSIS,
    GENERATOR,
    GRADIENTS,
    OPTIMISER,
    PARAMETERS,
    R1,
    UPDATE,
    TrainingSettings,
)

LAYOUTS: tuple[Layout, ...] = ("replicated", "sharded")
SHARDED_STATES = (PARAMETERS, GRADIENTS, OPTIMISER, AVERAGE)


def on_gpus(settings: TrainingSettings, gpus: int) -> TrainingSettings:
    """The settings with so many workers. Raises GigaganError where the batch does not split over them."""
    return with_overrides(settings, [f"workers={gpus}"], where=f"--gpus {gpus}")


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
    if phase == GENERATOR and micro < share and counted.embeds_bytes:  # the control compares no samples
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
