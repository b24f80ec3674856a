"""A plan beside the truth: what `gigagan plan` counts for a small training, and what that training takes on the CPU.

    python benchmarks/bench_plan.py [--preset openmoji-64] [--samples 8]

Planned on tensors without values, as on a CPU; measured with torch's memory profiler around one real step, and with
saved-tensor hooks around each loss. Bytes, so the machine's load does not matter.
"""

from __future__ import annotations

import argparse
import datetime
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor

from benchmarks.side_by_side import machine, write
from gigagan_core.config import presets
from gigagan_core.config.encoder import demo_encoder
from gigagan_core.planning import encoders
from gigagan_core.planning.encoders import FrozenNetworks
from gigagan_core.planning.profile import GENERATOR, R1, STATES, Shape, TrainingSettings, profile
from gigagan_core.training.loop import Batch, Recipe, train_step
from gigagan_core.training.recipes import base_training
from gigagan_core.training.state import TrainState
from gigagan_core.training.world import World


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="openmoji-64")
    parser.add_argument("--samples", type=int, default=8)
    chosen = parser.parse_args()
    settings = presets.section(chosen.preset, "base")
    frozen = FrozenNetworks(encoders.trained_here(demo_encoder("condition")), "openmoji-condition")
    lines = compare(settings, frozen, chosen.samples)
    for name, line in lines.items():
        print(
            f"{name:45} planned {line['planned'] / 2**20:9.2f} MiB  measured {line['measured'] / 2**20:9.2f} MiB"
        )
    write(
        {
            "benchmark": "plan_small",
            "what": "bytes that gigagan plan counts, beside those of a real step on the CPU",
            "command": " ".join(["python", Path(sys.argv[0]).name, *sys.argv[1:]]),
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "machine": machine({}),
            "versions": {"torch": torch.__version__},
            "options": vars(chosen),
            "unit": "bytes",
            "ours": {
                name: {**line, "ratio": round(line["planned"] / line["measured"], 4)}
                for name, line in lines.items()
            },
        }
    )


def compare(settings: TrainingSettings, frozen: FrozenNetworks, samples: int) -> dict[str, dict[str, int]]:
    """{what: {planned, measured}}, bytes of one worker's step of so many samples with R1 due; base models only."""
    recompute = settings.training.schedule.activation_checkpointing
    (planned,) = profile(settings, frozen, [Shape(samples, recompute=recompute)], as_on_gpu=False)
    measured = measure(settings, frozen, samples)
    found = {name: {"planned": planned.states[name], "measured": measured[name]} for name in STATES}
    for name in (R1, "discriminator", GENERATOR):
        found[f"kept by the forward pass, {name}"] = {
            "planned": sum(planned.kept[name].values()),
            "measured": measured[f"kept {name}"],
        }
    found["whole step, beyond what is there between steps"] = {
        "planned": planned.peak - sum(planned.states.values()),
        "measured": measured["peak"],
    }
    return found


def measure(settings: TrainingSettings, frozen: FrozenNetworks, samples: int) -> dict[str, int]:
    """The same of a real step: states, bytes kept by each loss, and the peak of the profiler."""
    encoder = encoders.build(frozen.encoder, frozen.encoder_name)
    state, recipe = base_training(settings.generator, settings.discriminator, settings.training, encoder)
    size = settings.image_size
    batch = Batch(
        torch.zeros(samples, 3, size, size),
        [f"drawing {number}" for number in range(samples)],
        [str(number) for number in range(samples)],
        torch.arange(samples),
    )
    train_step(state, recipe, batch, World())
    found = _states(state, encoder)
    state.step = 0
    kept: dict[str, int] = {}
    train_step(state, _weighed(recipe, kept), batch, World())
    state.step = 0
    with torch.profiler.profile(profile_memory=True) as profiler:
        train_step(state, recipe, batch, World())
    return found | {f"kept {name}": size for name, size in kept.items()} | {"peak": _peak(profiler)}


def _states(state: TrainState, encoder: torch.nn.Module) -> dict[str, int]:
    networks = list(state.networks.values())
    weights = [tensor for network in networks for tensor in (*network.parameters(), *network.buffers())]
    optimisers = [
        value for o in state.optimizers.values() for each in o.state.values() for value in each.values()
    ]
    groups = (
        weights,
        [weight.grad for weight in weights if weight.grad is not None],
        optimisers,
        [*state.ema.parameters(), *state.ema.buffers()],
        [*encoder.parameters(), *encoder.buffers()],
    )
    return {name: _bytes(group) for name, group in zip(STATES, groups, strict=True)}


def _bytes(tensors: list[Tensor]) -> int:
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def _weighed(recipe: Recipe, kept: dict[str, int]) -> Recipe:
    """The same recipe, which notes the storages that each loss saves for its backward pass, parameters left out."""

    def weighed(name: str, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def run(step: Any) -> Any:
            saved: list[Tensor] = []

            def save(tensor: Tensor) -> Tensor:
                if not isinstance(tensor, torch.nn.Parameter) and not tensor.is_leaf:
                    saved.append(tensor.detach())
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
                result = function(step)
            kept[name] = _bytes(saved)
            return result

        return run

    updates = tuple(
        replace(
            update,
            terms=tuple(replace(term, function=weighed(term.name, term.function)) for term in update.terms),
        )
        for update in recipe.updates
    )
    return replace(recipe, updates=updates)


def _peak(profiler: torch.profiler.profile) -> int:
    """Largest sum of allocations less releases since the profiler started."""
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    total = highest = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        total += event.nbytes()
        highest = max(highest, total)
    return highest


if __name__ == "__main__":
    main()
