"""Networks and whole steps beside gigagan-pytorch 0.3.0, at equal resolution, batch and parameter count.

    python benchmarks/bench_models.py [--device cuda --precision bf16] [--only CASE] [--repeats N]

Both sides run the same torch, in turn. About ten minutes on two cores, nearly all of them the peer's.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.side_by_side import compare, peer_environment

CASES = Path(__file__).parent / "cases"
PEER = "gigagan-pytorch"
PACKAGES = [
    "gigagan-pytorch==0.3.0",
    "accelerate==1.15.0",
    "beartype==0.23.1",
    "einops==0.8.2",
    "ema-pytorch==0.8.3",
    "kornia==0.9.0",
    "kornia-rs==0.2.0",
    "numerize==0.12",
    "open-clip-torch==2.32.0",
]
# case: (repeats, calls a repeat, what)
MEASURED = {
    "convolution": (15, 10, "adaptive convolution 256 -> 256, 16 x 16, N 8, forward and backward"),
    "generator": (5, 1, "generator forward and backward, about 10M parameters, 64 px, unconditional"),
    "discriminator": (5, 1, "discriminator forward and backward, about 10M parameters, 64 px, unconditional"),
    "step": (
        3,
        1,
        "D and G step with optimisers, about 10M + 10M parameters, 64 px, without gradient penalty",
    ),
    "penalty_step": (
        2,
        1,
        "the same with each side's gradient penalty (ours R1 on real images, every 16 steps)",
    ),
    "text_step": (
        3,
        1,
        "our step conditioned on text, with matching loss in D and G; the peer has no equal of it",
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--compile", action="store_true", help="torch.compile our networks in the steps")
    parser.add_argument("--only", choices=tuple(MEASURED), help="one case")
    parser.add_argument("--repeats", type=int, help="runs of each side, in place of each case's own number")
    chosen = parser.parse_args()
    options = {
        "device": chosen.device,
        "precision": chosen.precision,
        "batch": chosen.batch,
        "compile": chosen.compile,
    }
    where = "" if chosen.device == "cpu" else f"_{chosen.device}_{chosen.precision}"
    peer_python = peer_environment(PEER, PACKAGES)
    for case, (repeats, calls, what) in MEASURED.items():
        if chosen.only in (None, case):
            peer = None if case == "text_step" else (peer_python, CASES / "models_gigagan_pytorch.py")
            ours = (sys.executable, CASES / "models_ours.py")
            compare(
                f"models_{case}{where}",
                case,
                ours,
                peer,
                PEER,
                {**options, "calls": calls},
                chosen.repeats or repeats,
                what,
            )


if __name__ == "__main__":
    main()
