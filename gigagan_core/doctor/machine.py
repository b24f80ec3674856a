"""Python, packages, memory and limits of this machine."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import resource
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from gigagan_core.doctor.finding import Finding, fail, ok, warn
from gigagan_core.store.fingerprint import PACKAGE_FOLDER

DISTRIBUTION = "gigagan-pipeline"
SHADOWING = "dataclasses"
"""A backport for Python 3.6 that shadows the standard library's module, and keeps Prefect's server from starting."""
# Ours: Ray, Prefect's and MLflow's processes and torch take 1.5 GiB before any work; Ray's object store takes 256 MiB.
LEAST_MEMORY, ENOUGH_MEMORY = 2 * 2**30, 4 * 2**30
ENOUGH_SHARED_MEMORY = 300 * 2**20
# A partition fetches over 64 connections, four partitions at a time, beside Ray's own sockets.
LEAST_FILES, ENOUGH_FILES = 1024, 4096
_SHOWN = 3


def python() -> Iterator[Finding]:
    """The interpreter's version against the package's."""
    wanted = importlib.metadata.metadata(DISTRIBUTION)["Requires-Python"]
    version = platform.python_version()
    if version not in SpecifierSet(wanted):
        yield fail(
            "python",
            f"Python {version}, and {wanted} is needed",
            "make the environment anew: `make clean install`",
        )
    else:
        yield ok("python", f"Python {version}")


def packages(lock: Path = PACKAGE_FOLDER.parent / "requirements.lock") -> Iterator[Finding]:
    """Installed packages against the pins of the lock, or where there is none the ranges that the package asks for."""
    mend = "`make install`, or `pip install --require-hashes -r requirements.lock`"
    if _version(SHADOWING) is not None:
        yield fail(
            "packages",
            f"{SHADOWING} is installed, which shadows the standard library",
            f"pip uninstall {SHADOWING}",
        )
    asked = _asked_for()
    pins = _pins(lock)
    wrong = {
        name: (_version(name), str(requirement.specifier))
        for name, requirement in asked.items()
        if not _meets(_version(name), requirement.specifier)
    }
    differing = {
        name: (_version(name), f"=={pin}")
        for name, pin in pins.items()
        if _version(name) != pin and name not in wrong and (name in asked or _version(name) is not None)
    }
    if wrong:
        yield fail("packages", _listed(wrong), mend)
    if differing:
        yield warn("packages", f"not as the lock pins them: {_listed(differing)}", mend)
    if not pins:
        yield warn(
            "packages",
            f"there is no {lock.name} beside the package, so only ranges could be checked",
            "install from a checkout, or compare with its lock",
        )
    elif not wrong and not differing:
        yield ok("packages", f"{len(asked)} packages and what they need are as the lock pins them")


def memory() -> Iterator[Finding]:
    """Memory that is available, of the machine or of the container."""
    available = available_memory()
    what = f"{available / 2**30:.1f} GiB of memory available"
    mend = "stop other programs, or give the container more"
    if available < LEAST_MEMORY:
        yield fail("memory", f"{what}, and {LEAST_MEMORY / 2**30:.0f} GiB are needed to begin", mend)
    elif available < ENOUGH_MEMORY:
        yield warn("memory", f"{what}; the small presets need {ENOUGH_MEMORY / 2**30:.0f} GiB", mend)
    else:
        yield ok("memory", what)


def shared_memory(folder: str = "/dev/shm") -> Iterator[Finding]:
    """/dev/shm, where Ray keeps objects and NCCL its buffers."""
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        yield fail("shared memory", f"{folder}: {error.strerror}", f"mount a tmpfs on {folder}")
        return
    what = f"{free / 2**20:,.0f} MiB free in {folder}"
    if free < ENOUGH_SHARED_MEMORY:
        yield warn(
            "shared memory",
            f"{what}; Ray would keep its objects on the disk",
            "docker run --shm-size=2g, or an emptyDir of medium Memory in Kubernetes",
        )
    else:
        yield ok("shared memory", what)


def open_files() -> Iterator[Finding]:
    """How many files and sockets one process may have open."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    what = f"a process may have {limit:,} files open"
    if limit != resource.RLIM_INFINITY and limit < LEAST_FILES:
        yield fail("open files", what, f"ulimit -n {2 * ENOUGH_FILES}")
    elif limit != resource.RLIM_INFINITY and limit < ENOUGH_FILES:
        yield warn(
            "open files", f"{what}; many partitions at a time need more", f"ulimit -n {2 * ENOUGH_FILES}"
        )
    else:
        yield ok("open files", what)


def available_memory() -> int:
    """Bytes: the least that the kernel and the container's limit leave."""
    with open("/proc/meminfo", encoding="utf-8") as file:
        kilobytes = next(int(line.split()[1]) for line in file if line.startswith("MemAvailable"))
    available = kilobytes * 1024
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = ((group / name).read_text().strip() for name in ("memory.max", "memory.current"))
        return min(available, int(limit) - int(used))
    except (OSError, ValueError):  # no limit, or an older kernel's groups
        return available


def _asked_for() -> dict[str, Requirement]:
    """What the package asks for, without extras."""
    found = {}
    for text in importlib.metadata.requires(DISTRIBUTION) or ():
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            found[_normal(requirement.name)] = requirement
    return found


def _pins(lock: Path) -> dict[str, str]:
    try:
        text = lock.read_text(encoding="utf-8")
    except OSError:
        return {}
    found = {}
    for name, version, marker in re.findall(
        r"^([\w.-]+)==([^\s;\\]+)\s*(?:;\s*([^\\\n]+))?", text, re.MULTILINE
    ):
        if not marker.strip() or Requirement(f"x; {marker.strip()}").marker.evaluate():
            found[_normal(name)] = version
    return found


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _meets(version: str | None, wanted: SpecifierSet) -> bool:
    return version is not None and wanted.contains(version, prereleases=True)


def _listed(wrong: Mapping[str, tuple[str | None, str]]) -> str:
    said = [
        f"{name} {found or 'is missing'} (wanted {wanted or 'any'})"
        for name, (found, wanted) in wrong.items()
    ]
    more = f" and {len(said) - _SHOWN} more" if len(said) > _SHOWN else ""
    return ", ".join(said[:_SHOWN]) + more


def cores() -> Iterator[Finding]:
    """The processor, for the reader of a report."""
    yield ok("cores", f"{len(os.sched_getaffinity(0))} processor cores")
