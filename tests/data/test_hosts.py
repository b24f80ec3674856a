"""Hosts: read out of URLs, told from private addresses, spread over a partition."""

from __future__ import annotations

from collections import Counter
from urllib.parse import urlsplit

import pyarrow as pa
import pytest

from gigagan_core.data.hosts import hosts_of, is_private_literal, spread_hosts


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://A.example/b", "a.example"),
        (" https://a.example:8080?x=http://b.example/", "a.example"),
        ("http://user:word@a.example/b@c", "a.example"),
        ("http://x@y@10.0.0.1#z", "10.0.0.1"),
        ("http://[::1]:80/a", "[::1]"),
        ("http://bücher.example/two words", "bücher.example"),
        ("ftp://a.example/", None),
        (None, None),
    ],
)
def test_the_host_of_a_url(url: str | None, host: str | None) -> None:
    assert hosts_of(pa.array([url], pa.string())).to_pylist() == [host]


def test_private_addresses_are_known_in_every_spelling() -> None:
    private = ["127.0.0.1", "127.1", "2130706433", "0x7f.0.0.1", "0177.0.0.1", "10.1.2.3", "169.254.169.254"]
    private += ["100.64.0.1", "0.0.0.0", "[::1]", "[fe80::1]", "[fd00::1]", "[::ffff:10.0.0.1]"]
    others = ["8.8.8.8", "[2606:4700::1]", "a.example", "10.example", "1e100.example", "", "[", "dead.beef"]
    assert [host for host in private if not is_private_literal(host)] == []
    assert [host for host in others if is_private_literal(host)] == []


def test_no_stretch_of_a_partition_is_one_hosts_alone() -> None:
    counts = {"large.example": 50, "small.example": 25, "rare.example": 25}
    urls = [f"http://{host}/{number}" for host, count in counts.items() for number in range(count)]
    order = spread_hosts(list(enumerate(urls)))
    assert sorted(order) == list(enumerate(urls)), "every URL once, with its row"
    for start in range(0, 100, 20):
        hosts = Counter(urlsplit(url).hostname for _, url in order[start : start + 20])
        assert hosts == {"large.example": 10, "small.example": 5, "rare.example": 5}


def test_the_urls_of_one_host_keep_their_order() -> None:
    urls = [(row, f"http://{'ab'[row % 2]}.example/{row}") for row in range(10)]
    rows = [row for row, url in spread_hosts(urls) if "//a." in url]
    assert rows == sorted(rows)
    assert spread_hosts([]) == []
