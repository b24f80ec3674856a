"""The middleware by itself: bodies that stop arriving, and what is thrown away of those that are too large."""

from __future__ import annotations

import asyncio
import json

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse

from gigagan_core.config.serve import ServeLimits
from gigagan_core.serving.limits import BodyLimit

LIMITS = ServeLimits(body_bytes=1024, body_seconds=0.1)
END = {"type": "http.disconnect"}


async def echo(scope, receive, send) -> None:
    """Answers with the number of bytes; makes a 400 of whatever befalls its reader, as FastAPI does."""
    try:
        body = await Request(scope, receive).body()
        answer = JSONResponse({"bytes": len(body)})
    except Exception:
        answer = JSONResponse({"error": "there was an error parsing the body"}, 400)
    await answer(scope, receive, send)


def ask(messages: list[dict], headers=(), wait: float = 10.0) -> tuple[int, dict, list[dict]]:
    """Status and document of a request whose body comes in `messages` and then stalls; and what was not read."""
    sent: list[dict] = []
    left = list(messages)

    async def receive() -> dict:
        if left:
            return left.pop(0)
        await asyncio.sleep(wait)
        return END

    async def send(message: dict) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": list(headers)}
    asyncio.run(BodyLimit(echo, LIMITS)(scope, receive, send))
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    return sent[0]["status"], json.loads(sent[1]["body"]), left


def piece(size: int, more: bool = True) -> dict:
    return {"type": "http.request", "body": b"x" * size, "more_body": more}


def test_a_body_within_the_limit_passes() -> None:
    assert ask([piece(1000), piece(24, more=False)])[:2] == (200, {"bytes": 1024})


def test_a_body_that_stops_arriving_is_given_up() -> None:
    status, document, _ = ask([piece(10)])
    assert status == 408
    assert "within 0.1 seconds" in document["error"]


@pytest.mark.parametrize("headers", [(), [(b"content-length", b"5000")]])
def test_what_is_too_large_is_thrown_away_and_refused(headers) -> None:
    status, document, left = ask([piece(1000)] * 4 + [piece(1000, more=False)], headers)
    assert status == 413
    assert "more than 1024 bytes" in document["error"]
    assert left == [], "a client that still writes would not read the answer"


def test_what_does_not_end_is_not_waited_for_long() -> None:
    assert ask([piece(2000)])[0] == 413


def test_other_connections_are_left_alone() -> None:
    seen = []

    async def application(scope, receive, send) -> None:
        seen.append((scope["type"], receive, send))

    asyncio.run(BodyLimit(application, LIMITS)({"type": "lifespan"}, "receive", "send"))
    assert seen == [("lifespan", "receive", "send")]
