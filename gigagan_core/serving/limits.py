"""Bodies that are too large or too slow are refused while they arrive, whoever would have read them."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gigagan_core.config.serve import ServeLimits

_DRAIN_SECONDS = 1.0
_TOO_LARGE, _TOO_SLOW = 413, 408


class _Refused(Exception):
    """Ends whatever reads the body."""


class BodyLimit:
    """ASGI middleware: counts a body's bytes and seconds, and answers 413 or 408 in the place of the application."""

    def __init__(self, app: ASGIApp, limits: ServeLimits) -> None:
        self._app, self._limits = app, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _Body(receive, send, self._limits)
        if _promised(scope) > self._limits.body_bytes:
            body.refuse_size()
        else:
            try:
                await self._app(scope, body.receive, body.send)
            except Exception:
                if body.refusal is None:
                    raise
        if body.refusal is not None and not body.answered:
            if body.refusal.status_code == _TOO_LARGE:
                await body.drain()
            body.refusal.headers["connection"] = "close"
            await body.refusal(scope, receive, send)


class _Body:
    """The body of one request on its way."""

    def __init__(self, receive: Receive, send: Send, limits: ServeLimits) -> None:
        self._receive, self._send, self._limits = receive, send, limits
        self._bytes, self._whole = 0, False
        self._until = asyncio.get_running_loop().time() + limits.body_seconds
        self.refusal: JSONResponse | None = None
        self.answered = False

    async def receive(self) -> Message:
        if self._whole:  # what comes now is the end of the connection, for which one may wait
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._until):
                message = await self._receive()
        except TimeoutError:
            seconds = self._limits.body_seconds
            self._refuse(
                _TOO_SLOW, f"the body did not arrive within {seconds:g} seconds; send it faster, or less"
            )
            raise _Refused from None
        self._bytes += len(message.get("body", b""))
        self._whole = not message.get("more_body", False)
        if self._bytes > self._limits.body_bytes:
            self.refuse_size()
            raise _Refused
        return message

    async def drain(self) -> None:
        """Throw away what still comes, for a moment: closed under its hands, the client would not read the answer."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_SECONDS):
                while not self._whole:
                    self._whole = not (await self._receive()).get("more_body", False)

    async def send(self, message: Message) -> None:
        if self.refusal is not None and not self.answered:
            return  # what the application makes of its reader's end is not for the client
        self.answered = True
        await self._send(message)

    def refuse_size(self) -> None:
        sentence = f"the body has more than {self._limits.body_bytes} bytes; send a smaller picture or less"
        self._refuse(_TOO_LARGE, sentence)

    def _refuse(self, status: int, sentence: str) -> None:
        self.refusal = JSONResponse({"error": sentence}, status)


def _promised(scope: Scope) -> int:
    headers: dict[bytes, Any] = dict(scope["headers"])
    length = headers.get(b"content-length", b"0")
    return int(length) if length.isdigit() else 0
