"""One final answer for each URL: what is tried again, what is refused, what never leaves the machine."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import hashlib
import importlib.util
import json
import re
import resource
import socket
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from email.message import Message
from pathlib import Path
from urllib.parse import quote

import pytest
from aiohttp import web

from gigagan_core.config.base import with_overrides
from gigagan_core.config.ingest import FetchSettings, IngestSettings
from gigagan_core.data.addresses import is_public
from gigagan_core.data.fetch import OPT_OUT_DIRECTIVES, Fetched, fetch_all, opted_out
from gigagan_core.errors import GigaganError

BODY = b"a picture" * 100


class Web:
    """A small web on loopback; `asked` counts the requests by path."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.port = 0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked[request.path] += 1
        kind, _, rest = request.path[1:].partition("/")
        if kind == "status":
            return web.Response(status=int(rest.split("/")[0]), body=b"no")
        if kind == "busy":  # 503 for the first `rest` requests
            return web.Response(status=503 if self.asked[request.path] <= int(rest) else 200, body=BODY)
        if kind == "packed":
            return web.Response(body=BODY, headers={"Content-Encoding": "gzip"})
        if kind == "robots":
            return web.Response(body=BODY, headers={"X-Robots-Tag": rest})
        if kind == "hop":
            left = int(rest)
            raise web.HTTPFound(f"/hop/{left - 1}" if left else "/ok")
        if kind == "to":
            raise web.HTTPFound(request.query["url"])
        if kind == "empty":
            return web.Response()
        if kind in ("endless", "drip"):
            response = web.StreamResponse()
            await response.prepare(request)
            while True:
                await response.write(b"x" * (10_000 if kind == "endless" else 1))
                await asyncio.sleep(0.001 if kind == "endless" else 0.1)
        return web.Response(body=BODY)


@pytest.fixture(scope="module")
def small_web() -> Iterator[Web]:
    served, loop = Web(), asyncio.new_event_loop()
    app = web.Application()
    app.router.add_get("/{path:.*}", served.answer)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def start() -> None:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        served.port = runner.addresses[0][1]

    asyncio.run_coroutine_threadsafe(start(), loop).result(10)
    yield served
    asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    loop.close()


def fetch(small_web: Web, *paths: str, **changes: object) -> list[Fetched]:
    """The final answers, in the order of the URLs; a path is one of the small web's."""
    urls = [path if ":" in path.split("/")[0] else f"http://web.example/{path}" for path in paths]
    settings = FetchSettings(
        **{
            "hosts": {"web.example": f"127.0.0.1:{small_web.port}"},
            "timeout_s": 0.8,
            "retries": 2,
            "backoff_s": 0.01,
            "max_bytes": 50_000,
            **changes,
        }
    )
    found: list[Fetched] = []

    async def handle(fetched: Fetched) -> None:
        found.append(fetched)

    asyncio.run(fetch_all(list(enumerate(urls)), settings, handle))
    assert sorted(item.row for item in found) == list(range(len(urls))), "one final answer for each URL"
    return sorted(found, key=lambda item: item.row)


def test_a_body_arrives_whole_with_its_sum(small_web: Web) -> None:
    (found,) = fetch(small_web, "ok")
    assert (found.status, found.body, found.attempts) == ("success", BODY, 1)
    assert found.sha256 == hashlib.sha256(BODY).hexdigest()


def test_only_what_may_pass_is_asked_for_again(small_web: Web) -> None:
    small_web.asked.clear()
    found = fetch(small_web, "busy/2", "busy/9", "status/404", "status/410", "status/429", "status/403")
    assert [item.status for item in found] == [
        *("success", "http_503", "http_404", "http_410", "http_429", "http_403")
    ]
    assert [item.attempts for item in found] == [3, 3, 1, 1, 3, 1]
    asked_three_times = {path for path, count in small_web.asked.items() if count == 3}
    assert asked_three_times == {"/busy/2", "/busy/9", "/status/429"}
    assert small_web.asked.total() == 3 * 3 + 3


def test_bodies_without_end_are_given_up(small_web: Web) -> None:
    found = fetch(small_web, "endless", "drip", "empty", retries=0)
    assert [item.status for item in found] == ["too_large", "timeout", "empty_body"]
    assert all(item.body is None for item in found)
    (announced,) = fetch(small_web, "ok", max_bytes=len(BODY) - 1)
    assert announced.status == "too_large"


def test_redirects_are_followed_so_far_and_no_further(small_web: Web) -> None:
    found = fetch(small_web, "hop/3", "hop/9", max_redirects=5)
    assert [item.status for item in found] == ["success", "too_many_redirects"]


@pytest.mark.parametrize(
    "target",
    [
        *(
            "http://169.254.169.254/latest/meta-data",
            "http://127.0.0.1/",
            "http://[::1]/",
            "http://10.0.0.1/",
        ),
        *("http://[::ffff:127.0.0.1]/", "http://100.64.0.1/", "http://localhost/", "http://0.0.0.0/"),
        # IPv4 inside IPv6 by other ways; an address in other spellings, or behind a user's name
        *(
            "http://[::127.0.0.1]/",
            "http://[64:ff9b::a9fe:a9fe]/",
            "http://[2002:7f00:1::]/",
            "http://[fec0::1]/",
        ),
        *(
            "http://0x7f.1/",
            "http://①②⑦.0.0.1/",
            "http://web.example@127.0.0.1/",
            "http://127.0.0.1#@a.example/",
        ),
    ],
)
def test_private_addresses_are_refused_directly_and_through_a_redirect(small_web: Web, target: str) -> None:
    chain = f"to/?url={quote(f'/to/?url={quote(target)}')}"
    found = fetch(small_web, target, f"to/?url={target}", chain, retries=0)
    assert [item.status for item in found] == ["refused_address"] * 3
    assert small_web.asked["/to/"], "the chain was followed to the address"


def test_the_mapped_host_is_allowed_by_its_name_only(small_web: Web) -> None:
    small_web.asked.clear()
    by_address = f"http://127.0.0.1:{small_web.port}/ok"
    found = fetch(small_web, "ok", by_address, f"to/?url={by_address}")
    assert [item.status for item in found] == ["success", "refused_address", "refused_address"]
    assert small_web.asked["/ok"] == 1
    (allowed,) = fetch(small_web, by_address, allow_private_addresses=True)
    assert allowed.status == "success"


def test_a_name_that_turns_private_is_refused_where_it_is_dialled(
    small_web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: the first answer is a public address that nobody answers at, the next one is ours."""
    small_web.asked.clear()
    answers = iter(["198.51.100.1", *["127.0.0.1"] * 9])
    monkeypatch.setattr(
        "gigagan_core.data.addresses.is_public", lambda address: not address.startswith("127.")
    )

    async def resolve(self: object, host: str, port: int = 0, family: int = 0) -> list[dict]:
        address = next(answers)
        base = {"hostname": host, "port": small_web.port, "family": socket.AF_INET, "proto": 0, "flags": 0}
        return [{**base, "host": address}]

    monkeypatch.setattr("aiohttp.resolver.ThreadedResolver.resolve", resolve)
    monkeypatch.setattr("gigagan_core.data.fetch._DNS_CACHE_SECONDS", 0)
    url = f"http://rebound.example:{small_web.port}/ok"
    (found,) = fetch(small_web, url, timeout_s=0.4, hosts={})
    assert found.status == "refused_address"
    assert not small_web.asked


@pytest.mark.parametrize(
    ("promised", "sent", "status"), [(900, 300, "truncated_body"), (300, 900, "broken_answer")]
)
def test_a_lying_content_length_makes_no_picture(promised: int, sent: int, status: str) -> None:
    """Fewer bytes than promised, or more than that."""

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % promised + b"x" * sent)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        liar = Web()
        liar.port = listener.getsockname()[1]
        (found,) = fetch(liar, "picture", retries=0)
    assert found.status == status
    assert found.body is None


def packed_zeros(megabytes: int) -> bytes:
    packer = zlib.compressobj(9, wbits=31)
    pieces = [packer.compress(bytes(2**20)) for _ in range(megabytes)]
    return b"".join(pieces) + packer.flush()


def answered(head: bytes, body: bytes = b"") -> Callable[[socket.socket], None]:
    return lambda connection: connection.sendall(head + b"\r\n\r\n" + body)


def flood(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    while True:
        connection.sendall(b"X-More: " + b"a" * 1000 + b"\r\n")


def slow_head(connection: socket.socket) -> None:
    for letter in b"HTTP/1.1 200 OK\r\nX-Slow: " + b"a" * 1000:
        connection.sendall(bytes([letter]))
        time.sleep(0.05)


STRANGE_SERVERS: dict[str, tuple[Callable[[socket.socket], None], str]] = {
    "HTTP/1.0 without a length": (answered(b"HTTP/1.0 200 OK", BODY), "success"),
    "no length, closed at the end": (answered(b"HTTP/1.1 200 OK\r\nConnection: close", BODY), "success"),
    "headers without end": (flood, "broken_answer"),
    "one endless header": (answered(b"HTTP/1.1 200 OK\r\nX: " + b"a" * 1_000_000, BODY), "broken_answer"),
    "headers a letter at a time": (slow_head, "timeout"),
    "no HTTP at all": (lambda connection: connection.sendall(BODY), "broken_answer"),
    "two lengths": (
        answered(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 900", BODY),
        "broken_answer",
    ),
    "chunks that are cut": (
        answered(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked", b"384\r\n" + BODY[:100]),
        "truncated_body",
    ),
    "a redirect to itself": (
        answered(b"HTTP/1.1 302 Found\r\nConnection: close\r\nLocation: /x"),
        "too_many_redirects",
    ),
    "a redirect to nowhere": (answered(b"HTTP/1.1 302 Found\r\nConnection: close"), "too_many_redirects"),
    "64 MB of zeros in 64 KB": (
        answered(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Encoding: gzip", packed_zeros(64)),
        "too_large",
    ),
}


@pytest.mark.parametrize("name", STRANGE_SERVERS)
def test_a_strange_server_is_one_reason_and_costs_no_memory(name: str) -> None:
    answer, status = STRANGE_SERVERS[name]
    done = threading.Event()

    def serve(listener: socket.socket) -> None:
        while not done.is_set():
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                connection.recv(4096)
                answer(connection)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        strange = Web()
        strange.port = listener.getsockname()[1]
        (found,) = fetch(strange, "x", retries=0, max_bytes=1_000_000)
        done.set()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", strange.port)):
            pass  # the last one that it waits for
    assert found.status == status, found.message
    assert (found.body == BODY) == (status == "success")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 30_000, "KiB"


def test_other_schemes_and_broken_urls_are_refused(small_web: Web) -> None:
    urls = ["file:///etc/passwd", "ftp://a.example/x", "http://", "http://[", "to/?url=file:///etc/passwd"]
    assert {item.status for item in fetch(small_web, *urls)} == {"invalid_url"}


def test_a_name_nobody_has_is_not_asked_for_twice(small_web: Web) -> None:
    (found,) = fetch(small_web, "http://nobody.invalid/x.png")
    assert found.status in ("no_such_host", "dns_failure")


class Names:
    """A DNS on which every name of `there` is the loopback address, and others do not exist; `asked` counts."""

    def __init__(self, there: set[str], seconds: float = 0.0) -> None:
        self._there, self._seconds = there, seconds
        self.asked: Counter[str] = Counter()
        self._lock, self._now, self.together = threading.Lock(), 0, 0

    def __call__(self, host: str, port: int, *rest: object, **options: object) -> list[tuple]:
        with self._lock:
            self.asked[host] += 1
            self._now += 1
            self.together = max(self.together, self._now)
        time.sleep(self._seconds)
        with self._lock:
            self._now -= 1
        if host not in self._there:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]


def test_dns_is_asked_once_for_a_name_whether_or_not_it_exists(
    small_web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = Names({"here.example"})
    monkeypatch.setattr(socket, "getaddrinfo", names)
    port = small_web.port
    urls = [
        f"http://{host}:{port}/ok/{n}"
        for n in range(20)
        for host in ("here.example", "a.invalid", "b.invalid")
    ]
    found = fetch(small_web, *urls, "busy/1", allow_private_addresses=True, concurrency=4, per_host=2)
    assert [item.status for item in found] == ["success", "no_such_host", "no_such_host"] * 20 + ["success"]
    assert names.asked == {"here.example": 1, "a.invalid": 1, "b.invalid": 1}


def test_slow_answers_of_dns_hold_up_no_other_name(small_web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    names = Names(set(), seconds=0.3)
    monkeypatch.setattr(socket, "getaddrinfo", names)
    found = fetch(small_web, *(f"http://h{n}.invalid/" for n in range(60)), timeout_s=2.0, concurrency=60)
    assert {item.status for item in found} == {"no_such_host"}
    assert names.together > 40, "asyncio has threads for a handful, in which the others would wait"


def test_what_cannot_be_unpacked_is_not_asked_for_again(small_web: Web) -> None:
    (found,) = fetch(small_web, "packed")
    assert (found.status, found.attempts) == ("broken_answer", 1)


def test_a_closed_port_is_tried_again(small_web: Web) -> None:
    (found,) = fetch(small_web, "http://closed.example/", hosts={"closed.example": "127.0.0.1:1"}, retries=1)
    assert (found.status, found.attempts) == ("connection_refused", 2)


def test_waiting_for_ones_turn_at_a_host_is_no_time_out(small_web: Web) -> None:
    found = fetch(small_web, *["drip"] * 3, "ok", per_host=1, concurrency=4, timeout_s=0.4, retries=0)
    assert [item.status for item in found] == ["timeout"] * 3 + ["success"]


def test_an_error_of_the_caller_is_raised_as_it_is(small_web: Web) -> None:
    async def full_disk(fetched: Fetched) -> None:
        raise OSError(28, "No space left on device")

    settings = FetchSettings(hosts={"web.example": f"127.0.0.1:{small_web.port}"})
    with pytest.raises(OSError, match="No space left"):
        asyncio.run(
            fetch_all([(0, "http://web.example/ok"), (1, "http://web.example/ok")], settings, full_disk)
        )


ROBOTS = [
    *("noai", "NoAI", "index, noimageai", "noindex", "noimageindex", "all", "nofollow", "", "none"),
    *("otherbot: noai", "unavailable_after: 2030-01-01, noai", "googlebot: noindex, nofollow"),
]


def test_opt_out_headers_are_read_as_img2dataset_reads_them(small_web: Web) -> None:
    # The function is taken out of its file: importing its module would start wandb and torch.
    source = Path(importlib.util.find_spec("img2dataset").submodule_search_locations[0]) / "downloader.py"
    tree = ast.parse(source.read_text())
    tree.body = [node for node in tree.body if getattr(node, "name", "") == "is_disallowed"]
    scope: dict = {}
    exec(compile(tree, str(source), "exec"), scope)
    for value in ROBOTS:
        headers = Message()
        headers["X-Robots-Tag"] = value
        assert opted_out([value]) == scope["is_disallowed"](headers, None, OPT_OUT_DIRECTIVES), value
    assert [opted_out([value]) for value in ROBOTS] == [*[True] * 2, True, True, True, *[False] * 7]
    found = fetch(small_web, "robots/noai", "robots/all")
    assert [item.status for item in found] == ["opted_out", "success"]
    (ignored,) = fetch(small_web, "robots/noai", honour_opt_out=False)
    assert ignored.status == "success"


def test_public_addresses_are_told_from_all_others() -> None:
    public = (
        "8.8.8.8",
        "1.1.1.1",
        "2606:4700::1111",
        "::ffff:8.8.8.8",
        "64:ff9b::8.8.8.8",
        "2002:808:808::1",
    )
    others = (
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
    )
    others += ("::1", "::", "fe80::1%eth0", "fc00::1", "::ffff:10.0.0.1", "224.0.0.1", "255.255.255.255")
    others += (
        "::127.0.0.1",
        "64:ff9b::10.0.0.1",
        "64:ff9b:1::8.8.8.8",
        "2002:a00:1::",
        "fec0::1",
        "ff02::1",
        "100::1",
    )
    assert all(is_public(address) for address in public)
    assert not any(is_public(address) for address in others)


def test_after_the_deadline_nothing_is_asked_for_and_every_url_has_its_answer(small_web: Web) -> None:
    paths = [f"drip/late-{n}" for n in range(10)]
    answers = fetch(small_web, "ok/early", *paths, deadline_s=1.2, timeout_s=0.5, concurrency=2)
    assert answers[0].status == "success"
    assert {answer.status for answer in answers[1:]} <= {"timeout", "deadline"}
    left = [answer for answer in answers if answer.status == "deadline"]
    assert left
    assert all(answer.message == "no answer within 1.2 s" for answer in left)
    never_asked = [path for path in paths if not small_web.asked[f"/{path}"]]
    assert never_asked, "ten of half a second, two at a time, do not fit into 1.2 s"


def test_a_further_round_keeps_the_order_given(small_web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    import gigagan_core.data.fetch as module

    asked, once = [], module.fetch_once

    async def noted(session: object, url: str, *rest: object) -> tuple:
        asked.append(url.rsplit("/", 1)[-1])
        return await once(session, url, *rest)

    monkeypatch.setattr(module, "fetch_once", noted)
    settings = FetchSettings(
        hosts={"web.example": f"127.0.0.1:{small_web.port}"}, retries=1, backoff_s=0.01, concurrency=1
    )

    async def ignore(fetched: Fetched) -> None:
        pass

    urls = [(row, f"http://web.example/status/503/{row}") for row in (3, 0, 2, 1)]
    asyncio.run(fetch_all(urls, settings, ignore))
    assert asked == ["3", "0", "2", "1"] * 2


@pytest.mark.parametrize(
    ("hosts", "sentence"),
    [
        ({"a.example": "127.0.0.1"}, "host a.example is mapped to '127.0.0.1'; write ADDRESS:PORT"),
        ({"a.example": "127.0.0.1:http"}, "write ADDRESS:PORT, such as 127.0.0.1:8080"),
        ({"a.example": "127.0.0.1:65536"}, "write ADDRESS:PORT"),
        ({"a.example": "localhost:80"}, "write ADDRESS:PORT"),
        ({"http://a.example": "127.0.0.1:80"}, "'http://a.example' is no host; write its name alone"),
    ],
)
def test_a_host_that_cannot_be_mapped_is_one_sentence(hosts: dict[str, str], sentence: str) -> None:
    with pytest.raises(GigaganError, match=re.escape(sentence)):
        with_overrides(IngestSettings(), [f"fetch.hosts={json.dumps(hosts)}"])


@pytest.mark.parametrize("target", ["127.0.0.1:1", "[::1]:65535"])
def test_a_host_may_be_mapped_to_any_address_with_a_port(target: str) -> None:
    assert FetchSettings(hosts={"a.example": target}).hosts == {"a.example": target}
