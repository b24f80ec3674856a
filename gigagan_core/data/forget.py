"""Removing samples for good: by URL, by the sha256 of their bytes, or by host.

Pictures leave the tars; in the tables their rows stay, so that counts add up, without URL, caption and all else
that describes them. What was asked for is remembered in the store, and `ingest` leaves it out from then on.
"""

from __future__ import annotations

import tarfile
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np

from gigagan_core.data.scores import read_scores, write_scores
from gigagan_core.data.shards import Shard, read_table
from gigagan_core.data.status import FORGOTTEN, SUCCESS
from gigagan_core.errors import GigaganError

if TYPE_CHECKING:
    import pyarrow as pa

KEPT_COLUMNS = ("key", "source", "status", "selected")


@dataclass(frozen=True)
class Forgotten:
    """What is to be forgotten: URLs, sha256 sums (hex) and host names, the latter with all their subdomains."""

    urls: frozenset[str] = frozenset()
    sha256: frozenset[str] = frozenset()
    hosts: frozenset[str] = frozenset()

    @classmethod
    def of(cls, urls: Iterable[str] = (), sha256: Iterable[str] = (), hosts: Iterable[str] = ()) -> Forgotten:
        """As people write them; raises GigaganError for what is empty or no sha256."""
        sums = frozenset(each.strip().lower() for each in sha256)
        for each in sums:
            if len(each) != 64 or set(each) - set("0123456789abcdef"):
                raise GigaganError(f"--sha256 {each!r} is no sha256; give 64 hex digits")
        named = frozenset(_one_spelling(each.strip()) for each in hosts)
        given = frozenset(each.strip() for each in urls)
        if "" in named | given or not (sums or named or given):
            raise GigaganError("nothing to forget was named; give --url, --sha256 or --host")
        return cls(given, sums, named)

    def __or__(self, other: Forgotten) -> Forgotten:
        return Forgotten(self.urls | other.urls, self.sha256 | other.sha256, self.hosts | other.hosts)

    def __bool__(self) -> bool:
        return bool(self.urls or self.sha256 or self.hosts)

    def names(self, url: str | None, sha256: str | None = None) -> bool:
        """Whether a sample of this URL, or with bytes of this sum, is meant."""
        if sha256 is not None and sha256 in self.sha256:
            return True
        if url is None:
            return False
        return url.strip() in self.urls or (bool(self.hosts) and self._names_host(url))

    def _names_host(self, url: str) -> bool:
        try:
            host = _one_spelling(urlsplit(url.strip()).hostname or "")
        except ValueError:
            return False
        return any(host == each or host.endswith(f".{each}") for each in self.hosts)

    def as_json(self) -> dict[str, list[str]]:
        """JSON-able; `from_json` reads it."""
        return {name: sorted(values) for name, values in asdict(self).items()}

    @classmethod
    def from_json(cls, values: dict[str, list[str]]) -> Forgotten:
        """What `as_json` wrote."""
        return cls(**{name: frozenset(each) for name, each in values.items()})


def _one_spelling(host: str) -> str:
    """Of a host's name: in lower case, without the dot at its end, and as DNS writes what is no ASCII."""
    host = host.lower().strip(".")
    try:
        return host.encode("idna").decode()
    except UnicodeError:  # no name that DNS could have
        return host


@dataclass(frozen=True)
class Blanked:
    """What became of one shard. keys: of the rows blanked now; gone: of those, and of all that were blanked before.

    left: how many rows still count. files: the new ones by the name of what they replace, in the order to replace
    them: the table last, since it says what is to be done. None where nothing was.
    """

    keys: set[str]
    gone: set[str]
    left: int
    files: dict[str, Path]


def forget_in(shard: Shard, forgotten: Forgotten, folder: Path) -> Blanked:
    """Look for samples in one shard, and write its files anew where there are any. folder: for the new files."""
    import pyarrow.parquet as pq

    table = read_table(shard)
    wanted = [forgotten.names(*pair) for pair in zip(table["url"].to_pylist(), table["sha256"].to_pylist())]
    states = list(zip(table["status"].to_pylist(), table["selected"].to_pylist(), wanted, strict=True))
    keys = table["key"].to_pylist()
    now = {key for key, meant in zip(keys, wanted, strict=True) if meant}
    earlier = {key for key, (status, _, _) in zip(keys, states, strict=True) if status == FORGOTTEN}
    left = sum(status == SUCCESS and selected and not meant for status, selected, meant in states)
    new = {}
    if now:
        new = {name: folder / name for name in (shard.tar.name, shard.parquet.name)}
        _copy_without(shard.tar, now, new[shard.tar.name])
        pq.write_table(_blanked(table, wanted), new[shard.parquet.name])
    return Blanked(now, now | earlier, left, new)


def forget_scores(path: Path, keys: Collection[str], target: Path) -> int:
    """Write a file of scores or embeddings without those of these rows; returns how many rows still have one.

    Nothing is written where it has none of the rows any more.
    """
    stored = read_scores(path)
    rows = [
        row
        for row, (key, reason) in enumerate(zip(stored.keys, stored.reasons, strict=True))
        if key in keys and reason != FORGOTTEN
    ]
    for column in stored.columns.values():
        column[rows] = np.nan
    for row in rows:
        stored.reasons[row] = FORGOTTEN
    if rows:
        write_scores(stored, target)
    return stored.reasons.count(None)


def _blanked(table: pa.Table, wanted: list[bool]) -> pa.Table:
    """The table with the wanted rows emptied of all that describes them."""
    import pyarrow as pa
    import pyarrow.compute as pc

    meant = pa.array(wanted)
    columns: dict[str, Any] = {}
    for field in table.schema:
        column = table[field.name]
        if field.name == "status":
            column = pc.if_else(meant, FORGOTTEN, column)
        elif field.name == "selected":
            column = pc.if_else(meant, False, column)
        elif field.name not in KEPT_COLUMNS:
            column = pc.if_else(meant, pa.scalar(None, field.type), column)
        columns[field.name] = column
    return pa.table(columns, schema=table.schema)


def _copy_without(tar: Path, keys: set[str], target: Path) -> None:
    with tarfile.open(tar) as old, tarfile.open(target, "w") as new:
        for member in old:
            if member.name.partition(".")[0] not in keys:
                new.addfile(member, old.extractfile(member))
