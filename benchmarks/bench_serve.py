"""`gigagan serve` under load: clients on loopback that ask again as soon as they are answered.

Two servers in turn, the same but for the batch: as many pictures in a forward pass as wait, and one at a time. Each is
asked one request after another first, for the time of a single request, and then by all clients at once.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.metadata
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.cases.serve_models import Models, write_models
from benchmarks.side_by_side import ROOT, document_of, write

MAIN = "from gigagan_core.cli import main; main()"
PROMPTS = ("a red apple", "an old tree", "a dog in the snow", "two boats", "a house at night")
WARM_UP_SECONDS = 3.0


@contextlib.contextmanager
def serving(models: Models, *options: str) -> Iterator[str]:
    """A server of its own process; yields its address, and ends it as Ctrl-C would."""
    command = [
        *(sys.executable, "-c", MAIN, "serve", "--json", "--no-page", "--port", "0"),
        *("--model", models.base, "--encoder", models.encoder, "--upsampler", models.upsampler),
        *options,
    ]
    with tempfile.TemporaryDirectory() as home:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "GIGAGAN_HOME": home},
        )
        try:
            yield _address(process)
        finally:
            process.send_signal(signal.SIGINT)
            if process.wait(60) != 0:
                raise SystemExit(f"the server ended with code {process.returncode}")


def _address(process: subprocess.Popen[str]) -> str:
    text = ""
    for line in process.stdout:
        text += line
        with contextlib.suppress(ValueError):
            return json.loads(text)["url"]
    raise SystemExit("the server did not start")


class Load:
    """What clients saw. latencies: seconds, of the requests that were answered with a picture."""

    def __init__(self) -> None:
        self.latencies: list[float] = []
        self.failures: list[str] = []

    async def ask(self, session: aiohttp.ClientSession, url: str, number: int, upsample: bool) -> None:
        """One request: other prompts, seeds and truncations every time."""
        asked = {
            "prompts": [PROMPTS[number % len(PROMPTS)]],
            "seed": number,
            "truncation": 0.5 + number % 6 / 10,
            "upsample": upsample,
        }
        started = time.perf_counter()
        try:
            async with session.post(f"{url}/v1/generate", json=asked) as response:
                body = await response.read()
                if response.status != 200 or b'"png":' not in body:
                    raise aiohttp.ClientError(f"{response.status} {body[:200]!r}")
        except (aiohttp.ClientError, OSError) as error:
            self.failures.append(str(error))
        else:
            self.latencies.append(time.perf_counter() - started)


async def one_after_another(url: str, count: int, upsample: bool) -> Load:
    """`count` requests of a single client."""
    load = Load()
    async with aiohttp.ClientSession() as session:
        for number in range(count):
            await load.ask(session, url, number, upsample)
    return load


async def all_at_once(url: str, clients: int, seconds: float, upsample: bool) -> tuple[Load, float]:
    """`clients` that ask again as soon as they are answered; and in how many seconds their requests were answered."""
    load, number = Load(), 1000

    async def client(session: aiohttp.ClientSession, until: float) -> None:
        nonlocal number
        while time.perf_counter() < until:
            number += 1
            await load.ask(session, url, number, upsample)

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=clients)) as session:
        started = time.perf_counter()
        await asyncio.gather(*(client(session, started + seconds) for _ in range(clients)))
        return load, time.perf_counter() - started


def measured(models: Models, batch: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """One server's figures; seconds to four digits."""
    options = ["--max-batch-size", str(batch), "--batch-wait", str(arguments.batch_wait)]
    options += ["--replicas", str(arguments.replicas)]
    with serving(models, *options) as url:
        before = os.getloadavg()[0]
        asyncio.run(all_at_once(url, arguments.clients, WARM_UP_SECONDS, arguments.upsample))
        single = asyncio.run(one_after_another(url, arguments.single, arguments.upsample))
        load, seconds = asyncio.run(
            all_at_once(url, arguments.clients, arguments.seconds, arguments.upsample)
        )
        batches = asyncio.run(_batches(url))
    ordered = sorted(load.latencies)
    alone = statistics.median(single.latencies)
    p95 = ordered[int(0.95 * len(ordered))]
    return {
        "max_batch_size": batch,
        "requests": len(ordered) + len(load.failures),
        "failures": len(load.failures) + len(single.failures),
        "first_failure": (load.failures + single.failures or [None])[0],
        "requests_a_second": _digits(len(ordered) / seconds),
        "p50": _digits(statistics.median(ordered)),
        "p95": _digits(p95),
        "max": _digits(ordered[-1]),
        "single": {
            "requests": len(single.latencies),
            "min": _digits(min(single.latencies)),
            "median": _digits(alone),
            "max": _digits(max(single.latencies)),
        },
        "p95_over_single": _digits(p95 / alone),
        "pictures_a_batch": _digits(batches),
        "load_average_before": round(before, 2),
    }


async def _batches(url: str) -> float:
    """Mean pictures of a forward pass, by the server's own metrics."""
    async with aiohttp.ClientSession() as session, session.get(f"{url}/metrics") as response:
        lines = (await response.text()).splitlines()
    figures = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return float(figures["gigagan_batch_pictures_sum"]) / float(figures["gigagan_batch_pictures_count"])


def forward_seconds(models: Models, sizes: Sequence[int]) -> dict[int, float]:
    """The least of five batches of each size without a server, in this process: what batching can give at best."""
    import torch

    from gigagan_core.inference.recipes import Point
    from gigagan_core.serving.jobs import PictureJob
    from gigagan_core.serving.models import ServedModels
    from gigagan_core.serving.painting import make_pictures

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    pipe = ServedModels(str(models.base), "random", str(models.encoder)).open()
    found = {}
    for size in sizes:
        jobs = [PictureJob(Point(prompt=PROMPTS[i % len(PROMPTS)], seed=i)) for i in range(size)]
        seconds = []
        for _ in range(5):
            started = time.perf_counter()
            make_pictures(pipe, jobs, size)
            seconds.append(time.perf_counter() - started)
        found[size] = _digits(min(seconds))
    return found


def _digits(value: float) -> float:
    return float(f"{value:.4g}")


def main() -> None:
    """Measure both, write the result, print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument(
        "--single", type=int, default=50, help="requests one after another, for a single one's time"
    )
    parser.add_argument("--max-batch-size", type=int, default=32)
    parser.add_argument("--batch-wait", type=float, default=0.005)
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--upsample", action="store_true", help="32 -> 128 px besides")
    parser.add_argument("--name", default="serve_load")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        models = write_models(Path(folder))
        forward = forward_seconds(models, (1, 4, 16, 32))
        batched = measured(models, arguments.max_batch_size, arguments)
        alone = measured(models, 1, arguments)
    options = {**vars(arguments), "device": "cpu"}
    versions = {
        name: importlib.metadata.version(name) for name in ("ray", "torch", "fastapi", "uvicorn", "aiohttp")
    }
    ratio = _digits(batched["requests_a_second"] / alone["requests_a_second"])
    document = {
        **document_of(arguments.name, __doc__.splitlines()[0], options, versions, "seconds", 1),
        "ours": batched,
        "one_at_a_time": alone,
        "throughput_ratio": ratio,
        "forward_seconds_by_pictures": forward,
    }
    write(document)
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
