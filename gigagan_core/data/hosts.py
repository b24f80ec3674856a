"""Hosts in URLs: which literal addresses are not to be asked, and an order that spreads every host."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gigagan_core.data.addresses import is_address, is_public

if TYPE_CHECKING:
    import pyarrow as pa

# Everything up to the last @ is a user's name; an IPv6 address stands in brackets.
_HOST = r"(?i)^\s*https?://(?:[^/?#]*@)?(?P<host>\[[^\]/?#]*\]|[^:/?#]*)"


def hosts_of(urls: pa.Array) -> pa.Array:
    """string [N]: the host of each URL, in lower case; null for what is no http or https URL."""
    import pyarrow.compute as pc

    return pc.utf8_lower(pc.struct_field(pc.extract_regex(urls, _HOST), 0))


def is_private_literal(host: str) -> bool:
    """Whether a URL's host is an address, in any spelling, outside the public internet.

    ``127.1``, ``2130706433`` and ``0x7f.0.0.1`` are 127.0.0.1 to the system's resolver. A name is never one:
    what it resolves to is looked at when it is dialled.
    """
    if not host or host[0] not in "0123456789[":
        return False
    try:
        address = socket.inet_ntoa(socket.inet_aton(host))
    except OSError:
        address = host.strip("[]")
    return is_address(address) and not is_public(address)


def spread_hosts(urls: Sequence[tuple[int, str]]) -> list[tuple[int, str]]:
    """The (row, url) pairs in an order in which the URLs of each host lie evenly far apart.

    Plain round-robin would leave the largest host alone at the end. The order depends on the URLs only.
    """
    import pyarrow as pa

    hosts = hosts_of(pa.array([url for _, url in urls], pa.string())).to_pylist()
    totals, seen = Counter(hosts), Counter()
    places = []
    for position, host in enumerate(hosts):
        # The i-th of n is due after the share (i + 1/2) / n of all.
        places.append(((seen[host] + 0.5) / totals[host], position))
        seen[host] += 1
    return [urls[position] for _, position in sorted(places)]
