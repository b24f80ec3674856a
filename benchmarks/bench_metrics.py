"""The whole set of metrics beside clean-fid and a separate CLIP-score pass; the Frechet distance beside clean-fid's.

    python benchmarks/bench_metrics.py [--images 5000] [--size 256] [--repeats 1]

Networks of the real architectures with fixed random weights: the time is that of the real ones, the values mean
nothing. Both sides get the same files, batch size and threads. `metrics_whole_IMAGES`: ours takes FD, KID,
precision, recall, density, coverage, CMMD, CLIP score and Inception Score; the peer's functions FID, then KID, then
the CLIP score. `metrics_fd_clip_IMAGES`: FD and CLIP score alone on both sides.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import nn

from benchmarks.side_by_side import compare

SIDES = Path(__file__).parent / "cases" / "metrics_sides.py"
WHOLE = ["fd", "kid", "precision-recall", "density-coverage", "cmmd", "clip-score", "is"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=5000, help="in each of the two folders")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--dimensions", type=int, default=2048, help="of the Frechet distance measured alone")
    parser.add_argument("--only", choices=["whole", "fd_clip", "distance"])
    chosen = parser.parse_args()
    sides = [(sys.executable, [SIDES, side]) for side in ("ours", "cleanfid")]
    if chosen.only in (None, "distance"):
        options = {
            "images": 2 * chosen.dimensions,
            "dimensions": chosen.dimensions,
            "threads": chosen.threads,
        }
        what = "features at hand to the distance, moments included"
        compare("metrics_distance", "distance", *sides, "clean-fid", options, chosen.repeats, what)
    with tempfile.TemporaryDirectory() as folder:
        if chosen.only != "distance":
            prepare(Path(folder), chosen.images, chosen.size)
        options = {"folder": folder, "threads": chosen.threads, "images": chosen.images, "size": chosen.size}
        for case, metrics in (("whole", WHOLE), ("fd_clip", ["fd", "clip-score"])):
            if chosen.only in (None, case):
                what = f"{chosen.images} images of {chosen.size} px a folder; Inception v3, ViT-B-32, random weights"
                given = {**options, "metrics": metrics}
                compare(
                    f"metrics_{case}_{chosen.images}",
                    "judge",
                    *sides,
                    "clean-fid",
                    given,
                    chosen.repeats,
                    what,
                )


def prepare(folder: Path, images: int, size: int) -> None:
    """Folders of noise in blocks, captions, and the two networks; and a few images to warm up on."""
    torch.manual_seed(0)
    generator = np.random.default_rng(0)
    for place, count in ((folder, images), (folder / "warm", 12)):
        for name in ("real", "fake"):
            (place / name).mkdir(parents=True)
            for row in range(count):
                blocks = generator.integers(0, 256, (size // 8, size // 8, 3), dtype=np.uint8)
                Image.fromarray(blocks.repeat(8, 0).repeat(8, 1)).save(place / name / f"{row:05}.png")
        rows = [f"{row:05}.png\ta picture of number {row}" for row in range(count)]
        (place / "captions.tsv").write_text("\n".join(["file\tcaption", *rows]) + "\n")
    save_inception(folder / "inception-2015-12-05.pt")
    save_clip(folder / "clip.pt")


class Inception(nn.Module):
    """torchvision's Inception v3 in the form of the published TorchScript file."""

    def __init__(self) -> None:
        super().__init__()
        network = torchvision.models.inception_v3(weights=None, init_weights=False, aux_logits=False)
        names = ("AuxLogits", "dropout", "fc")
        self.layers = nn.Sequential(*(each for name, each in network.named_children() if name not in names))
        self.output = nn.Linear(2048, 1008)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.output(self.layers(x).flatten(1)).softmax(1)


def save_inception(path: Path) -> None:
    """Random weights, scripted."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(Inception().eval()).save(str(path))


def save_clip(path: Path) -> None:
    """Random weights of ViT-B-32."""
    from gigagan_core.encoders.clip_model import ClipArchitecture, ClipModel
    from gigagan_core.encoders.weights import architecture_config

    architecture = ClipArchitecture.from_config(architecture_config("ViT-B-32"))
    torch.save(ClipModel(architecture).state_dict(), path)


if __name__ == "__main__":
    main()
