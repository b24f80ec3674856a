"""Seconds for a picture at 64, 256, 512 and 4096 px, batch 1, random weights, float32 on a CPU.

    python benchmarks/bench_inference.py [--device cuda] [--only NAME] [--repeats N] [--threads N]

demo: the demonstration's widths, base at 64 px, upsampler to the size. paper: text-to-image 64 px and 64 -> 512.
Seconds include everything from the prompt's token features to the Pillow image.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.side_by_side import compare

SCRIPT = Path(__file__).parent / "cases" / "inference_sides.py"
# name: (case, networks, size, repeats)
MEASURED = {
    "demo_64": ("picture", "demo", 64, 10),
    "demo_256": ("picture", "demo", 256, 10),
    "demo_512": ("picture", "demo", 512, 5),
    "paper_64": ("picture", "paper", 64, 3),
    "paper_512": ("picture", "paper", 512, 2),
    "demo_4096": ("large", "demo", 4096, 1),
    "paper_4096": ("large", "paper", 4096, 1),
}
ON_GPU_ONLY = {"paper_4096"}  # an hour on two cores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--only", choices=tuple(MEASURED))
    parser.add_argument("--repeats", type=int, help="in place of each case's own number")
    parser.add_argument(
        "--threads", type=int, default=1, help="more only on a machine that is otherwise idle"
    )
    chosen = parser.parse_args()
    on_gpu = chosen.device == "cuda"
    for name, (case, networks, size, repeats) in MEASURED.items():
        if chosen.only not in (None, name) or (name in ON_GPU_ONLY and not on_gpu and chosen.only != name):
            continue
        options = {
            "networks": networks,
            "size": size,
            "device": chosen.device,
            "precision": "bfloat16" if on_gpu else "float32",
            "threads": chosen.threads,
        }
        compare(
            f"inference_{name}{'_cuda' if on_gpu else ''}",
            case,
            (sys.executable, SCRIPT),
            None,
            "",
            options,
            chosen.repeats or repeats,
            f"one picture of {size} px, {networks} networks, batch 1",
        )


if __name__ == "__main__":
    main()
