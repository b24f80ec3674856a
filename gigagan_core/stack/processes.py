"""Processes of a stack: a service's family, what a dead supervisor left, and their end."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

import psutil

# Every process of a stack has it in its environment; a shell that uses the stack has not.
MARK = "GIGAGAN_STACK_FOLDER"


def family(leader: int) -> list[psutil.Process]:
    """A process that leads a session, what it has started, and what is left of its session should it have ended."""
    found = []
    with contextlib.suppress(psutil.NoSuchProcess):
        found = psutil.Process(leader).children(recursive=True)
    return list({process.pid: process for process in [*found, *_session(leader)]}.values())


def _session(leader: int) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(OSError):
            if os.getsid(process.pid) == leader:
                found.append(process)
    return found


def marked(folder: Path) -> list[psutil.Process]:
    """Every process of this folder's stack, whoever its parent is."""
    wanted = f"{MARK}={folder}".encode()
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(OSError):
            if wanted in Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0"):
                found.append(process)
    return [process for process in found if process.pid != os.getpid()]


def end(found: Iterable[psutil.Process], seconds: float) -> None:
    """Ask them to end, and after `seconds` make them; returns when they are gone."""
    found = list(found)
    for process in found:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    _, alive = psutil.wait_procs(found, timeout=seconds)
    kill(alive)


def kill(found: Iterable[psutil.Process]) -> None:
    """End them at once; returns when they are gone."""
    found = list(found)
    for process in found:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(found, timeout=5)


class Reaper:
    """Takes the exit codes of adopted children that have ended, so that no zombie stays.

    A child of our own is asked for by whoever started it, at once; what is still a zombie when looked at again is not.
    """

    def __init__(self) -> None:
        self._seen: set[int] = set()

    def reap(self) -> None:
        """To be called every few seconds."""
        zombies = set()
        for child in psutil.Process().children():
            with contextlib.suppress(psutil.Error):
                if child.status() == psutil.STATUS_ZOMBIE:
                    zombies.add(child.pid)
        for pid in zombies & self._seen:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        self._seen = zombies
