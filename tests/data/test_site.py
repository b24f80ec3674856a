"""The embedded site: the same faults for everyone, as they look on the wire."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter

import pytest

from gigagan_core.data import openmoji
from gigagan_core.data.faults import PERMANENT_SHARES, FaultTable
from gigagan_core.data.site import OpenMojiSite
from gigagan_core.errors import GigaganError


def test_a_fault_is_a_function_of_url_and_attempt() -> None:
    urls = [row.url for row in openmoji.split()]
    first, second = FaultTable(), FaultTable()
    assert [first.fault(url, 0) for url in urls] == [second.fault(url, 0) for url in reversed(urls)][::-1]
    assert [first.fault(url, 1) for url in urls] == [first.fault(url, 7) for url in urls]


def test_the_shares_are_those_stated() -> None:
    table = FaultTable()
    assert table.lost_share == pytest.approx(0.06)
    urls = [f"http://openmoji.invalid/{number}.png" for number in range(40_000)]
    lost = Counter(table.fault(url, 9) for url in urls)
    for name, share in PERMANENT_SHARES.items():
        assert lost[name] / len(urls) == pytest.approx(share, rel=0.2)
    assert 1 - lost[None] / len(urls) == pytest.approx(0.06, rel=0.05)
    once = Counter(table.fault(url, 0) for url in urls)
    assert 1 - once[None] / len(urls) == pytest.approx(0.095, rel=0.05)


def answer(site: OpenMojiSite, url: str, timeout: float = 5.0) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=timeout)
    connection.request("GET", url.removeprefix(f"http://{openmoji.HOST}"))
    response = connection.getresponse()
    return response.status, dict(response.headers), response.read()


@pytest.fixture(scope="module")
def urls_by_fault(site: OpenMojiSite) -> dict[str | None, str]:
    found: dict[str | None, str] = {}
    for row in openmoji.split():
        fault, later = site.faults.fault(row.url, 0), site.faults.fault(row.url, 1)
        found.setdefault(fault if fault == later else f"{fault} once", row.url)
    return found


def test_each_fault_looks_on_the_wire_as_it_is_called(
    site: OpenMojiSite, urls_by_fault: dict[str | None, str]
) -> None:
    status, headers, body = answer(site, urls_by_fault[None])
    assert (status, headers["Content-Length"]) == (200, str(len(body)))
    assert answer(site, urls_by_fault["not_found"])[0] == 404
    status, headers, body = answer(site, urls_by_fault["html"])
    assert (status, headers["Content-Type"]) == (200, "text/html")
    assert body.startswith(b"<!doctype html>")
    assert answer(site, urls_by_fault["opt_out"])[1]["X-Robots-Tag"] == "noai"
    with pytest.raises(ConnectionResetError):
        answer(site, urls_by_fault["reset"])
    with pytest.raises(http.client.IncompleteRead):
        answer(site, urls_by_fault["truncated"])
    with pytest.raises(TimeoutError):
        answer(site, urls_by_fault["stall"], timeout=0.5)
    assert answer(site, f"http://{openmoji.HOST}/160/nothing.png")[0] == 404


def test_a_transient_fault_is_gone_at_the_second_attempt(
    site: OpenMojiSite, urls_by_fault: dict[str | None, str]
) -> None:
    url = urls_by_fault["unavailable once"]
    assert [answer(site, url)[0] for _ in range(3)] == [503, 200, 200]
    assert [request["attempt"] for request in site.requests() if request["url"] == url] == [0, 1, 2]
    assert site.asked()[url] == 3


def test_a_site_dies_with_the_process_that_opened_it() -> None:
    opener = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import time\n"
            "from gigagan_core.data.site import OpenMojiSite\n"
            "site = OpenMojiSite().__enter__()\n"
            "print(site.port, flush=True)\n"
            "time.sleep(60)\n",
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    port = int(opener.stdout.readline())
    socket.create_connection(("127.0.0.1", port), timeout=5).close()
    os.kill(opener.pid, signal.SIGKILL)
    opener.wait(10)
    opener.stdout.close()
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except ConnectionRefusedError:
            return
        time.sleep(0.1)
    pytest.fail("the site still answers")


def test_a_taken_port_is_one_sentence(site: OpenMojiSite) -> None:
    with (
        pytest.raises(GigaganError, match=rf"did not start on port {site.port} .*: Address already in use"),
        OpenMojiSite(port=site.port),
    ):
        pass
