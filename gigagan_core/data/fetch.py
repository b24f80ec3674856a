"""Fetching safely and patiently: every URL gets one final answer, image bytes or a named reason.

One event loop fetches the URLs of a partition. What fails transiently is asked for again in later rounds,
after the others, with a growing pause; what is gone for good is not.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import math
import socket
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import urljoin, urlsplit

import aiohttp
from aiohttp.http_exceptions import ContentEncodingError

from gigagan_core.config.ingest import FetchSettings
from gigagan_core.data.addresses import (
    AddressRefused,
    Resolver,
    guarded_socket_factory,
    is_address,
    is_public,
)
from gigagan_core.data.status import OPTED_OUT, SUCCESS

OPT_OUT_DIRECTIVES = frozenset({"noai", "noimageai", "noindex", "noimageindex"})
TRANSIENT = frozenset(
    {"timeout", "connection_reset", "connection_refused", "truncated_body", "dns_failure", "http_429"}
)
DEADLINE = "deadline"
_DNS_CACHE_SECONDS = 300


@dataclass(frozen=True)
class Fetched:
    """The final answer for one URL.

    row: the caller's number of it. status: `SUCCESS` or the reason. body, sha256 (hex, of the body): on
    success only. message: what the reason's exception said. attempts: requests made.
    """

    row: int
    url: str
    status: str
    body: bytes | None
    sha256: str | None
    message: str | None
    attempts: int


class Refused(Exception):
    """A fetch that ends with a named reason."""

    def __init__(self, reason: str, message: str | None = None):
        super().__init__(message or reason)
        self.reason = reason


def is_transient(reason: str) -> bool:
    """Whether another attempt later may bring the image."""
    return reason in TRANSIENT or reason.startswith("http_5")


async def fetch_all(
    urls: Sequence[tuple[int, str]],
    settings: FetchSettings,
    handle: Callable[[Fetched], Awaitable[None]],
) -> None:
    """Ask for every (row, url); `handle` is awaited once for each with its final answer.

    At most `settings.concurrency` bodies are held at a time, `handle`'s time included. After
    `settings.deadline_s` nothing is asked for any more, and what is left gets the status "deadline". The running loop
    gets threads for as many questions to DNS: asyncio's own are few, and slow answers would fill them.
    """
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(settings.concurrency, "dns"))
    end = None if settings.deadline_s is None else time.monotonic() + settings.deadline_s
    connector = aiohttp.TCPConnector(
        limit=settings.concurrency,
        limit_per_host=settings.per_host,
        ttl_dns_cache=_DNS_CACHE_SECONDS,
        resolver=Resolver(settings.hosts),
        socket_factory=guarded_socket_factory(settings.hosts, settings.allow_private_addresses),
    )
    slots: dict[str | None, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(settings.per_host))
    async with aiohttp.ClientSession(
        connector=connector,
        # `fetch_once` holds the only time-out: one attempt as a whole.
        timeout=aiohttp.ClientTimeout(total=None),
        headers={"User-Agent": settings.user_agent},
        # Cookies would make an answer depend on the answers before it.
        cookie_jar=aiohttp.DummyCookieJar(),
    ) as session:

        async def ask(url: str) -> tuple[str, bytes | None, str | None]:
            # The turn is waited for here, where the time-out does not run yet.
            async with slots[_host(url)]:
                left = math.inf if end is None else end - time.monotonic()
                if left <= 0:
                    return DEADLINE, None, f"no answer within {settings.deadline_s:g} s"
                return await fetch_once(session, url, settings, min(settings.timeout_s, left))

        waiting = list(urls)
        for attempt in range(settings.retries + 1):
            if attempt and waiting:
                pause = settings.backoff_s * 2 ** (attempt - 1)
                await asyncio.sleep(pause if end is None else max(0.0, min(pause, end - time.monotonic())))
            last = attempt == settings.retries
            waiting = await _one_round(ask, waiting, attempt, last, settings.concurrency, handle)


async def _one_round(
    ask: Callable[[str], Awaitable[tuple[str, bytes | None, str | None]]],
    urls: Sequence[tuple[int, str]],
    attempt: int,
    last: bool,
    concurrency: int,
    handle: Callable[[Fetched], Awaitable[None]],
) -> list[tuple[int, str]]:
    """Ask once for each; returns those to ask for again."""
    source = iter(urls)
    again: list[tuple[int, str]] = []

    async def work() -> None:
        for row, url in source:
            status, body, message = await ask(url)
            if is_transient(status) and not last:
                again.append((row, url))
                continue
            sha256 = hashlib.sha256(body).hexdigest() if body is not None else None
            await handle(Fetched(row, url, status, body, sha256, message, attempt + 1))

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(concurrency, len(urls))):
                group.create_task(work())
    except BaseExceptionGroup as several:
        # One is enough to say what went wrong (a full disk under `handle`), and it keeps its own kind.
        raise several.exceptions[0] from None
    # In the order given, which spreads each host over the round.
    wanted = set(again)
    return [pair for pair in urls if pair in wanted]


async def fetch_once(
    session: aiohttp.ClientSession, url: str, settings: FetchSettings, timeout_s: float
) -> tuple[str, bytes | None, str | None]:
    """One attempt: (status, body on success, message otherwise). Does not raise for what the web does."""
    try:
        async with asyncio.timeout(timeout_s):
            return SUCCESS, await _follow(session, url.strip(), settings), None
    except Refused as error:
        return error.reason, None, str(error)
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
        return _reason(error), None, f"{type(error).__name__}: {error}"[:300]


async def _follow(session: aiohttp.ClientSession, url: str, settings: FetchSettings) -> bytes:
    for _ in range(settings.max_redirects + 1):
        _check_url(url, settings)
        async with session.get(url, allow_redirects=False) as response:
            if response.status in (301, 302, 303, 307, 308):
                # Each hop is looked at like the first.
                url = urljoin(url, response.headers.get("Location", ""))
                continue
            if response.status != HTTPStatus.OK:
                raise Refused(f"http_{response.status}")
            if settings.honour_opt_out and opted_out(response.headers.getall("X-Robots-Tag", [])):
                raise Refused(OPTED_OUT, "X-Robots-Tag")
            return await _body(response, settings.max_bytes)
    raise Refused("too_many_redirects", url)


def _host(url: str) -> str | None:
    try:
        return urlsplit(url.strip()).hostname
    except ValueError:
        return None


def _check_url(url: str, settings: FetchSettings) -> None:
    parts = urlsplit(url)
    if parts.scheme.lower() not in ("http", "https") or not parts.hostname:
        raise Refused("invalid_url", url)
    # An address in the URL does not pass the resolver; a mapped host is allowed by its name only.
    if is_address(parts.hostname) and not (settings.allow_private_addresses or is_public(parts.hostname)):
        raise Refused("refused_address", parts.hostname)


async def _body(response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    if (response.content_length or 0) > max_bytes:
        raise Refused("too_large", f"{response.content_length} bytes announced")
    pieces, size = [], 0
    async for piece in response.content.iter_any():
        size += len(piece)
        if size > max_bytes:
            raise Refused("too_large", f"more than {max_bytes} bytes")
        pieces.append(piece)
    if not size:
        raise Refused("empty_body")
    return b"".join(pieces)


def opted_out(robots_tags: Iterable[str], user_agent_token: str | None = None) -> bool:
    """Whether X-Robots-Tag headers forbid the use, read as img2dataset 1.47 reads them.

    A header is a list of directives, with ``AGENT:`` in front where it is for one agent only.
    """
    for value in robots_tags:
        agent, colon, rest = value.partition(":")
        directives = {part.strip().lower() for part in (rest if colon else agent).split(",")}
        for_us = not colon or agent.strip().lower() == user_agent_token
        if for_us and directives & OPT_OUT_DIRECTIVES:
            return True
    return False


def _reason(error: Exception) -> str:
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(cause, AddressRefused):
        return "refused_address"
    if isinstance(error, (TimeoutError, aiohttp.ServerTimeoutError)):
        return "timeout"
    if isinstance(error, aiohttp.ClientPayloadError):
        return "broken_answer" if isinstance(error.__cause__, ContentEncodingError) else "truncated_body"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        # "No such name" is an answer; every other failure of DNS may pass.
        return "no_such_host" if cause.errno == socket.EAI_NONAME else "dns_failure"
    if isinstance(error, aiohttp.ClientSSLError):
        return "tls_error"
    if isinstance(cause, OSError) and cause.errno == errno.ECONNREFUSED:
        return "connection_refused"
    if isinstance(error, (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, OSError)):
        return "connection_reset"
    if isinstance(error, (aiohttp.InvalidURL, ValueError)):
        return "invalid_url"
    return "broken_answer"
