"""The store: whether it takes, gives and lets go; room on its disk; and the machine's clock against it."""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from rich import filesize

from gigagan_core import environment
from gigagan_core.doctor.finding import Finding, fail, ok, warn
from gigagan_core.doctor.request import Request
from gigagan_core.errors import GigaganError
from gigagan_core.store.store import Store, open_store

PROBES = "_probes"
# S3 refuses signatures that are a quarter of an hour off; records of several machines are hard to read much sooner.
WORST_SKEW, BAD_SKEW = 600.0, 5.0


def probed(request: Request) -> Iterator[Finding]:
    """A probe is written, read and removed; its time tells of the clock."""
    try:
        store = open_store(request.store)
    except GigaganError as error:
        yield fail("store", str(error), "name another with --store or GIGAGAN_STORE")
        return
    place, word = f"{PROBES}/{uuid.uuid4().hex}.json", {"probe": uuid.uuid4().hex}
    began = time.monotonic()
    written = time.time()
    try:
        store.write_note(place, word)
        read = store.read_note(place)
        skew = _skew(store, place, written)
        store.remove_note(place)
        gone = store.read_note(place) is None
    except Exception as error:  # every file system has errors of its own
        said = f"{type(error).__name__}: {error}"
        yield fail("store", f"{store.uri} does not let us write, read and remove: {said}", "check its rights")
        return
    if read != word or not gone:
        yield fail("store", f"{store.uri} does not give back what was written", "check its disk or service")
        return
    yield ok("store", f"{store.uri}: written, read and removed in {time.monotonic() - began:.2f} s")
    yield from clock(skew)


def _skew(store: Store, place: str, written: float) -> float:
    """Seconds that the store's clock is ahead of ours."""
    details = store.fs.info(f"{store.root}/{place}")
    stamp: Any = details.get("mtime") or details.get("LastModified") or details.get("created")
    return (stamp.timestamp() if isinstance(stamp, datetime) else float(stamp)) - written


def clock(skew: float) -> Iterator[Finding]:
    """skew: seconds that another machine's clock is ahead."""
    what = f"this machine's clock is {abs(skew):.0f} s {'behind' if skew > 0 else 'ahead of'} the store's"
    mend = "set the clock: chronyc makestep, or timedatectl set-ntp true"
    if abs(skew) > WORST_SKEW:
        yield fail("clock", f"{what}; requests to S3 would be refused", mend)
    elif abs(skew) > BAD_SKEW:
        yield warn("clock", what, mend)
    else:
        yield ok("clock", "agrees with the store's")


def room(request: Request) -> Iterator[Finding]:
    """Free space against what the preset writes, as `estimate` has it."""
    from gigagan_core.doctor.estimate import estimate

    needed = estimate(request)
    local = "://" not in request.store
    folder = _existing(Path(request.store if local else environment.home()).expanduser().absolute())
    free = shutil.disk_usage(folder).free
    what = f"{filesize.decimal(free)} free at {folder}, and {request.preset} writes about {filesize.decimal(needed)}"
    mend = "free some (`gigagan store gc`), or put the store on a larger disk: --store, GIGAGAN_STORE"
    if free < needed:
        yield fail("disk", what, mend)
    elif free < 2 * needed:
        yield warn("disk", f"{what}, by an estimate", mend)
    else:
        yield ok("disk", what)


def _existing(folder: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    while not folder.exists():
        folder = folder.parent
    return folder
