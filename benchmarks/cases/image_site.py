"""A web site for `bench_ingest.py`: JPEGs out of memory, and, where asked for, a share of URLs with faults.

    python benchmarks/cases/image_site.py --images 4000 --faulty 0.2

Prints its port, then serves until its standard input closes. A faulty URL stalls for half a minute at the first
request (one in two) or answers 503 or resets the connection then, and is well at the second.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import io
import sys

import numpy as np
from aiohttp import web
from PIL import Image

SIDE = 256
DIFFERENT = 64  # pictures; which one a URL shows is a function of its number
STALL_SECONDS = 30.0
FAULTS = ("stall", "unavailable", "stall", "reset")


def pictures() -> list[bytes]:
    """Smooth noise, as compressible as a photograph: about 15 KB each."""
    made = []
    for seed in range(DIFFERENT):
        coarse = np.random.default_rng(seed).integers(0, 256, (24, 24, 3), dtype=np.uint8)
        out = io.BytesIO()
        Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(out, "JPEG", quality=92)
        made.append(out.getvalue())
    return made


def position(number: str) -> float:
    """In [0, 1), by the URL alone."""
    return int.from_bytes(hashlib.sha256(number.encode()).digest()[:8], "big") / 2**64


async def serve(faulty: float) -> None:
    bodies, asked = pictures(), set()

    async def answer(request: web.Request) -> web.StreamResponse:
        number = request.match_info["number"]
        first, place = request.path_qs not in asked, position(number)
        asked.add(request.path_qs)
        if first and place < faulty:
            fault = FAULTS[int(place / faulty * len(FAULTS))]
            if fault == "stall":
                await asyncio.sleep(STALL_SECONDS)
            elif fault == "reset":
                request.transport.abort()
            return web.Response(status=503)
        return web.Response(body=bodies[int(number) % DIFFERENT], content_type="image/jpeg")

    app = web.Application()
    app.router.add_get("/{run}/{number}.jpg", answer)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--faulty", type=float, default=0.0, help="share of URLs that fail once")
    asyncio.run(serve(parser.parse_args().faulty))
