"""The files of any folder: which there are, and one sum over all of them. Needs no torch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gigagan_core import console
from gigagan_core.errors import GigaganError
from gigagan_core.store.fingerprint import digest, sha256_file


def unreadable(path: str | Path, error: OSError | MemoryError) -> GigaganError:
    """What to raise for a file or folder that the machine does not give."""
    reason = getattr(error, "strerror", None) or type(error).__name__
    return GigaganError(
        f"{path} cannot be read ({reason}); mend that, or move it away, and give the same command again"
    )


def files_of(folder: Path, dangling: bool = False) -> Iterator[Path]:
    """Every file that is not hidden, each folder once, however often links lead to it; or links that lead nowhere."""

    def refuse(error: OSError) -> None:  # os.walk would leave such a folder out without a word
        raise unreadable(error.filename, error) from error

    seen: set[str] = set()
    for parent, folders, files in os.walk(folder, followlinks=True, onerror=refuse):
        real = os.path.realpath(parent)
        # a link back to where one comes from would go on for ever
        folders[:] = [] if real in seen else [name for name in folders if not name.startswith(".")]
        if real not in seen:
            seen.add(real)
            for name in files:
                path = Path(parent, name)
                try:
                    wanted = not path.exists() if dangling else path.is_file()
                except OSError as error:  # a folder that lists its names and no more
                    raise unreadable(path, error) from error
                if wanted and not name.startswith("."):
                    yield path


def digest_of_folder(folder: Path, threads: int = 4) -> str:
    """sha256 over the names and contents of all of a folder's files, every one read.

    Sizes would not do: pictures of a format without compression have one size whatever is in them.
    Raises GigaganError where a folder or file cannot be read.
    """
    names = sorted(path.relative_to(folder).as_posix() for path in files_of(folder))
    sums = []
    with (
        console.progress(f"reading {folder}", total=len(names), unit="files") as bar,
        ThreadPoolExecutor(threads) as pool,
    ):
        for found in pool.map(lambda name: _sum_of(folder / name), names):
            sums.append(found)
            bar.advance()
    return digest(list(zip(names, sums, strict=True)))


def _sum_of(path: Path) -> str:
    try:
        return sha256_file(path)
    except OSError as error:
        raise unreadable(path, error) from error
