"""Downloading beside bare img2dataset, on a loopback site without faults and on one where 20% of URLs fail once.

    python benchmarks/bench_ingest.py [--images 4000]

Both read the same kind of tables (four partitions), resize to 128 px and write webdataset shards; every run has URLs
of its own. What counts with faults is images obtained a second: a URL given up is lost.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.side_by_side import compare, summary, write

CASES = Path(__file__).parent / "cases"
# name: (share of URLs with a fault, repeats)
MEASURED = {"ingest_no_faults": (0.0, 3), "ingest_faults": (0.2, 2)}


@contextlib.contextmanager
def site(faulty: float) -> Iterator[int]:
    """The site's port while the block runs."""
    command = [sys.executable, str(CASES / "image_site.py"), "--faulty", str(faulty)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--only", choices=tuple(MEASURED))
    chosen = parser.parse_args()
    for name, (faulty, repeats) in MEASURED.items():
        if chosen.only in (None, name):
            with site(faulty) as port:
                measure(name, faulty, repeats, {"images": chosen.images, "port": port})


def measure(name: str, faulty: float, repeats: int, options: dict[str, int]) -> None:
    """One comparison; adds images obtained a second to what `compare` writes."""
    sides = {side: (sys.executable, [CASES / "ingest_sides.py", side]) for side in ("ours", "img2dataset")}
    what = f"{options['images']} URLs, {faulty:.0%} of which fail at the first request, to shards of 128 px"
    found = compare(
        name, "ingest", sides["ours"], sides["img2dataset"], "img2dataset", options, repeats, what
    )
    rates = {}
    for side in ("ours", "peer"):
        rates[side] = [n / s for n, s in zip(found[side]["obtained"], found[side]["seconds"])]
        found[side]["images_per_second"] = summary(rates[side])
    found["images_ratio"] = summary([a / b for a, b in zip(rates["ours"], rates["peer"])])
    ours, peer = found["ours"]["images_per_second"], found["peer"]["images_per_second"]
    print(
        f"    images a second: ours {ours['median']:.0f}, img2dataset {peer['median']:.0f}, "
        f"ratio {found['images_ratio']['median']:.2f} "
        f"({found['images_ratio']['min']:.2f} to {found['images_ratio']['max']:.2f})"
    )
    write(found)


if __name__ == "__main__":
    main()
