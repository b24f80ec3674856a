"""Fetching an asset: continued where it was cut off, checked before it counts, in its place only when whole."""

from __future__ import annotations

import errno
import http.client
import json
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from gigagan_core import console
from gigagan_core.assets.catalogue import Asset
from gigagan_core.assets.folder import PARTIAL, AssetFolder
from gigagan_core.errors import GigaganError
from gigagan_core.store.fingerprint import sha256_file

PIECE = 1 << 20
TRIES = 5
"""Requests in a row that bring no byte before a fetch is given up."""
TIMEOUT = 60.0
WAIT = 1.0
"""Seconds before another request; twice as long after each that brings nothing."""
_PASSING = (408, 425, 429, 500, 502, 503, 504)
_MB = 1e6


@dataclass(frozen=True)
class Fetched:
    """path: what `asset:NAME` stands for. how: ``fetched``, ``already there``, or ``taken in`` (put there by hand).

    pinned: no source states the sum, so the file's own was recorded, and this is its first fetch.
    """

    asset: Asset
    path: Path
    sha256: str
    how: str
    pinned: bool


def fetch(asset: Asset, folder: AssetFolder | None = None, mirror: str | None = None) -> Fetched:
    """Bring an asset into the folder, or find that it is there.

    mirror: an address below which files lie under the catalogue's file names, instead of the published addresses.
    A fetch that was cut off continues with the bytes it lacks. A file that was put into the folder by hand is checked
    and taken in. Raises GigaganError, one sentence, for a wrong sum, an address that does not serve the file, a
    connection that stays cut, and a full disk; what was fetched so far stays.
    """
    folder = folder or AssetFolder()
    address = address_of(asset, mirror)
    with folder.locked(asset.name):
        state = folder.state(asset)
        if state.state == "fetched" and state.record is not None:
            return Fetched(asset, folder.place(asset), state.record["sha256"], "already there", False)
        file, how = folder.file(asset), "taken in"
        try:
            if not file.is_file():
                how, partial = "fetched", file.with_name(file.name + PARTIAL)
                _Download(asset, address, partial).run()
                partial.with_name(partial.name + ".json").unlink(missing_ok=True)
                _check(asset, folder, partial)
                partial.replace(file)
            sha256 = folder.check(asset, file)
            _unpack(asset, file, folder)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise _full(asset, folder.root) from error
            raise
        pinned = asset.sha256 is None and state.record is None
        record = {
            "sha256": sha256,
            "sum": asset.sum_state,
            "size": file.stat().st_size,
            "address": address if how == "fetched" else "put there by hand",
            "fetched": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        folder.keep(asset, record)
    if pinned:
        console.warn(
            f"{asset.name}: no public source states its sha256"
            f"{'' if asset.weaker is None else f' (its {asset.weaker[0]} was right)'}; {sha256} is now pinned in "
            f"{folder.root}, so that another file is refused from now on"
        )
    return Fetched(asset, folder.place(asset), sha256, how, pinned)


def verify(asset: Asset, folder: AssetFolder | None = None) -> str:
    """The sha256 of an asset that is here, read anew. Raises GigaganError where it is missing or another."""
    folder = folder or AssetFolder()
    state = folder.state(asset)
    if state.state in ("missing", "partial"):
        raise GigaganError(
            f"asset {asset.name} is not in {folder.root}; `gigagan assets fetch {asset.name}` gets it"
        )
    if state.state == "unrecorded":
        return fetch(asset, folder).sha256
    found = folder.check(asset, folder.file(asset))
    if not folder.place(asset).exists():
        raise GigaganError(
            f"asset {asset.name}: {folder.place(asset)} is gone from {folder.root}; `gigagan assets fetch "
            f"{asset.name}` unpacks it again"
        )
    return found


def address_of(asset: Asset, mirror: str | None) -> str:
    """Where an asset is fetched from. Raises GigaganError for a mirror that is no HTTP address."""
    if mirror is None:
        return asset.address
    if urllib.parse.urlsplit(mirror).scheme not in ("http", "https"):
        raise GigaganError(
            f"--mirror {mirror} is no http or https address; give one below which the files lie"
        )
    return f"{mirror.rstrip('/')}/{urllib.parse.quote(asset.file)}"


class _Interrupted(Exception):
    """A request that may go better the next time; its text says what happened."""


class _Download:
    """One file over HTTP into `partial`, continued from the bytes that are there."""

    def __init__(self, asset: Asset, address: str, partial: Path) -> None:
        self._asset, self._address, self._partial = asset, address, partial
        self._notes = partial.with_name(partial.name + ".json")
        self._total = asset.size

    def run(self) -> None:
        """Raises GigaganError where the address does not serve the file or the connection stays cut."""
        self._forget_another_address()
        total = None if self._total is None else self._total / _MB
        with console.progress(self._asset.name, total=total, unit="MB") as bar:
            bar.start_from(self._here / _MB)
            failed = 0
            while True:
                before = self._here
                try:
                    self._request(lambda: bar.set(self._here / _MB))
                    return
                except _Interrupted as error:
                    failed = 0 if self._here > before else failed + 1
                    if failed >= TRIES:
                        raise self._cut_off(error) from error
                    time.sleep(WAIT * 2**failed)

    @property
    def _here(self) -> int:
        return self._partial.stat().st_size if self._partial.is_file() else 0

    def _forget_another_address(self) -> None:
        """Bytes of another address belong to the same file only where a sum will tell."""
        if self._asset.sum_state == "unknown" and self._noted().get("address") not in (None, self._address):
            self._partial.unlink(missing_ok=True)
            self._notes.unlink(missing_ok=True)

    def _request(self, on_piece: Callable[[], None]) -> None:
        here = self._here
        headers = {"User-Agent": "gigagan-pipeline", "Accept-Encoding": "identity"}
        if here:
            headers["Range"] = f"bytes={here}-"
            tag = self._noted().get("etag")
            if tag and not tag.startswith("W/"):
                headers["If-Range"] = tag
        try:
            with urllib.request.urlopen(
                urllib.request.Request(self._address, headers=headers), timeout=TIMEOUT
            ) as answer:
                self._receive(answer, here, on_piece)
        except urllib.error.HTTPError as error:
            if error.code == 416 and here:
                self._range_refused(error, here)
            elif error.code in _PASSING:
                raise _Interrupted(f"HTTP {error.code}") from error
            else:
                raise GigaganError(
                    f"asset {self._asset.name}: {self._address} answers HTTP {error.code}; give --mirror URL with "
                    f"another place of {self._asset.file}"
                ) from error
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
            raise _Interrupted(
                str(getattr(error, "reason", None) or error or type(error).__name__)
            ) from error

    def _receive(self, answer: Any, here: int, on_piece: Callable[[], None]) -> None:
        if "text/html" in answer.headers.get("Content-Type", ""):
            raise GigaganError(
                f"asset {self._asset.name}: {self._address} answers with a web page instead of the file; give "
                f"--mirror URL with another place of {self._asset.file}"
            )
        if answer.status == 206:
            start = answer.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
            if start != str(here):
                raise _Interrupted(f"bytes from {start or 'somewhere'} instead of {here}")
        else:
            here = 0
        length = answer.headers.get("Content-Length")
        self._total = here + int(length) if length is not None else None
        self._require_room(here)
        note = {"address": self._address, "etag": answer.headers.get("ETag")}
        self._notes.write_text(json.dumps(note))
        with open(self._partial, "ab" if here else "wb") as file:
            _copy(answer, file, on_piece)
        if self._total is not None and self._here < self._total:
            raise _Interrupted("the connection was cut")

    def _range_refused(self, error: urllib.error.HTTPError, here: int) -> None:
        """Everything is here already, or what is here belongs to another file."""
        total = error.headers.get("Content-Range", "").rpartition("/")[2]
        if total != str(here):
            self._partial.unlink()
            raise _Interrupted("the server has another file than the one begun")

    def _require_room(self, here: int) -> None:
        needed = (self._total or 0) - here
        free = shutil.disk_usage(self._partial.parent).free
        if needed > free:
            raise GigaganError(
                f"asset {self._asset.name} needs {needed / _MB:,.0f} MB more and the disk of {self._partial.parent} "
                f"has {free / _MB:,.0f} MB; free some, or set GIGAGAN_ASSETS to a folder on another disk"
            )

    def _noted(self) -> dict[str, Any]:
        try:
            return json.loads(self._notes.read_text())
        except (FileNotFoundError, ValueError):
            return {}

    def _cut_off(self, error: _Interrupted) -> GigaganError:
        of = f" of {self._total / _MB:,.1f}" if self._total else ""
        return GigaganError(
            f"asset {self._asset.name}: {self._address} was cut off after {self._here / _MB:,.1f}{of} MB ({error}); "
            "give the same command again and it continues"
        )


def _copy(source: Any, target: BinaryIO, on_piece: Callable[[], None]) -> None:
    while piece := source.read(PIECE):
        target.write(piece)
        target.flush()
        on_piece()


def _check(asset: Asset, folder: AssetFolder, partial: Path) -> None:
    """A file with a wrong sum does not stay: the next fetch begins anew."""
    try:
        folder.check(asset, partial)
    except GigaganError as error:
        found = sha256_file(partial)
        partial.unlink()
        expected = folder.expected_sha256(asset)
        wanted = f"sha256 {expected}" if expected and expected != found else " ".join(asset.weaker or ())
        raise GigaganError(
            f"asset {asset.name}: what was fetched has sha256 {found} and not {wanted}; it was deleted, "
            "so give --mirror URL with another place, or tell us if the published file has changed"
        ) from error


def _unpack(asset: Asset, file: Path, folder: AssetFolder) -> None:
    """The wanted member of an archive into `ROOT/NAME/`, which is there only when whole."""
    if asset.member is None:
        return
    final, temporary = folder.root / asset.name, folder.root / f".{asset.name}.unpacking"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with zipfile.ZipFile(file) as archive:
            names = [
                name
                for name in archive.namelist()
                if name == asset.member or name.startswith(f"{asset.member}/")
            ]
            if not names:
                raise GigaganError(
                    f"asset {asset.name}: {file} holds no {asset.member}; delete it and fetch it again"
                )
            with console.progress(f"unpacking {asset.name}", total=len(names), unit="files") as bar:
                for name in names:
                    archive.extract(name, temporary)
                    bar.advance(1)
    except zipfile.BadZipFile as error:
        raise GigaganError(
            f"asset {asset.name}: {file} is no whole archive ({error}); delete it and fetch it again"
        ) from error
    shutil.rmtree(final, ignore_errors=True)
    temporary.replace(final)


def _full(asset: Asset, root: Path) -> GigaganError:
    free = shutil.disk_usage(root).free / _MB
    return GigaganError(
        f"asset {asset.name}: no space left on the disk of {root} ({free:,.0f} MB free); free some and give the same "
        "command again, what was fetched stays"
    )
