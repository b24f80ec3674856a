"""The paper's sizes on a GPU: one training step of the base model, and the latency of 64 -> 512 px.

    python benchmarks/bench_paper_size.py [--batch 16] [--compile]
    python benchmarks/bench_paper_size.py --rehearse      # the same code on small networks, on a CPU; writes nothing

Random weights and images, token features in the place of a frozen CLIP's: its own cost is the same for everybody.
Runs with torch alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.cases.models_ours import FixedText, step
from benchmarks.side_by_side import RESULTS, machine, summary
from gigagan_core.models import published
from gigagan_core.models.settings import (
    DiscriminatorSettings,
    GeneratorSettings,
    demo_discriminator,
    demo_generator,
    demo_upsampler,
)
from gigagan_core.models.upsampler import Upsampler
from gigagan_core.training.recipes import base_training
from gigagan_core.training.settings import BaseLossSettings, BaseTraining, ScheduleSettings

PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}  # dense bf16, the makers' data sheets
PAPER_LATENCY = 0.13  # seconds, 512 px, on an A100 (Table 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--no-checkpointing", action="store_true", help="keep all activations")
    parser.add_argument("--rehearse", action="store_true", help="small networks on a CPU; no figure is kept")
    chosen = parser.parse_args()
    if not chosen.rehearse and not torch.cuda.is_available():
        print(
            "bench_paper_size needs a GPU and torch finds none; nothing was measured (--rehearse runs its code)"
        )
        return
    device = torch.device("cpu" if chosen.rehearse else "cuda")
    found = {"step": training_step(chosen, device), "upsampling": upsampling(chosen, device)}
    print(json.dumps(found, indent=1))
    if not chosen.rehearse:
        for name, figures in found.items():
            document = {
                "benchmark": f"paper_size_{name}",
                "command": " ".join(["python", Path(sys.argv[0]).name, *sys.argv[1:]]),
                "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                "machine": machine({"device": "cuda"}),
                "versions": {"torch": torch.__version__},
                **figures,
            }
            RESULTS.mkdir(parents=True, exist_ok=True)
            (RESULTS / f"paper_size_{name}.json").write_text(json.dumps(document, indent=1) + "\n")


def training_step(chosen: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Images a second, share of the device's peak FLOPs, peak memory; without R1 and with it."""
    generator, discriminator = base_networks(chosen.rehearse)
    schedule = ScheduleSettings(
        batch_size=chosen.batch,
        precision="bfloat16",
        compile=chosen.compile,
        activation_checkpointing=not chosen.no_checkpointing,
    )
    weights = None if chosen.rehearse else BaseLossSettings().level_weights
    losses = BaseLossSettings(level_weights=weights, contrastive=0.0)
    training = BaseTraining(schedule=schedule, losses=losses)
    encoder = FixedText(generator.text_dim)
    state, recipe = base_training(generator, discriminator, training, encoder, device)

    def at(step_number: int) -> None:
        state.step = step_number  # R1 is due at multiples of its interval
        step(state, recipe, chosen.batch, generator.image_size)

    at(0)
    at(1)
    with FlopCounterMode(display=False) as counter:
        at(1)
    plain = measure(lambda: at(1), device, chosen.repeats)
    penalised = measure(lambda: at(0), device, chosen.repeats)
    interval = training.r1.interval
    mean = (statistics.median(plain) * (interval - 1) + statistics.median(penalised)) / interval
    flops = counter.get_total_flops()
    return {
        "unit": "seconds",
        "batch": chosen.batch,
        "parameters": {name: sum(p.numel() for p in n.parameters()) for name, n in state.networks.items()},
        "ours": summary(plain),
        "ours_with_r1": summary(penalised),
        "images_per_second": float(f"{chosen.batch / mean:.4g}"),
        "teraflops_a_step": float(f"{flops / 1e12:.4g}"),
        "flops_utilisation": utilisation(flops, statistics.median(plain), device),
        "peak_memory_gib": peak_gib(device),
    }


@torch.no_grad()
def upsampling(chosen: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Latency of the upsampler at batch 1, from low-resolution image and text code to the finished image."""
    settings = demo_upsampler(text_dim=768) if chosen.rehearse else published.upsampler_64_to_512()
    torch.manual_seed(0)
    network = Upsampler(settings).to(device).eval()
    text = FixedText(settings.text_dim).text_tokens(torch.zeros(1, 2, dtype=torch.int64, device=device))
    low = torch.rand(1, 3, settings.low_size, settings.low_size, device=device) * 2 - 1
    z = torch.randn(1, settings.z_dim, device=device)

    def run() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            network(low, z, text)

    run()
    seconds = measure(run, device, 4 * chosen.repeats)
    return {
        "unit": "seconds",
        "image_size": settings.image_size,
        "parameters": sum(p.numel() for p in network.parameters()),
        "ours": summary(seconds),
        "paper": {"median": PAPER_LATENCY, "device": "A100", "what": "base and upsampler together"},
        "peak_memory_gib": peak_gib(device),
    }


def base_networks(small: bool) -> tuple[GeneratorSettings, DiscriminatorSettings]:
    """The paper's, without vision-aided heads (their frozen encoder is an outside file)."""
    if small:
        return demo_generator(text_dim=768), demo_discriminator(text_dim=768)
    discriminator = published.text_to_image_64_discriminator()
    return published.text_to_image_64_generator(), dataclasses.replace(discriminator, vision_layers=())


def measure(work: Callable[[], None], device: torch.device, repeats: int) -> list[float]:
    """Seconds of each call, the device waited for."""
    seconds = []
    for _ in range(repeats):
        synchronise(device)
        start = time.perf_counter()
        work()
        synchronise(device)
        seconds.append(time.perf_counter() - start)
    return seconds


def synchronise(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def utilisation(flops: float, seconds: float, device: torch.device) -> float | None:
    """Counted FLOPs over what the device could have done; None where its peak is not known here."""
    name = torch.cuda.get_device_name() if device.type == "cuda" else ""
    peak = next((value for kind, value in PEAK_FLOPS.items() if kind in name), None)
    return None if peak is None else float(f"{flops / seconds / peak:.3g}")


def peak_gib(device: torch.device) -> float | None:
    """Peak memory of the device; None on a CPU."""
    return round(torch.cuda.max_memory_allocated() / 2**30, 2) if device.type == "cuda" else None


if __name__ == "__main__":
    main()
