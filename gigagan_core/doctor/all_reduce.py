"""``python -m gigagan_core.doctor.all_reduce BACKEND RANKS``: whether this machine's processes can sum a tensor."""

from __future__ import annotations

import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

ELEMENTS = 2**20
SECONDS = 60


def _rank(rank: int, ranks: int, backend: str, meeting: str) -> None:
    device = torch.device("cuda", rank) if backend == "nccl" else torch.device("cpu")
    dist.init_process_group(
        backend, f"file://{meeting}", rank=rank, world_size=ranks, timeout=timedelta(seconds=SECONDS)
    )
    try:
        values = torch.full((ELEMENTS,), float(rank + 1), device=device)
        started = time.monotonic()
        dist.all_reduce(values)
        expected = ranks * (ranks + 1) / 2
        if not bool((values == expected).all()):
            raise SystemExit(
                f"the sum over {ranks} processes is {values[0].item()}, and {expected} was expected"
            )
        if rank == 0:
            print(f"4 MiB in {(time.monotonic() - started) * 1e3:.0f} ms", flush=True)
    finally:
        dist.destroy_process_group()


def main(backend: str, ranks: int) -> None:
    """Sum 4 MiB of numbers over so many processes; raises where the sum is wrong or nobody answers."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_rank, (ranks, backend, str(Path(folder) / "meeting")), nprocs=ranks)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
