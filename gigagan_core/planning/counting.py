"""A step of any size, from a few that are counted."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from typing import Literal

from gigagan_core.config.base import with_overrides
from gigagan_core.planning.encoders import FrozenNetworks
from gigagan_core.planning.profile import (
    ENCODER,
    GENERATOR,
    PREPARE,
    STATES,
    Shape,
    StepProfile,
    TrainingSettings,
    profile,
)

Layout = Literal["replicated", "sharded"]
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


def _laid_out(settings: TrainingSettings, layout: Layout) -> TrainingSettings:
    schedule = {"parallelism": layout, "micro_batch_size": 0}
    return with_overrides(
        settings, ["workers=1", *(f"training.schedule.{key}={value}" for key, value in schedule.items())]
    )
