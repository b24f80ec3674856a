"""What nothing refers to any more, and its removal.

An artifact stays while it is a root, or something that stays was made of it. Roots: what a pipeline run's record names,
what is pinned, what running or resumable work uses, models that are versions of a registered one, and everything that
was made or used again within a grace period or since the oldest work that runs was begun. See `docs/rerun.md`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from gigagan_core.errors import GigaganError
from gigagan_core.store import pins, removal, runs
from gigagan_core.store.artifact import Artifact
from gigagan_core.store.lineage import Key, Lineage
from gigagan_core.store.runs import RunRecord
from gigagan_core.store.store import Store
from gigagan_core.tracking.process import is_alive

SHORTEST_GRACE_OF_REMOTE = timedelta(days=1)
"""Locks of other machines are not seen there, and an artifact's last use is not known: its age has to do."""
LONGEST_UNSEEN = timedelta(days=30)
"""So long a run of another machine counts as running where its record says so: nobody closes a dead one's."""

Wanted = Callable[[Artifact], str | None]
"""Why the registry of models wants an artifact kept, or None (`gigagan_core.tracking.registry.wanted`)."""


@dataclass
class Plan:
    """What would go and what stays.

    reasons: of every root, by its name. work: folders of work that was cut off; leftovers: folders of the store without
    a manifest. runs: records that go. bytes: that the disk gets back.
    """

    remove: list[Artifact] = field(default_factory=list)
    keep: list[Artifact] = field(default_factory=list)
    reasons: dict[Key, str] = field(default_factory=dict)
    work: list[Path] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)
    runs: list[RunRecord] = field(default_factory=list)
    bytes: int = 0


def plan(
    store: Store,
    older_than: timedelta,
    keep_runs: int | None = None,
    wanted: Wanted = lambda artifact: None,
) -> Plan:
    """What may go; nothing is changed.

    older_than: the grace period. keep_runs: so many of the newest ended runs keep their artifacts, and running ones
    always; None: all. Raises GigaganError for a remote store and a grace period under a day.
    """
    if not store.is_local and older_than < SHORTEST_GRACE_OF_REMOTE:
        raise GigaganError(
            f"store {store.uri} may be used by machines whose running work is not seen from here; give --older-than 1d "
            "or more"
        )
    since = time.time() - older_than.total_seconds()
    kept_runs, dropped = _runs(store, keep_runs)
    lineage = Lineage(store.artifacts())
    reasons: dict[Key, str] = {}
    for artifact, why in _roots(store, lineage, kept_runs, since, wanted):
        reasons.setdefault(Key.of(artifact), why)
    kept = lineage.reachable(each for each in lineage.artifacts if Key.of(each) in reasons)
    found = Plan(reasons=reasons, runs=dropped)
    for artifact in lineage.artifacts:
        (found.keep if Key.of(artifact) in kept else found.remove).append(artifact)
    found.work = store.working.stale(older_than.total_seconds())
    found.leftovers = removal.without_manifest(store, lineage.artifacts, since)
    found.bytes = _bytes(store, found)
    return found


def unused(store: Store) -> list[Artifact]:
    """What no artifact, run record, pin or begun work refers to, however new it is."""
    lineage = Lineage(store.artifacts())
    referred = {Key.of(each) for each, _ in _referred(store, lineage, runs.records(store), since=0.0)}
    return [each for each in lineage.artifacts if Key.of(each) not in referred and not lineage.children(each)]


def collect(store: Store, found: Plan, older_than: timedelta) -> Plan:
    """Remove what a plan names, unless it was used since. Returns what was removed.

    An artifact goes in one step (`removal.remove`), and before what it was made of: cut off anywhere, a collection has
    lost nothing but what it was to remove, and the next one finishes it.
    """
    since = time.time() - older_than.total_seconds()
    removed = [each for each in _dependents_first(found.remove) if removal.remove(store, each, since)]
    gone = Plan(remove=removed, work=found.work, leftovers=found.leftovers, runs=found.runs)
    gone.bytes = removal.trash_bytes(store) + _bytes(store, Plan(work=found.work, leftovers=found.leftovers))
    if not store.is_local:
        gone.bytes += sum(artifact.bytes for artifact in removed)
    for record in found.runs:
        store.remove_note(record.place())
    for place in found.leftovers:
        removal.remove_folder(store, place)
    store.working.sweep(older_than.total_seconds())
    removal.empty_trash(store)
    return gone


def _runs(store: Store, keep: int | None) -> tuple[list[RunRecord], list[RunRecord]]:
    """The records whose artifacts stay, and those that go."""
    known = runs.records(store)
    ended = [record for record in known if record.state != "running"]
    dropped = [] if keep is None else ended[: max(len(ended) - keep, 0)]
    return [record for record in known if record not in dropped], dropped


def _roots(
    store: Store, lineage: Lineage, kept_runs: list[RunRecord], since: float, wanted: Wanted
) -> Iterator[tuple[Artifact, str]]:
    yield from _referred(store, lineage, kept_runs, since)
    begun = _oldest_begin(store, kept_runs)
    for artifact in lineage.artifacts:
        if why := wanted(artifact):
            yield artifact, why
        elif (used := removal.last_used(store, artifact)) > since:
            yield artifact, "made or used within the grace period"
        elif used > begun:
            yield artifact, "made or used since the oldest running work was begun"


def _oldest_begin(store: Store, kept_runs: Iterable[RunRecord]) -> float:
    """When the oldest work that runs was begun: what a run has made so far, it need not name anywhere yet."""
    begun = [work.leased for work in store.working.begun() if work.running]
    oldest_unseen = time.time() - LONGEST_UNSEEN.total_seconds()
    for record in kept_runs:
        if record.state == "running":
            created = datetime.fromisoformat(record.created).timestamp()
            if created > oldest_unseen or is_alive(record.process):
                begun.append(created)
    return min(begun, default=float("inf"))


def _referred(
    store: Store, lineage: Lineage, kept_runs: Iterable[RunRecord], since: float
) -> Iterator[tuple[Artifact, str]]:
    """Roots that something names. since: work that was cut off earlier counts no more."""
    for record in kept_runs:
        for key in record.names():
            yield from ((each, f"run {record.short}") for each in lineage.named(key))
    for pin in pins.pins(store):
        yield from ((each, "pinned") for each in lineage.named(pin.key))
    for work in store.working.begun():
        if work.running or work.touched > since:
            state = "running" if work.running else "resumable"
            for reference in work.uses:
                yield from ((each, f"used by {state} work") for each in lineage.named(Key.of(reference)))


def _dependents_first(artifacts: Iterable[Artifact]) -> list[Artifact]:
    """What was made of others was made after them."""
    return sorted(artifacts, key=lambda artifact: artifact.manifest["created"], reverse=True)


def _bytes(store: Store, found: Plan) -> int:
    """A local file counts where its last name goes: shard sets share tars with their partitions by links."""
    work = removal.freed_bytes(found.work)
    if not store.is_local:
        return work + sum(artifact.bytes for artifact in found.remove)
    places = [Path(artifact.uri) for artifact in found.remove]
    return work + removal.freed_bytes([*places, *(Path(store.root, place) for place in found.leftovers)])
