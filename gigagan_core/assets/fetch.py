"""Fetching an asset: continued where it was cut off, checked before it counts, in its place only when whole."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from gigagan_core import console
from gigagan_core.assets.address import Address, address_of
from gigagan_core.assets.archive import CannotUnpack, first_changed, unpack
from gigagan_core.assets.catalogue import Asset
from gigagan_core.assets.download import Download, notes_beside, read_notes
from gigagan_core.assets.folder import AssetFolder, WrongSum
from gigagan_core.errors import GigaganError
from gigagan_core.store.fingerprint import sha256_file
from gigagan_core.text import plain

_MB = 1e6
_LFS = b"version https://git-lfs"


@dataclass(frozen=True)
class Fetched:
    """path: what `asset:NAME` stands for. how: ``fetched`` (now, or by a call that was cut off before it was on
    record), ``already there``, ``taken in`` (put there by hand) or ``unpacked again`` (what was unpacked of an archive
    had lost files).

    pinned: no source states the sum, so the file's own was recorded, and this is its first fetch.
    """

    asset: Asset
    path: Path
    sha256: str
    how: str
    pinned: bool


def fetch(asset: Asset, folder: AssetFolder | None = None, mirror: str | None = None) -> Fetched:
    """Bring an asset into the folder, or find that it is there.

    mirror: an address below which the files lie, instead of the published ones: see `address_of`.
    A fetch that was cut off continues with the bytes it lacks. A file that was put into the folder by hand is checked
    and taken in. Raises GigaganError, one sentence, for a wrong sum, an address that does not serve the file, a
    connection that stays cut (CutOff), and a full disk; what was fetched so far stays.
    """
    folder = folder or AssetFolder()
    address = address_of(asset, mirror)
    with folder.locked(asset.name, lambda holder: _tell_wait(asset, folder, holder)):
        state = folder.state(asset)
        if state.state == "fetched" and state.record is not None:
            return Fetched(asset, folder.place(asset), state.record["sha256"], "already there", False)
        try:
            how, sha256, origin = _bring(asset, folder, address)
            _unpack(asset, folder)
            _record(asset, folder, sha256, origin)
        except OSError as error:
            raise _not_written(asset, folder.root, error) from error
    pinned = asset.sha256 is None and state.record is None
    if pinned:
        console.warn(
            f"{asset.name}: no public source states its sha256"
            f"{'' if asset.weaker is None else f' (its {asset.weaker[0]} was right)'}; {sha256} is now pinned in "
            f"{folder.root}, so that another file is refused from now on"
        )
    return Fetched(asset, folder.place(asset), sha256, how, pinned)


def not_fetched(failed: Mapping[str, GigaganError], of: int) -> GigaganError:
    """What to raise of several assets, when the others are there.

    failed: by name, why each could not be fetched; their sentences were said. of: how many were wanted.
    """
    first = next(iter(failed.values()))
    return GigaganError(f"{len(failed)} of {of} assets were not fetched ({', '.join(failed)}); {first}")


def verify(asset: Asset, folder: AssetFolder | None = None) -> str:
    """The sha256 of an asset that is here, read anew, and with it what was unpacked of an archive.

    Raises GigaganError where anything is missing or another.
    """
    folder = folder or AssetFolder()
    state = folder.state(asset)
    if state.state in ("missing", "partial") and state.record is not None:
        raise GigaganError(
            f"asset {asset.name}: {folder.file(asset)} was fetched and is gone; `gigagan assets fetch {asset.name}` "
            "gets it again"
        )
    if state.state in ("missing", "partial"):
        raise GigaganError(
            f"asset {asset.name} is not in {folder.root}; `gigagan assets fetch {asset.name}` gets it"
        )
    if state.state == "unrecorded":
        return fetch(asset, folder).sha256
    found = folder.check(asset, folder.file(asset))
    if state.record is not None and not folder.is_complete(asset, state.record):
        raise GigaganError(
            f"asset {asset.name}: {folder.place(asset)} {_held(folder.members(asset))} where "
            f"{_counted(state.record.get('members'))} were unpacked; `gigagan assets fetch {asset.name}` unpacks it "
            "again"
        )
    if asset.member is not None:
        _compare(asset, folder)
    return found


def _compare(asset: Asset, folder: AssetFolder) -> None:
    """Raises GigaganError where what was unpacked is not what the archive holds, though of the same size."""
    again = (
        f"delete {folder.place(asset)} and give `gigagan assets fetch {asset.name}`, which unpacks it again"
    )
    try:
        changed = first_changed(asset, folder.file(asset), folder.root)
    except OSError as error:
        raise GigaganError(
            f"asset {asset.name}: {error.filename or folder.place(asset)} cannot be read ({error.strerror}); mend "
            f"that, or {again}"
        ) from error
    if changed is not None:
        raise GigaganError(f"asset {asset.name}: {changed} is not as in {folder.file(asset)}; {again}")


def _record(asset: Asset, folder: AssetFolder, sha256: str, origin: str | None) -> None:
    record = {
        "sha256": sha256,
        "sum": asset.sum_state,
        "size": folder.file(asset).stat().st_size,
        "address": origin,
        "fetched": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    folder.keep(asset, record if asset.member is None else {**record, "members": folder.members(asset)})
    notes_beside(folder.partial(asset)).unlink(missing_ok=True)


def _tell_wait(asset: Asset, folder: AssetFolder, holder: str) -> None:
    console.note(f"{asset.name}: {plain(holder)} is fetching it into {folder.root}; waiting for that")


def _stand_in(file: Path) -> str | None:
    """Why a file is none at all, or None."""
    with open(file, "rb") as stream:
        start = stream.read(len(_LFS))
    if start == _LFS:
        return "is a git-LFS pointer, which stands for a file elsewhere"
    return None if start else "is empty"


def _bring(asset: Asset, folder: AssetFolder, address: Address) -> tuple[str, str, str | None]:
    """The file into its place, checked: how it came there, its sha256, and where it is from."""
    file = folder.file(asset)
    if file.is_dir():
        raise GigaganError(
            f"asset {asset.name}: {file} is a folder; move it away and give the same command again"
        )
    if file.is_file():
        return _found(asset, folder)
    partial = folder.partial(asset)
    Download(asset, address, partial, folder.has_sum(asset)).run()
    sha256 = _check(asset, folder, address)
    # until it is on record, for unpacking may be cut off
    notes = notes_beside(partial)
    notes.write_text(json.dumps({**read_notes(notes), "address": address.shown, "sha256": sha256}))
    partial.replace(file)
    return "fetched", sha256, address.shown


def _found(asset: Asset, folder: AssetFolder) -> tuple[str, str, str | None]:
    """As `_bring`, of a file that is in its place: fetched before, or put there by hand."""
    file, record = folder.file(asset), folder.record(asset.name)
    reason = _stand_in(file)
    if reason is not None:
        raise GigaganError(
            f"asset {asset.name}: {file} {reason}; delete it and give `gigagan assets fetch {asset.name}`"
        )
    sha256 = folder.check(asset, file)
    noted = read_notes(notes_beside(folder.partial(asset)))
    if noted.get("sha256") == sha256:  # a fetch was cut off before it could record the file
        return "fetched", sha256, noted.get("address")
    if record is None:
        return "taken in", sha256, "put there by hand"
    return "taken in" if asset.member is None else "unpacked again", sha256, record.get("address")


def _forget(file: Path, folder: AssetFolder, asset: Asset) -> None:
    """A file that is not the asset, and what is noted of it, so that the next fetch begins anew."""
    file.unlink()
    notes_beside(folder.partial(asset)).unlink(missing_ok=True)


def _check(asset: Asset, folder: AssetFolder, address: Address) -> str:
    """The sha256 of what was fetched. A file that is none, or has a wrong sum, does not stay."""
    partial = folder.partial(asset)
    reason = _stand_in(partial)
    if reason is not None:
        _forget(partial, folder, asset)
        raise GigaganError(
            f"asset {asset.name}: what {address.shown} gave {reason}; it was deleted, so give --mirror URL with "
            f"another place of {asset.file}"
        )
    try:
        return folder.check(asset, partial)
    except WrongSum as error:
        found = sha256_file(partial)
        _forget(partial, folder, asset)
        expected = folder.expected_sha256(asset)
        wanted = f"sha256 {expected}" if expected and expected != found else " ".join(asset.weaker or ())
        raise GigaganError(
            f"asset {asset.name}: what was fetched has sha256 {found} and not {wanted}; it was deleted, "
            "so give --mirror URL with another place, or tell us if the published file has changed"
        ) from error


def _unpack(asset: Asset, folder: AssetFolder) -> None:
    """The member of an archive. One that cannot be unpacked stays only where a sum says that it is the right file."""
    if asset.member is None:
        return
    file = folder.file(asset)
    try:
        unpack(asset, file, folder.root)
    except CannotUnpack as error:
        if folder.has_sum(asset):
            raise GigaganError(
                f"asset {asset.name}: {file} has the right sum and {error}; delete it and fetch it again, and look at "
                "the disk if that does not help"
            ) from error
        _forget(file, folder, asset)
        raise GigaganError(
            f"asset {asset.name}: {file} {error} and no source states its sum; it was deleted, so give the same "
            "command again, with --mirror URL of another place if it stays so"
        ) from error


def _held(members: dict[str, int] | None) -> str:
    return "is gone" if members is None else f"holds {_counted(members)}"


def _counted(members: dict[str, int] | None) -> str:
    if not members:
        return "files that nobody counted"
    return f"{members['files']:,} file{'' if members['files'] == 1 else 's'} of {members['bytes']:,} bytes"


def _not_written(asset: Asset, root: Path, error: OSError) -> GigaganError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = shutil.disk_usage(root).free / _MB
        return GigaganError(
            f"asset {asset.name}: no space left on the disk of {root} ({free:,.0f} MB free); free some and give the "
            "same command again, what was fetched stays"
        )
    return GigaganError(
        f"asset {asset.name}: {error.filename or root}: {error.strerror or error}; mend that and give the same command "
        "again, what was fetched stays"
    )
