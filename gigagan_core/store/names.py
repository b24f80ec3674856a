"""Which folders a stage has, from one listing: a store may hold tens of thousands of partitions."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable

_FOLDER = re.compile(r"[0-9a-f]{64}(\.\d+)?")
_STAGE = re.compile(r"[a-z][a-z0-9-]*")


def folder_name(fingerprint: str, attempt: int) -> str:
    """The folder of an attempt, below its stage's."""
    return fingerprint if attempt == 1 else f"{fingerprint}.{attempt}"


def parse_name(name: str) -> tuple[str, int]:
    """(fingerprint, attempt) of a folder's name."""
    fingerprint, _, attempt = name.partition(".")
    return fingerprint, int(attempt) if attempt.isdigit() else 1


def is_folder_name(name: str) -> bool:
    """Whether a folder below a stage's may be an artifact's; what others keep there has another name."""
    return _FOLDER.fullmatch(name) is not None


def is_stage_name(name: str) -> bool:
    """Whether a folder of a store may be a stage's; a disk's `lost+found` and our `_runs` are not."""
    return _STAGE.fullmatch(name) is not None


class StageNames:
    """The newest attempt of every fingerprint, by stage; listed when a stage is first asked about.

    What other processes commit later is not in it: they number on, so that `Store.find` asks for the next attempt.
    May be used from several threads.
    """

    def __init__(self, listing: Callable[[str], Iterable[str]]):
        """listing: gives the names of a stage's folders."""
        self._listing = listing
        self._newest: dict[str, dict[str, int]] = {}
        self._lock = threading.Lock()

    def newest(self, stage: str, fingerprint: str) -> int:
        """The highest attempt that is known; 0 where there is none."""
        with self._lock:
            if stage not in self._newest:
                self._newest[stage] = {}
                for name in self._listing(stage):
                    self._add(stage, *parse_name(name))
            return self._newest[stage].get(fingerprint, 0)

    def add(self, stage: str, fingerprint: str, attempt: int) -> None:
        """An attempt that is known to be there."""
        with self._lock:
            if stage in self._newest:
                self._add(stage, fingerprint, attempt)

    def forget(self, stage: str) -> None:
        """List a stage anew when it is asked about next: something went."""
        with self._lock:
            self._newest.pop(stage, None)

    def _add(self, stage: str, fingerprint: str, attempt: int) -> None:
        known = self._newest[stage]
        known[fingerprint] = max(attempt, known.get(fingerprint, 0))
