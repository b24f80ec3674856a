"""What curation costs without a model, beside plain PIL on the same bytes; and near-duplicates over a large set.

    python benchmarks/bench_curate.py [--hashes 1000000]

Scoring: 2,000 JPEGs of 256 px at 224 px, by a scorer that costs nothing, on one thread. A ratio is the peer's time over
ours: 0.91 is an overhead of 10%. Near-duplicates: random hashes, the worst case, since nearly all of them are kept.
"""

from __future__ import annotations

import argparse
import platform
import random
import resource
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.bench_reader import ROWS, SHARDS, make_shard_set
from benchmarks.side_by_side import compare, document_of, summary, write
from gigagan_core.data.near_duplicates import BITS, NearDuplicates

SIDES = Path(__file__).parent / "cases" / "curate_sides.py"
DISTANCES = (0, 2, 4, 6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hashes", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make_shard_set(Path(folder))
        sides = ((sys.executable, [SIDES, side]) for side in ("ours", "pillow"))
        what = (
            f"{SHARDS * ROWS} JPEGs of 256 px to the scores' parquet at 224 px; peer: decode and resize only"
        )
        options = {"folder": folder, "image_size": 224, "batch": 128}
        compare("curate_scoring", "score", *sides, "pillow", options, chosen.repeats, what)
    near_duplicates(chosen.hashes)


def near_duplicates(count: int) -> None:
    """Hashes a second by distance, and the memory of the largest index; no peer."""
    generator = random.Random(0)
    hashes = [f"{generator.getrandbits(BITS):016x}" for _ in range(count)]
    rates = {}
    for distance in DISTANCES:
        near = NearDuplicates(distance, count)
        started = time.perf_counter()
        kept = sum(near.keep(phash) for phash in hashes)
        rates[str(distance)] = summary([count / (time.perf_counter() - started)])["median"]
        print(f"distance {distance}: {rates[str(distance)]:,.0f} hashes a second, {kept:,} kept", flush=True)
    note = f"{count} random hashes of {BITS} bits, one thread"
    versions = {"python": platform.python_version()}
    document = document_of(
        "curate_near_duplicates", note, {"hashes": count}, versions, "hashes a second by distance", 1
    )
    peak = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10)
    write({**document, "ours": rates, "peak_memory_mib": peak})


if __name__ == "__main__":
    main()
