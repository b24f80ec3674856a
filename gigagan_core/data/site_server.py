"""The embedded web site itself: a process that serves the drawings on loopback, faults included.

Started by `gigagan_core.data.site.OpenMojiSite`. It ends when its standard input closes, so that a killed
parent leaves no server behind.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import functools
import json
import socket
import struct
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from aiohttp import web

from gigagan_core.data import openmoji
from gigagan_core.data.faults import FaultTable

STALL_SECONDS = 600.0
MAX_SIZE = 1024
_PAGE = b"<!doctype html><title>Not here</title><p>This picture has moved. <a href='/'>Home</a>"
_TYPES = {"png": "image/png", "jpg": "image/jpeg"}


class Site:
    """Answers requests for ``/SIZE/CODE.(png|jpg)``; what is wrong with an answer comes from `faults`."""

    def __init__(self, faults: FaultTable, log: Path):
        self._faults = faults
        self._log = open(log, "a", buffering=1, encoding="utf-8")  # noqa: SIM115 (open as long as the process)
        self._attempts: collections.Counter[str] = collections.Counter()
        self._renderers = ThreadPoolExecutor(2)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        url = f"http://{openmoji.HOST}{request.path_qs}"
        attempt = self._attempts[url]
        self._attempts[url] += 1
        fault = self._faults.fault(url, attempt)
        line = {"time": time.time(), "url": url, "attempt": attempt, "fault": fault}
        self._log.write(json.dumps(line) + "\n")
        if fault == "not_found":
            raise web.HTTPNotFound
        if fault == "unavailable":
            raise web.HTTPServiceUnavailable
        if fault == "reset":
            _reset(request)
            return web.Response()
        if fault == "stall":
            await asyncio.sleep(STALL_SECONDS)
        if fault == "html":
            return web.Response(body=_PAGE, content_type="text/html")
        try:
            _, size, name = request.path.split("/")
            code, _, kind = name.rpartition(".")
            render = functools.partial(openmoji.image_bytes, code, kind, min(int(size), MAX_SIZE))
            body = await asyncio.get_running_loop().run_in_executor(self._renderers, render)
        except (KeyError, ValueError):  # no such drawing; a path of another kind
            raise web.HTTPNotFound from None
        headers = {"X-Robots-Tag": "noai"} if fault == "opt_out" else {}
        if fault == "truncated":
            return await self._cut_short(request, body, kind)
        return web.Response(body=body, content_type=_TYPES[kind], headers=headers)

    async def _cut_short(self, request: web.Request, body: bytes, kind: str) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={"Content-Type": _TYPES[kind], "Content-Length": str(len(body))}
        )
        await response.prepare(request)
        await response.write(body[: len(body) // 2])
        request.transport.close()
        return response


def _reset(request: web.Request) -> None:
    """Close with a TCP reset instead of a proper end."""
    transport = request.transport
    raw = transport.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


async def serve(faults: FaultTable, log: Path, port: int) -> None:
    """Serve on 127.0.0.1 until standard input ends; the first line on standard output is the port, or why
    there is none."""
    app = web.Application()
    site = Site(faults, log)
    app.router.add_get("/{path:.*}", site.answer)
    # A stalled answer ends when its reader gives up.
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.2)
    await runner.setup()
    try:
        listener = socket.create_server(("127.0.0.1", port), backlog=512)
    except OSError as error:
        print(error.strerror, flush=True)
        return
    await web.SockSite(runner, listener).start()
    print(listener.getsockname()[1], flush=True)
    ended = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(ended), sys.stdin)
    await ended.read()
    await runner.cleanup()


def main() -> None:
    """Entry of the server process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--faults", required=True)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    arguments = parser.parse_args()
    openmoji.groups()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(FaultTable(**json.loads(arguments.faults)), arguments.log, arguments.port))


if __name__ == "__main__":
    main()
