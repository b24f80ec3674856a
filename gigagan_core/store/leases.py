"""Folders of unfinished work: resumable, and leased to one run at a time.

A lease is a lock on a file, so the death of its holder frees it. The file says who holds it and which artifacts the
work uses, so that none of them is removed meanwhile.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from gigagan_core.errors import GigaganError

POLL_SECONDS = 1.0
_LOCK = ".lock"
_REMOVED = "removed."


@dataclass(frozen=True)
class Work:
    """Work that was begun. uses: references of its input artifacts. running: whether a living run holds its lease.

    folder: where it lies; there is none where the work was done, or not begun. touched, leased: when something was last
    written in it, and when its last lease was taken; seconds since the epoch.
    """

    fingerprint: str
    uses: tuple[dict[str, Any], ...]
    running: bool
    folder: Path | None
    touched: float
    leased: float


class WorkFolders:
    """The work folders of one store, on a local disk."""

    def __init__(self, base: Path):
        self.base = base

    @contextlib.contextmanager
    def lease(
        self, fingerprint: str, uses: Iterable[dict[str, Any]], on_wait: Callable[[str], None]
    ) -> Iterator[Path]:
        """The folder of one fingerprint, held until the block ends. Raises OSError where it cannot be written."""
        self.base.mkdir(parents=True, exist_ok=True)
        with self._locked(fingerprint, on_wait) as lock:
            holder = f"process {os.getpid()} on {os.uname().nodename}, since {_now()}"
            lock.truncate()
            lock.write(f"{holder}\n{json.dumps(list(uses))}\n")
            lock.flush()
            folder = self.base / fingerprint
            folder.mkdir(exist_ok=True)
            yield folder

    @contextlib.contextmanager
    def _locked(self, fingerprint: str, on_wait: Callable[[str], None]) -> Iterator[IO[str]]:
        """The lock file, at its beginning, once nobody else holds it."""
        waiting = False
        while True:
            with open(self._lock(fingerprint), "a+", encoding="utf-8") as lock:
                if _try_lock(lock):
                    if not self._is_in_place(lock, fingerprint):
                        continue
                    lock.seek(0)
                    yield lock
                    return
                lock.seek(0)
                holder = lock.readline().strip() or "another run"
            if not waiting:
                waiting = True
                on_wait(holder)
            time.sleep(POLL_SECONDS)

    def _is_in_place(self, lock: IO[str], fingerprint: str) -> bool:
        """Whether the locked file still has its name: `sweep` removes those of finished work."""
        try:
            return os.fstat(lock.fileno()).st_ino == self._lock(fingerprint).stat().st_ino
        except FileNotFoundError:
            return False

    def discard(self, fingerprint: str) -> None:
        """Remove a folder whose artifact is committed. The caller holds its lease."""
        shutil.rmtree(self.base / fingerprint, ignore_errors=True)

    def begun(self) -> list[Work]:
        """All work that runs, or was cut off."""
        found = [self._look(path.name.removesuffix(_LOCK)) for path in sorted(self.base.glob(f"*{_LOCK}"))]
        return [work for work in found if work.running or work.folder is not None]

    def _look(self, fingerprint: str) -> Work:
        folder: Path | None = self.base / fingerprint
        running, uses, leased = False, [], 0.0
        with contextlib.suppress(FileNotFoundError), self._opened(fingerprint) as lock:
            running = not _try_lock(lock)
            leased = os.fstat(lock.fileno()).st_mtime
            lines = lock.read().splitlines()
            # A line that is being written counts as one that names nothing: the work has not begun to read.
            with contextlib.suppress(ValueError, IndexError):
                uses = json.loads(lines[1])
        if folder is not None and not folder.is_dir():
            folder = None
        touched = _touched(folder) if folder else 0.0
        return Work(fingerprint, tuple(uses), running, folder, touched, leased)

    def stale(self, older_than: float) -> list[Path]:
        """What was cut off and not touched for so many seconds, or is left of an interrupted removal."""
        return [path for path in self._unleased() if self._is_stale(path, older_than)]

    def sweep(self, older_than: float) -> None:
        """Remove what is `stale`, and lock files of finished work."""
        for path in self._unleased():
            with self.not_leased(path.name) as free:
                if free and self._is_stale(path, older_than):
                    _remove(path)
        for path in sorted(self.base.glob(f"*{_LOCK}")):
            with self.not_leased(path.stem) as free:
                if free and not (self.base / path.stem).is_dir():
                    path.unlink()

    def _unleased(self) -> list[Path]:
        paths = sorted(self.base.iterdir()) if self.base.is_dir() else []
        held = {work.fingerprint for work in self.begun() if work.running}
        return [path for path in paths if path.suffix != _LOCK and path.name not in held]

    def _is_stale(self, path: Path, older_than: float) -> bool:
        return path.name.startswith(_REMOVED) or time.time() - _touched(path) > older_than

    @contextlib.contextmanager
    def not_leased(self, name: str) -> Iterator[bool]:
        """Whether nobody has the lease of a name; nobody gets it in the block."""
        try:
            lock = self._opened(name)
        except FileNotFoundError:
            yield True
            return
        with lock:
            yield _try_lock(lock) and self._is_in_place(lock, name)

    def _opened(self, name: str) -> IO[str]:
        """The lock file of a name, for writing where that is allowed: NFS gives no exclusive lock otherwise.

        Raises FileNotFoundError where there is none, and GigaganError where it cannot be read either.
        """
        path = self._lock(name)
        try:
            return open(path, "r+", encoding="utf-8")
        except FileNotFoundError:
            raise
        except OSError:  # somebody else's, or the store is mounted for reading
            pass
        try:
            return open(path, encoding="utf-8")
        except PermissionError as error:
            raise GigaganError(
                f"{path} does not tell whether somebody works there: {error.strerror}; ask its owner for read access"
            ) from None

    def _lock(self, fingerprint: str) -> Path:
        return self.base / f"{fingerprint}{_LOCK}"


def _try_lock(lock: IO[str]) -> bool:
    """Whether nobody else holds it. Who may only read takes a shared lock, which a lease excludes too."""
    kind = fcntl.LOCK_EX if lock.writable() else fcntl.LOCK_SH
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove(path: Path) -> None:
    """Renamed first, so that an interrupted removal leaves nothing that looks like work to continue."""
    if path.is_dir():
        renamed = path if path.name.startswith(_REMOVED) else path.with_name(f"{_REMOVED}{path.name}")
        os.rename(path, renamed)
        shutil.rmtree(renamed)
    else:
        path.unlink()


def _touched(path: Path) -> float:
    """When anything in a folder was last written."""
    newest = path.stat().st_mtime
    for root, folders, files in os.walk(path):
        for name in (*folders, *files):
            with contextlib.suppress(FileNotFoundError):
                newest = max(newest, os.lstat(os.path.join(root, name)).st_mtime)
    return newest


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
