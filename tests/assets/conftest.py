"""A mirror on loopback that serves a folder, with ranges and with the faults that a test plants."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from gigagan_core.assets import catalogue, download
from gigagan_core.assets.catalogue import Asset


class Mirror:
    """files: by name. cut_after: bytes after which an answer ends, one entry an answer. ranges: asked for, in order.

    framing: how an answer says where it ends: ``length``, ``chunks`` or ``close``, which does not. tags: whether it has
    an ETag. dated: whether it has a Last-Modified, a day later for each of `later`, whose entries take the place of
    `files` answer by answer. heeds: whether If-Range is read. encoding: of its answers, such as gzip.
    requests: the path and the credentials of each. moved: address that every answer leads on to.
    stalls: bytes after which an answer gives no more and does not end. drips: seconds before each byte of an answer.
    """

    def __init__(self) -> None:
        self.requests: list[tuple[str, str | None]] = []
        self.moved: str | None = None
        self.stalls: list[int] = []
        self.drips: list[float] = []
        self._stopped = threading.Event()
        self.files: dict[str, bytes] = {}
        self.cut_after: list[int] = []
        self.status: list[int] = []
        self.ranges: list[str | None] = []
        self.later: list[dict[str, bytes]] = []
        self.day = 1
        self.framing = "length"
        self.knows_ranges = self.tags = self.heeds = True
        self.dated = False
        self.content_type, self.encoding = "application/octet-stream", ""
        mirror = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *arguments: object) -> None:
                pass

            def do_GET(self) -> None:
                mirror.answer(self)

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/assets"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        asked = request.headers.get("Range")
        self.ranges.append(asked)
        self.requests.append((request.path, request.headers.get("Authorization")))
        name = request.path.partition("?")[0].rpartition("/")[2]
        if self.moved:
            request.send_response(302)
            request.send_header("Location", f"{self.moved}/{name}")
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        data = self.files.get(name)
        if self.status or data is None:
            request.send_response(self.status.pop(0) if self.status else 404)
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        tag, start = f'"{hashlib.sha256(data).hexdigest()[:8]}"', 0
        date = f"Mon, {self.day:02} Jan 2024 00:00:00 GMT"
        same = not self.heeds or request.headers.get("If-Range") in (None, tag, date)
        if asked and self.knows_ranges and same:
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
            if start >= len(data):
                request.send_response(416)
                request.send_header("Content-Range", f"bytes */{len(data)}")
                request.send_header("Content-Length", "0")
                request.end_headers()
                return
            request.send_response(206)
            request.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            request.send_response(200)
        body = data[start:]
        if self.tags:
            request.send_header("ETag", tag)
        if self.dated:
            request.send_header("Last-Modified", date)
        request.send_header("Content-Type", self.content_type)
        if self.encoding:
            request.send_header("Content-Encoding", self.encoding)
        if self.framing == "length":
            request.send_header("Content-Length", str(len(body)))
        elif self.framing == "chunks":
            request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()
        if self.stalls or self.drips:
            with contextlib.suppress(OSError):  # the one who asked has gone
                self._hesitate(request, body)
            return
        cut = self.cut_after.pop(0) if self.cut_after else None
        if self.framing == "chunks":
            for piece in (body[at : at + 1000] for at in range(0, len(body[:cut]), 1000)):
                request.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            request.wfile.write(b"0\r\n\r\n" if cut is None else b"")
        else:
            request.wfile.write(body[:cut])
        request.close_connection = True
        if self.later:
            self.files, self.day = self.files | self.later.pop(0), self.day + 1

    def _hesitate(self, request: http.server.BaseHTTPRequestHandler, body: bytes) -> None:
        request.close_connection = True
        if self.stalls:
            request.wfile.write(body[: self.stalls.pop(0)])
            self._stopped.wait(5)
            return
        pause = self.drips.pop(0)
        for at in range(len(body)):
            self._stopped.wait(pause)
            request.wfile.write(body[at : at + 1])

    def stop(self) -> None:
        self._stopped.set()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    monkeypatch.setattr(download, "WAIT", 0.0)
    monkeypatch.setattr(download, "PIECE", 1024)
    served = Mirror()
    yield served
    served.stop()


@pytest.fixture
def weights(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> Asset:
    """An asset of 10,000 bytes whose sum is known, in the catalogue and on the mirror."""
    data = bytes(range(250)) * 40
    mirror.files["weights.bin"] = data
    known = Asset(
        name="weights",
        what="a test's",
        address="http://127.0.0.1:9/nowhere",
        file="weights.bin",
        licence="none",
        needed_by=("a test",),
        sha256=hashlib.sha256(data).hexdigest(),
        size=len(data),
        reader="inception",
    )
    monkeypatch.setitem(catalogue.CATALOGUE, "weights", known)
    return known


@pytest.fixture
def unknown(weights: Asset) -> Asset:
    """The same, where nobody states a sum or a size."""
    return replace(weights, sha256=None, size=None)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GIGAGAN_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("GIGAGAN_ASSETS", raising=False)
    return tmp_path / "home"
