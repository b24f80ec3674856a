"""Which addresses may be dialled: the public internet, and the hosts that the settings map."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Mapping
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver


class AddressRefused(OSError):
    """A connection to an address that is not public and not allowed."""


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the public internet: not private, loopback, link-local, shared, multicast or
    reserved, in IPv4, in IPv6, and where IPv6 leads to IPv4 (mapped, NAT64 of RFC 6052, 6to4, Teredo)."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inside = _inside(ip)
        if inside is None:
            return ip in _GLOBAL_UNICAST and ip.is_global
        ip = inside
    return ip.is_global and not ip.is_multicast


_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def _inside(ip: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that packets to an IPv6 address end at, None where they stay in IPv6."""
    if ip in _NAT64:
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)


def is_address(host: str) -> bool:
    """Whether a URL's host is an IP address and not a name."""
    try:
        ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return False
    return True


class Resolver(AbstractResolver):
    """Names to addresses: mapped hosts to what the settings say, all others through the system.

    A name that does not exist is asked for once: a third of a web data set's hosts are dead, and DNS servers give out
    under the questions. (The connector remembers the names that do.)

    hosts: logical host -> ADDRESS:PORT. The port of the URL is replaced as well.
    """

    def __init__(self, hosts: Mapping[str, str]):
        self._hosts = {name.lower(): _split(target) for name, target in hosts.items()}
        self._system = ThreadedResolver()
        self._nowhere: dict[str, tuple[Any, ...]] = {}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        mapped = self._hosts.get(host.lower())
        if mapped is None:
            return await self._look_up(host, port, family)
        address, mapped_port = mapped
        kind = socket.AF_INET6 if ":" in address else socket.AF_INET
        flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=mapped_port,
                family=kind,
                proto=socket.IPPROTO_TCP,
                flags=flags,
            )
        ]

    async def _look_up(self, host: str, port: int, family: socket.AddressFamily) -> list[ResolveResult]:
        if host in self._nowhere:
            raise socket.gaierror(*self._nowhere[host])
        try:
            return await self._system.resolve(host, port, family)
        except OSError as error:
            if error.errno == socket.EAI_NONAME:
                self._nowhere[host] = error.args
            raise

    async def close(self) -> None:
        await self._system.close()


def guarded_socket_factory(hosts: Mapping[str, str], allow_private: bool) -> Any:
    """A socket factory for aiohttp's connector that refuses what must not be dialled.

    It sees the address that is dialled, whatever name, redirect or DNS answer led there.
    """
    allowed = {_split(target) for target in hosts.values()}

    def make_socket(address_info: tuple) -> socket.socket:
        family, kind, protocol, _, address = address_info
        if not (allow_private or is_public(address[0]) or (address[0], address[1]) in allowed):
            raise AddressRefused(f"{address[0]} is not a public address")
        made = socket.socket(family, kind, protocol)
        made.setblocking(False)
        return made

    return make_socket


def _split(target: str) -> tuple[str, int]:
    address, _, port = target.rpartition(":")
    return address.strip("[]"), int(port)
