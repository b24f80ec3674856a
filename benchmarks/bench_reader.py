"""The reader beside plain PIL on the same bytes and beside plain webdataset, on as many threads or processes.

    python benchmarks/bench_reader.py [--images 2048]

2,000 JPEGs of 256 px, read as they are and at 64 px, without a cache. PIL only decodes and resizes bytes in memory;
the reader and webdataset also find the sample, mirror half of them, and make batches of bytes. A ratio is the peer's
time over ours: 1 is equally fast, more is better.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from PIL import Image

from benchmarks.side_by_side import compare, summary, write
from gigagan_core.data.download import partition_schema
from gigagan_core.data.img2dataset_parts import load
from gigagan_core.data.shards import Shard, write_index, write_shard

SIDES = Path(__file__).parent / "cases" / "reader_sides.py"
SHARDS, ROWS, KEPT_SIZE = 4, 500, 256
# peer: what it does
PEERS = {"pillow": "plain decode and resize", "webdataset": "plain pipeline with the same transforms"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=2048, help="read by each side in every run")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=7)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make_shard_set(Path(folder))
        for image_size in (KEPT_SIZE, 64):
            for peer in PEERS:
                options = {
                    "folder": folder,
                    "image_size": image_size,
                    "images": chosen.images,
                    "batch": chosen.batch,
                    "threads": chosen.threads,
                }
                measure(peer, options, chosen.repeats)


def measure(peer: str, options: dict[str, int], repeats: int) -> None:
    """One comparison; adds images a second to what `compare` writes."""
    name = f"reader_{options['image_size']}_{peer}"
    what = (
        f"{options['images']} JPEGs of {KEPT_SIZE} px read at {options['image_size']} px; peer: {PEERS[peer]}"
    )
    sides = ((sys.executable, [SIDES, side]) for side in ("ours", peer))
    found = compare(name, "read", *sides, peer, options, repeats, what)
    for side in ("ours", "peer"):
        rates = [options["images"] / seconds for seconds in found[side]["seconds"]]
        found[side]["images_per_second"] = summary(rates)
    write(found)


def make_shard_set(folder: Path) -> None:
    """Smooth random pictures with a little grain, through the writers that ingest uses."""
    shards = []
    for number in range(SHARDS):
        scratch = folder / f"scratch{number}"
        scratch.mkdir()
        shards.append(write_one(folder, scratch, number))
    write_index(folder, shards)


def write_one(folder: Path, scratch: Path, number: int) -> Shard:
    """One shard."""
    import pyarrow.parquet as pq

    writer = load().writer.WebDatasetSampleWriter(
        shard_id=0,
        output_folder=str(scratch),
        save_caption=True,
        oom_shard_count=5,
        schema=partition_schema(),
        encode_format="jpg",
    )
    writer.tarwriter.mtime = 0
    for row in range(ROWS):
        key = f"{number:03d}{row:09d}"
        known = {"key": key, "caption": f"smooth picture {row} of shard {number}", "status": "success"}
        sample = {**dict.fromkeys(partition_schema().names), **known, "selected": True}
        writer.write(picture(number * ROWS + row), key, known["caption"], sample)
    writer.close()
    return write_shard(folder, number, scratch / "00000.tar", pq.read_table(scratch / "00000.parquet"))


def picture(seed: int) -> bytes:
    """A JPEG of quality 95, as ingest writes them."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (12, 12, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((KEPT_SIZE, KEPT_SIZE), Image.Resampling.BICUBIC), np.int16)
    grained = (smooth + random.integers(-6, 7, smooth.shape)).clip(0, 255).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(grained).save(out, "JPEG", quality=95)
    return out.getvalue()


if __name__ == "__main__":
    main()
