"""One whole step of the real configuration, without values and without GPUs: what would fail there fails here."""

from __future__ import annotations

from typing import Any

from gigagan_core.config.plan import PlanSettings
from gigagan_core.errors import GigaganError
from gigagan_core.planning.counting import sample_unit
from gigagan_core.planning.encoders import FrozenNetworks
from gigagan_core.planning.plan import on_gpus
from gigagan_core.planning.profile import R1, Shape, StepProfile, TrainingSettings, profile
from gigagan_core.text import plain
from gigagan_core.training.worker import check_text_width, check_vision_width


def rehearse(
    settings: TrainingSettings, frozen: FrozenNetworks, gpus: int, assumed: PlanSettings
) -> dict[str, Any]:
    """Build networks, optimisers and average as each of `gpus` workers would, split as the settings say, and run one
    step with R1 due on a worker's share of the batch.

    Returns what it took, JSON-able. Raises GigaganError, one sentence, where a batch does not split, a width does not
    fit the encoder, a step fails, or a GPU's memory is too small.
    """
    settings = on_gpus(settings, gpus)
    check(settings, frozen)
    schedule = settings.training.schedule
    share = schedule.batch_size // gpus
    shape = Shape(share, gpus, recompute=schedule.activation_checkpointing)
    try:
        (found,) = profile(settings, frozen, [shape])
    except GigaganError:
        raise
    except (RuntimeError, ValueError, AssertionError) as error:
        raise GigaganError(
            f"a step of {share} samples on each of {gpus} workers fails: {plain(error, limit=300)}"
        ) from error
    if found.peak > assumed.memory_bytes:
        raise GigaganError(_too_little(found, settings, assumed))
    return {
        "gpus": gpus,
        "samples_a_gpu": share,
        "parallelism": schedule.parallelism,
        "peak": found.peak,
        "peak_by_phase": {name: phase.peak for name, phase in found.phases.items()},
        "states": found.states,
        "traffic_bytes": {name: dict(phase.traffic) for name, phase in found.phases.items() if phase.traffic},
        "memory": assumed.memory_bytes,
    }


def check(settings: TrainingSettings, frozen: FrozenNetworks) -> None:
    """Raise GigaganError where networks and frozen encoders do not fit together, or samples that belong together
    would meet no partner on their worker."""
    check_text_width(settings, frozen.encoder.text.width)
    check_vision_width(settings, (frozen.vision_encoder or frozen.encoder).vision.width)
    share = settings.training.schedule.batch_size // settings.workers
    unit = sample_unit(settings)
    exchanging = settings.training.losses.matching and getattr(settings.training, "objective", "gan") == "gan"
    if exchanging and share < 2:
        raise GigaganError(
            f"each of {settings.workers} workers has {share} sample, and the matching loss exchanges captions within a "
            "worker; take fewer GPUs or a larger batch_size"
        )
    if share > unit and share % unit:
        raise GigaganError(
            f"each of {settings.workers} workers has {share} samples, which do not split into matching blocks and "
            f"mini-batch-std groups (together {unit}); take a number of GPUs that leaves each a multiple of {unit}"
        )


def _too_little(found: StepProfile, settings: TrainingSettings, assumed: PlanSettings) -> str:
    fullest = max(found.phases, key=lambda name: found.phases[name].peak)
    states, schedule = sum(found.states.values()), settings.training.schedule
    remedies = ["a smaller training.schedule.micro_batch_size"]
    if not schedule.activation_checkpointing and fullest != R1:  # which recomputes nothing
        remedies.append("training.schedule.activation_checkpointing=true")
    if schedule.parallelism != "sharded" and settings.workers > 1:
        remedies.append("training.schedule.parallelism=sharded")
    micro = schedule.micro_batch_size or found.shape.samples
    return (
        f"a step of {found.shape.samples} samples, {micro} at once, takes {found.peak / 2**30:.1f} GiB on each of "
        f"{settings.workers} GPUs at its fullest ({fullest}; {states / 2**30:.1f} GiB of it between steps) and tensors "
        f"may have {assumed.memory_bytes / 2**30:.1f}; take more or larger GPUs, or set {' or '.join(remedies)}"
    )
