"""Ours and a peer measured in turn: two processes that live side by side, each case once here, once there.

A case is named by a script, and both scripts answer the same lines: see `answer`. Memory is a process's own peak, so
every case gets fresh processes.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PEERS = ROOT / ".venv-peers"


class Case(Protocol):
    """What is measured. All its preparation is in its constructor."""

    parameters: int | None
    calls: int
    """How often `run` does the work; what is reported is one call's share."""

    def warm_up(self) -> None:
        """Whatever the first call pays for and later ones do not."""

    def run(self) -> None:
        """The work, finished when it returns (a GPU is waited for).

        A case may also have `facts()`, a dictionary for the document, asked for at the end.
        """


# ---- inside a measured process ---------------------------------------------------------------------


def answer(cases: dict[str, Callable[[dict[str, Any]], Case]], versions: dict[str, str]) -> None:
    """Serve one case over standard input and output, one JSON line a request.

    First line: {"case": name, "options": {...}}; then "run" as often as wanted; then "end".
    """
    import time

    request = json.loads(sys.stdin.readline())
    # What libraries print must not mix with the answers.
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    before = _resident_mib()
    case = cases[request["case"]](request["options"])
    case.warm_up()
    print(json.dumps({"ready": True, "parameters": case.parameters, "versions": versions}), file=out)
    for line in sys.stdin:
        if line.strip() == "end":
            break
        start = time.perf_counter()
        case.run()
        print(json.dumps({"seconds": (time.perf_counter() - start) / case.calls}), file=out)
    facts = case.facts() if hasattr(case, "facts") else {}
    print(json.dumps({"peak_mib": _peak_mib(request["options"], before), "facts": facts}), file=out)


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _peak_mib(options: dict[str, Any], before: float) -> float:
    """Peak of the device's memory, or of the process or its largest child beyond what the imports take."""
    if options.get("device", "cpu") != "cpu":
        import torch

        return torch.cuda.max_memory_allocated() / 2**20
    import resource

    largest = max(
        resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return largest / 2**10 - before


# ---- around them -----------------------------------------------------------------------------------


class Side:
    """One measured process."""

    def __init__(self, python: str | Path, script: Path | Sequence[Any], case: str, options: dict[str, Any]):
        command = [script] if isinstance(script, Path) else script
        self._process = subprocess.Popen(
            [str(python), *map(str, command)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        self._say(json.dumps({"case": case, "options": options}))
        self.facts = self._hear()

    def run(self) -> float:
        """Seconds of one run."""
        self._say("run")
        return self._hear()["seconds"]

    def end(self) -> float:
        """Stop; peak memory in MiB."""
        self._say("end")
        said = self._hear()
        self._process.wait()
        self.facts |= said["facts"]
        return said["peak_mib"]

    def _say(self, line: str) -> None:
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def _hear(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a measured process ended:\n{self._process.stderr.read()[-2000:]}")
        return json.loads(line)


def compare(
    name: str,
    case: str,
    ours: tuple[str | Path, Path | Sequence[Any]],
    peer: tuple[str | Path, Path | Sequence[Any]] | None,
    peer_name: str,
    options: dict[str, Any],
    repeats: int,
    note: str = "",
) -> dict[str, Any]:
    """Measure one case on both sides in turn, write `results/NAME.json`, print a line; returns the document."""
    sides = {"ours": Side(*ours, case, options)}
    if peer is not None:
        sides["peer"] = Side(*peer, case, options)
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(repeats):
        for side, process in sides.items():
            seconds[side].append(process.run())
    peaks = {side: process.end() for side, process in sides.items()}
    document = document_of(name, note, options, sides["ours"].facts["versions"], "seconds", repeats)
    for side, process in sides.items():
        document[side] = {
            **summary(seconds[side]),
            "seconds": [float(f"{each:.4g}") for each in seconds[side]],
            "peak_memory_mib": round(peaks[side], 1),
            **{key: value for key, value in process.facts.items() if key not in ("ready", "versions")},
        }
    line = f"{name:40} ours {_line(document['ours'])}"
    if peer is not None:
        document["peer"] = {
            "name": peer_name,
            "version": sides["peer"].facts["versions"][peer_name],
            **document["peer"],
        }
        document["ratio"] = summary([b / a for a, b in zip(seconds["ours"], seconds["peer"])])
        document["memory_ratio"] = round(peaks["ours"] / peaks["peer"], 3)
        line += f"   peer {_line(document['peer'])}   ratio {_line(document['ratio'], '')}"
        line += f"   memory {peaks['ours']:.0f} / {peaks['peer']:.0f} MiB"
    print(line, flush=True)
    write(document)
    return document


def document_of(
    name: str, note: str, options: dict[str, Any], versions: dict[str, str], unit: str, repeats: int
) -> dict[str, Any]:
    """What every result says of itself, besides its figures."""
    return {
        "benchmark": name,
        "what": note,
        "command": " ".join(["python", *[str(Path(sys.argv[0]).name), *sys.argv[1:]]]),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine(options),
        "versions": versions,
        "options": options,
        "unit": unit,
        "repeats": repeats,
    }


def write(document: dict[str, Any]) -> None:
    """Keep a result as `results/NAME.json`."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{document['benchmark']}.json").write_text(json.dumps(document, indent=1) + "\n")


def summary(values: list[float]) -> dict[str, float]:
    """Minimum, median, maximum, to four significant digits."""
    found = {"min": min(values), "median": statistics.median(values), "max": max(values)}
    return {key: float(f"{value:.4g}") for key, value in found.items()}


def _line(found: dict[str, Any], unit: str = " s") -> str:
    return f"{found['median']:.3g}{unit} ({found['min']:.3g} to {found['max']:.3g})"


def machine(options: dict[str, Any]) -> dict[str, Any]:
    """What it was measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    found = {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory, 1),
        "python": platform.python_version(),
        "load_average": round(os.getloadavg()[0], 2),
    }
    if options.get("device", "cpu") != "cpu":
        import torch

        found["gpu"] = torch.cuda.get_device_name()
    return found


def peer_environment(name: str, packages: list[str]) -> Path:
    """The python of a peer's own environment: `packages` (pinned, without their dependencies) over our packages.

    So both sides run the same torch. Made once, under `.venv-peers/`; asks the package index that time.
    """
    folder = PEERS / name
    python = folder / "bin" / "python"
    made_of = folder / "packages.txt"
    if made_of.is_file() and made_of.read_text().split() == packages:
        return python
    print(f"making {folder.relative_to(ROOT)} (once)", flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    import torch

    ours = Path(torch.__file__).parents[1]
    (folder / "lib" / version / "site-packages" / "ours.pth").write_text(f"{ours}\n")
    subprocess.run(
        [str(python), "-m", "pip", "install", "-qq", "--no-deps", "--ignore-installed", *packages],
        check=True,
    )
    made_of.write_text("\n".join(packages))
    return python
