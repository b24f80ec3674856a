"""What orchestration costs: partitions of `ingest` that fetch nothing, a cached pipeline, a stage with one picture.

    python benchmarks/bench_orchestration.py [--partitions 10000] [--only partitions|pipeline|stage] [--repeats 3]

There is no peer. The pipeline is the command as a person gives it, its start included; warm: `gigagan ui` serves, cold:
the command starts a Prefect server of its own. Its artifacts hold nothing: what is measured is deciding and recording.
The stage is a flow run in a process of its own, as a worker starts it, beside the servers and the Ray cluster of
`gigagan stack`: its imports, Prefect, Ray, MLflow and S3, and the fetching of one picture.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.bench_ingest import site
from benchmarks.side_by_side import ROOT, compare, summary, write

SIDE = (sys.executable, Path(__file__).parent / "cases" / "orchestration_sides.py")
MAIN = [sys.executable, "-c", "from gigagan_core.cli import main; main()"]
START_SECONDS = 120


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--partitions", type=int, default=10_000)
    parser.add_argument("--only", choices=("partitions", "pipeline", "stage"))
    parser.add_argument("--repeats", type=int, default=3)
    chosen = parser.parse_args()
    if chosen.only in (None, "partitions"):
        for name, again in (("orchestration_partitions", False), ("orchestration_partitions_again", True)):
            measure_partitions(name, {"partitions": chosen.partitions, "again": again}, chosen.repeats)
    if chosen.only in (None, "stage"):
        with stack() as environment, site(faulty=0.0) as port:
            measure_stage({"environment": environment, "port": port}, chosen.repeats)
    if chosen.only in (None, "pipeline"):
        with prepared() as home:
            options = {"home": home, "preset": "tiny"}
            measure_pipeline("orchestration_cached_cold", options, chosen.repeats)
            with served(home):
                measure_pipeline("orchestration_cached_warm", options, chosen.repeats)


def measure_partitions(name: str, options: dict[str, Any], repeats: int) -> None:
    """Adds partitions a second to what `compare` writes."""
    state = "are there already" if options["again"] else "are made, of no-op work"
    found = compare(
        name,
        "partitions",
        SIDE,
        None,
        "",
        options,
        repeats,
        f"{options['partitions']} partitions that {state}",
    )
    found["ours"]["partitions_per_second"] = summary([1 / each for each in found["ours"]["seconds"]])
    print(f"    partitions a second: {found['ours']['partitions_per_second']}")
    write(found)


def measure_pipeline(name: str, options: dict[str, Any], repeats: int) -> None:
    """The whole command, in seconds."""
    state = "a server that runs" if name.endswith("warm") else "a server of its own"
    public = {"preset": options["preset"]}
    found = compare(
        name, "pipeline", SIDE, None, "", options, repeats, f"all stages cached, {state}, start included"
    )
    write({**found, "options": public})
    print(f"    of torch and ray imported: {found['ours']['imported']}")


def measure_stage(options: dict[str, Any], repeats: int) -> None:
    """The whole process, in seconds."""
    note = "the flow ingest of one URL, which is not cached, in a process of its own beside a running stack"
    found = compare("orchestration_uncached_stage", "stage", SIDE, None, "", options, repeats, note)
    write({**found, "options": {}})


@contextlib.contextmanager
def stack() -> Iterator[dict[str, str]]:
    """The environment of a shell that uses a stack, while it is up."""
    from gigagan_core.stack.folder import StackFolder
    from gigagan_core.stack.services import exports

    with tempfile.TemporaryDirectory(prefix="gigagan-bench-", ignore_cleanup_errors=True) as home:
        Path(home).chmod(0o711)  # PostgreSQL's own user must get through
        command = [*MAIN, "stack"]
        subprocess.run([*command, "up"], env=_environment(home), check=True, stdout=subprocess.DEVNULL)
        try:
            folder = StackFolder(Path(home) / "stack")
            yield {**exports(folder, folder.read().ports, ROOT), "GIGAGAN_HOME": home}
        finally:
            subprocess.run([*command, "down"], env=_environment(home), check=True)


@contextlib.contextmanager
def prepared() -> Iterator[str]:
    """A home whose store has all artifacts of the pipeline."""
    with tempfile.TemporaryDirectory(prefix="gigagan-bench-") as home:
        script = str(Path(__file__).parent / "cases" / "stubbed_pipeline.py")
        command = [sys.executable, script, "--preset", "tiny"]
        subprocess.run(command, env=_environment(home), check=True, stderr=subprocess.DEVNULL)
        yield home


@contextlib.contextmanager
def served(home: str) -> Iterator[None]:
    """The servers of a home, while the block runs."""
    process = subprocess.Popen([*MAIN, "ui"], env=_environment(home), stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not (Path(home) / "servers.json").exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"`gigagan ui` did not start; see {home}/logs")
            time.sleep(0.3)
        yield
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def _environment(home: str) -> dict[str, str]:
    return {**os.environ, "GIGAGAN_HOME": home, "PYTHONPATH": str(ROOT)}


if __name__ == "__main__":
    main()
