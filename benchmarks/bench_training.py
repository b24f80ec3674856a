"""Whole training with data beside gigagan-pytorch 0.3.0: images a second from pictures on the disk to moved weights.

    python benchmarks/bench_training.py [--steps N] [--repeats N]

Unconditional networks of about 10M + 10M parameters at 64 px, on the CPU. About six minutes on two cores, nearly all
of them the peer's. Ours writes a checkpoint in every run; the peer writes none.
"""

from __future__ import annotations

import argparse
import sys
import tarfile
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.bench_models import PACKAGES, PEER
from benchmarks.bench_reader import make_shard_set
from benchmarks.side_by_side import compare, peer_environment, summary, write

CASES = Path(__file__).parent / "cases"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=4, help="in every run of each side; a penalty every 16")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        shards, pictures = Path(folder) / "shards", Path(folder) / "pictures"
        shards.mkdir()
        make_shard_set(shards)
        for shard in shards.glob("*.tar"):
            with tarfile.open(shard) as tar:
                tar.extractall(pictures, filter="data")
        options = {
            "steps": chosen.steps,
            "batch": chosen.batch,
            "shards": str(shards),
            "pictures": str(pictures),
            "device": "cpu",
        }
        what = (
            f"{chosen.steps} training steps with data, batch {chosen.batch}, 64 px, about 10M + 10M parameters, "
            "penalty every 16 steps"
        )
        found = compare(
            "training_with_data",
            "training",
            (sys.executable, CASES / "training_ours.py"),
            (peer_environment(PEER, PACKAGES), CASES / "training_gigagan_pytorch.py"),
            PEER,
            options,
            chosen.repeats,
            what,
        )
    images = chosen.steps * chosen.batch
    for side in ("ours", "peer"):
        found[side]["images_per_second"] = summary([images / seconds for seconds in found[side]["seconds"]])
    write(found)


if __name__ == "__main__":
    main()
