"""A mirror on loopback that serves a folder, with ranges and with the faults that a test plants."""

from __future__ import annotations

import hashlib
import http.server
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gigagan_core.assets import catalogue, fetch
from gigagan_core.assets.catalogue import Asset


class Mirror:
    """files: by name. cut_after: bytes after which an answer ends, one entry an answer. ranges: asked for, in order."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.cut_after: list[int] = []
        self.status: list[int] = []
        self.ranges: list[str | None] = []
        self.knows_ranges = True
        self.content_type = "application/octet-stream"
        mirror = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *arguments: object) -> None:
                pass

            def do_GET(self) -> None:
                mirror.answer(self)

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/assets"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        asked = request.headers.get("Range")
        self.ranges.append(asked)
        data = self.files.get(request.path.rpartition("/")[2])
        if self.status or data is None:
            request.send_response(self.status.pop(0) if self.status else 404)
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        tag, start = f'"{hashlib.sha256(data).hexdigest()[:8]}"', 0
        same = request.headers.get("If-Range") in (None, tag)
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
        request.send_header("ETag", tag)
        request.send_header("Content-Type", self.content_type)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        cut = self.cut_after.pop(0) if self.cut_after else None
        request.wfile.write(body[:cut])
        request.close_connection = True

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    monkeypatch.setattr(fetch, "WAIT", 0.0)
    monkeypatch.setattr(fetch, "PIECE", 1024)
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


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GIGAGAN_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("GIGAGAN_ASSETS", raising=False)
    return tmp_path / "home"
