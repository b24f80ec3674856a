"""One file over HTTP: continued from the bytes that are here, never joined of two versions, given up in the end."""

from __future__ import annotations

import http.client
import json
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from gigagan_core import console
from gigagan_core.assets.address import Address
from gigagan_core.assets.catalogue import Asset
from gigagan_core.errors import GigaganError

PIECE = 1 << 20
TRIES = 5
"""Requests in a row that get no further than those before until a fetch is given up."""
TIMEOUT = 60.0
"""Seconds without a single byte after which an answer counts as cut."""
PERIOD, SLOWEST = 60.0, 1000.0
"""Seconds, and bytes in each of them, below which an answer counts as cut though a byte comes now and then."""
WAIT = 1.0
"""Seconds before another request; twice as long after each that brings nothing."""
_PASSING = (408, 425, 429, 500, 502, 503, 504)
# refused and cut connections, TLS, answers that are no HTTP, host names that cannot be written
_NETWORK = (OSError, http.client.HTTPException, UnicodeError)
_MB = 1e6
_ERRORS = {"html": "a web page", "json": "a JSON document", "xml": "an XML document"}
"""What servers send instead of a file, by the last word of its content type."""
_VERSION = {"etag": "ETag", "modified": "Last-Modified"}
"""Headers that tell one version of a file from another, by what they are noted as."""


class CutOff(GigaganError):
    """An address that gave nothing or was cut off: a fault of the network, which may have passed the next time."""


class _Interrupted(Exception):
    """A request that may go better the next time; its text says what happened."""


class _TooSlow(_Interrupted):
    """Bytes that come so slowly that they count as none."""


class Download:
    """One file over HTTP into `partial`, continued from the bytes that are there.

    has_sum: a sum will tell a file that was cut short, or joined of two versions; where there is none, the server must.
    """

    def __init__(self, asset: Asset, address: Address, partial: Path, has_sum: bool) -> None:
        self._asset, self._address, self._partial, self._has_sum = asset, address, partial, has_sum
        self._shown = address.shown
        self._notes = notes_beside(partial)
        self._total = asset.size

    def run(self) -> None:
        """Raises GigaganError where the address does not serve the file, CutOff where the connection stays cut."""
        self._forget_another_address()
        total = None if self._total is None else self._total / _MB
        with console.progress(self._asset.name, total=total, unit="MB") as bar:
            bar.start_from(self._here / _MB)
            best, failed = self._here, 0
            while True:
                try:
                    self._request(lambda: bar.set(self._here / _MB))
                    return
                except _Interrupted as error:
                    least = SLOWEST * PERIOD if isinstance(error, _TooSlow) else 0
                    failed = 0 if self._here - best > least else failed + 1
                    best = max(best, self._here)
                    if failed >= TRIES:
                        raise self._cut_off(error) from error
                    time.sleep(WAIT * 2**failed)

    @property
    def _here(self) -> int:
        return self._partial.stat().st_size if self._partial.is_file() else 0

    def _forget_another_address(self) -> None:
        """Bytes of another address belong to the same file only where a sum will tell."""
        if not self._has_sum and read_notes(self._notes).get("address") not in (None, self._shown):
            self._partial.unlink(missing_ok=True)
            self._notes.unlink(missing_ok=True)

    def _request(self, on_piece: Callable[[], None]) -> None:
        headers = {"User-Agent": "gigagan-pipeline", "Accept-Encoding": "identity"}
        version = _version(read_notes(self._notes))
        here = self._here if version or self._has_sum else 0
        if here:
            headers["Range"] = f"bytes={here}-"
            headers |= {"If-Range": version} if version else {}
        try:
            answer = urllib.request.urlopen(self._asked(headers), timeout=TIMEOUT)
        except urllib.error.HTTPError as error:
            if error.code == 416 and here:
                self._range_refused(error, here)
            elif error.code in _PASSING:
                raise _Interrupted(f"HTTP {error.code}") from error
            else:
                raise GigaganError(
                    f"asset {self._asset.name}: {self._shown} answers HTTP {error.code}; give --mirror URL with "
                    f"another place of {self._asset.file}"
                ) from error
        except _NETWORK as error:
            raise _Interrupted(_why(error)) from error
        else:
            with answer:
                self._receive(answer, here, on_piece)

    def _asked(self, headers: dict[str, str]) -> urllib.request.Request:
        request = urllib.request.Request(self._address.url, headers=headers)
        if self._address.authorization:  # not for another host that an answer may lead to
            request.add_unredirected_header("Authorization", self._address.authorization)
        return request

    def _receive(self, answer: Any, here: int, on_piece: Callable[[], None]) -> None:
        self._refuse_error_page(answer.headers.get_content_type())
        self._refuse_packed(answer.headers.get("Content-Encoding", "identity"))
        noted, note = (
            read_notes(self._notes),
            {key: answer.headers.get(name) for key, name in _VERSION.items()},
        )
        if answer.status == 206:
            start = answer.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
            if start != str(here):
                raise _Interrupted(f"bytes from {start or 'somewhere'} instead of {here}")
            if _is_another(note, noted):
                self._partial.unlink()
                raise _Interrupted("the server has another file than the one begun")
            note = {key: value or noted.get(key) for key, value in note.items()}
        else:
            here = 0
        self._total = self._asset.size if answer.length is None else here + answer.length
        if self._total is None and not (answer.chunked or self._has_sum):
            raise GigaganError(
                f"asset {self._asset.name}: {self._shown} says neither how long {self._asset.file} is nor where it "
                "ends, and no source states its sum, so a part of it would count as whole; give --mirror URL with "
                "another place"
            )
        self._require_room(here)
        if (
            not here
        ):  # before the notes are of this version: a kill must not leave them beside bytes of another
            self._partial.unlink(missing_ok=True)
        self._notes.write_text(json.dumps({"address": self._shown, **note}))
        with open(self._partial, "ab" if here else "wb") as file:
            _copy(answer, file, on_piece)
        if self._total is not None and self._here < self._total:
            raise _Interrupted("the connection was cut")

    def _refuse_error_page(self, content_type: str) -> None:
        kind = content_type.rpartition("/")[2].rpartition("+")[2]
        if kind in _ERRORS and not self._asset.file.endswith(f".{kind}"):
            raise GigaganError(
                f"asset {self._asset.name}: {self._shown} answers with {_ERRORS[kind]} instead of the file; give "
                f"--mirror URL with another place of {self._asset.file}"
            )

    def _refuse_packed(self, encoding: str) -> None:
        """Packed bytes are not the file's, and where no sum tells they would be pinned as if they were."""
        if not self._has_sum and encoding.strip().lower() not in ("", "identity"):
            raise GigaganError(
                f"asset {self._asset.name}: {self._shown} answers packed ({encoding}) though asked for the plain "
                f"file; give --mirror URL with another place of {self._asset.file}"
            )

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

    def _cut_off(self, error: _Interrupted) -> CutOff:
        if not self._here:
            return CutOff(
                f"asset {self._asset.name}: {self._shown} gave nothing ({error}); look at the network, or give "
                f"--mirror URL with another place of {self._asset.file}"
            )
        of = f" of {self._total / _MB:,.1f}" if self._total else ""
        return CutOff(
            f"asset {self._asset.name}: {self._shown} was cut off after {self._here / _MB:,.1f}{of} MB ({error}); "
            "give the same command again and it continues"
        )


def notes_beside(partial: Path) -> Path:
    """Where it stands from which address a file comes, and which version of it."""
    return partial.with_name(partial.name + ".json")


def read_notes(notes: Path) -> dict[str, Any]:
    """What is noted; nothing where there are no notes or a kill cut them short."""
    try:
        noted = json.loads(notes.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return noted if isinstance(noted, dict) else {}


def _copy(source: Any, target: BinaryIO, on_piece: Callable[[], None]) -> None:
    since, received = time.monotonic(), 0
    while piece := _read(source):
        target.write(piece)
        target.flush()
        on_piece()
        received += len(piece)
        seconds = time.monotonic() - since
        if seconds >= PERIOD:
            if received < SLOWEST * seconds:
                raise _TooSlow(f"only {received:,} bytes in {seconds:.0f} s")
            since, received = time.monotonic(), 0


def _read(source: Any) -> bytes:
    """What has come, at most a piece. Apart from writing, whose faults are the disk's and no reason to ask again."""
    try:
        return source.read1(PIECE)
    except _NETWORK as error:
        raise _Interrupted(_why(error)) from error


def _why(error: Exception) -> str:
    return str(getattr(error, "reason", None) or error or type(error).__name__)


def _version(headers: dict[str, Any]) -> str | None:
    """What If-Range may ask with: a strong ETag, else the date of the last change."""
    tag = headers.get("etag")
    return tag if tag and not tag.startswith("W/") else headers.get("modified")


def _is_another(headers: dict[str, Any], noted: dict[str, Any]) -> bool:
    """Whether two answers are of two versions of a file: by their ETags, and by the dates where one has none."""
    for key in _VERSION:
        if headers.get(key) and noted.get(key):
            return headers[key] != noted[key]
    return False
