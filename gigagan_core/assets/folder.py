"""The folder of fetched assets, and the words `asset:NAME` that stand for a file in it."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from gigagan_core import environment
from gigagan_core.assets.catalogue import Asset, asset
from gigagan_core.errors import GigaganError
from gigagan_core.store.fingerprint import sha256_file

PREFIX = "asset:"
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class AssetState:
    """state: ``fetched``, ``partial`` (some bytes are there), ``unrecorded`` (a file that was put there by hand),
    ``changed`` (its size, or what was unpacked of it, is not as recorded) or ``missing``. size: bytes here. record: of
    the manifest."""

    state: str
    size: int
    record: dict[str, Any] | None


class WrongSum(GigaganError):
    """A file that is another than the expected one."""


class AssetFolder:
    """Fetched files in one folder, flat, beside `manifest.json`, which says where each came from and its sha256."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or environment.assets()

    def file(self, each: Asset) -> Path:
        """Where the fetched file lies, or would."""
        return self.root / each.file

    def partial(self, each: Asset) -> Path:
        """Where its bytes gather until they are all here and checked."""
        return self.root / f"{each.file}.partial"

    def place(self, each: Asset) -> Path:
        """What `asset:NAME` stands for: the file, or of an archive the wanted member."""
        return self.file(each) if each.member is None else self.root / each.name / each.member

    def record(self, name: str) -> dict[str, Any] | None:
        """What the manifest says of an asset, or None where it was never fetched."""
        return self._manifest().get(name)

    def state(self, each: Asset) -> AssetState:
        """Whether an asset is here, by the manifest and the sizes of files; `verify` reads the whole file."""
        file, partial, record = self.file(each), self.partial(each), self.record(each.name)
        if file.is_file():
            size = file.stat().st_size
            if record is None:
                return AssetState("unrecorded", size, None)
            whole = size == record["size"] and self.is_complete(each, record)
            return AssetState("fetched" if whole else "changed", size, record)
        if partial.is_file():
            return AssetState("partial", partial.stat().st_size, record)
        return AssetState("missing", 0, record)

    def members(self, each: Asset) -> dict[str, int] | None:
        """`files` and `bytes` of what was unpacked; None of an asset that is no archive, or where nothing is there."""
        place = self.place(each)
        if each.member is None or not place.exists():
            return None
        found = [os.path.join(folder, name) for folder, _, names in os.walk(place) for name in names]
        sizes = [os.lstat(path).st_size for path in (found if place.is_dir() else [place])]
        return {"files": len(sizes), "bytes": sum(sizes)}

    def is_complete(self, each: Asset, record: Mapping[str, Any]) -> bool:
        """Whether what was unpacked has as many files and bytes as recorded; True of an asset that is no archive."""
        found = self.members(each)
        return each.member is None or (found is not None and found == record.get("members"))

    def expected_sha256(self, each: Asset) -> str | None:
        """The catalogue's sum, or the one that the first fetch pinned, or None."""
        return each.sha256 or (self.record(each.name) or {}).get("sha256")

    def has_sum(self, each: Asset) -> bool:
        """Whether any sum, published or pinned, tells this asset's file from another."""
        return each.weaker is not None or self.expected_sha256(each) is not None

    def check(self, each: Asset, file: Path) -> str:
        """A file's sha256. Raises WrongSum where it, or the weaker sum, is not the expected one, and GigaganError where
        the file cannot be read."""
        try:
            found, weaker = sha256_file(file), _weaker_sum(each, file)
        except OSError as error:
            raise GigaganError(
                f"asset {each.name}: {file} cannot be read ({error.strerror}); mend that, or delete it and give "
                f"`gigagan assets fetch {each.name}`"
            ) from error
        expected = self.expected_sha256(each)
        if expected is not None and found != expected:
            whose = "the catalogue's" if each.sha256 else f"the one pinned in {self.root / MANIFEST}"
            raise WrongSum(
                f"asset {each.name}: {file} has sha256 {found} and {whose} is {expected}; delete it and give "
                f"`gigagan assets fetch {each.name}`, from another --mirror if the address serves another file"
            )
        if each.weaker is not None and weaker != each.weaker[1]:
            algorithm, wanted = each.weaker
            raise WrongSum(
                f"asset {each.name}: {file} has {algorithm} {weaker} and the catalogue's is {wanted}; delete it "
                f"and give `gigagan assets fetch {each.name}`"
            )
        return found

    def keep(self, each: Asset, record: dict[str, Any]) -> None:
        """Write an asset's record into the manifest."""
        with self.locked(MANIFEST):
            known = self._manifest() | {each.name: record}
            temporary = self.root / f".{MANIFEST}.{os.getpid()}"
            temporary.write_text(json.dumps({"schema": 1, "assets": known}, indent=1, sort_keys=True) + "\n")
            os.replace(temporary, self.root / MANIFEST)

    @contextlib.contextmanager
    def locked(self, name: str, on_wait: Callable[[str], None] = lambda holder: None) -> Iterator[None]:
        """One process at a time for each name; others wait, once told who holds it.

        Raises GigaganError where nothing can be written.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            file = open(self.root / f".{name}.lock", "ab+", buffering=0)  # noqa: SIM115 (closed below)
        except OSError as error:
            raise GigaganError(
                f"assets folder {self.root} cannot be written ({error.strerror}); set GIGAGAN_ASSETS to one that can"
            ) from None
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                on_wait(file.read().decode(errors="replace").strip() or "another process")
                fcntl.flock(file, fcntl.LOCK_EX)
            _sign(file)
            yield

    def _manifest(self) -> dict[str, Any]:
        path = self.root / MANIFEST
        try:
            records = json.loads(path.read_text())["assets"]
            for name, record in records.items():
                _require_numbers(name, record)
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise GigaganError(
                f"{path} is damaged ({error}); delete it and fetch again: files that are there are checked, not fetched"
            ) from error
        return records


def _sign(lock: BinaryIO) -> None:
    """Say in a lock file who holds it. A disk that is full must end the work, and not a line about it."""
    with contextlib.suppress(OSError):
        lock.truncate(0)
        since = datetime.now(UTC).isoformat(timespec="seconds")
        lock.write(f"process {os.getpid()} on {os.uname().nodename}, since {since}".encode())


def _require_numbers(name: str, record: Mapping[str, Any]) -> None:
    """Raises KeyError, TypeError, AttributeError or ValueError for a record that nobody could compare with."""
    members = record.get("members", {"files": 0, "bytes": 0})
    sizes = (record["size"], members["files"], members["bytes"])
    if not (isinstance(record["sha256"], str) and all(isinstance(size, int) for size in sizes)):
        raise ValueError(f"sums or sizes of {name}")


def _weaker_sum(each: Asset, file: Path) -> str | None:
    if each.weaker is None:
        return None
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, each.weaker[0]).hexdigest()


def resolve(place: str, folder: AssetFolder | None = None) -> str:
    """A path as it is; of ``asset:NAME`` the path of what was fetched.

    Raises GigaganError for an unknown asset, and for one that is not here, with the command that fetches it.
    """
    if not place.startswith(PREFIX):
        return place
    each = asset(place.removeprefix(PREFIX))
    require([each.name], folder=folder)
    return str((folder or AssetFolder()).place(each))


def resolve_named(reference: str, folder: AssetFolder | None = None) -> str:
    """NAME:PLACE, such as ``vgg:asset:lpips-vgg``, with the place resolved; a bare ``asset:NAME`` gets its own reader.

    Other words are given back as they are. Raises GigaganError as `resolve` does.
    """
    if reference.startswith(PREFIX):
        each = asset(reference.removeprefix(PREFIX))
        if each.reader is None:
            raise GigaganError(
                f"{reference} is not a network that can be named here; see `gigagan assets list`"
            )
        return f"{each.reader}:{resolve(reference, folder)}"
    name, colon, place = reference.partition(":")
    return f"{name}:{resolve(place, folder)}" if colon else reference


def require(names: Iterable[str], what: str | None = None, folder: AssetFolder | None = None) -> None:
    """Raises GigaganError, naming every asset that is not here and the one command that fetches them all.

    what: that needs them, the sentence's subject, e.g. "protocol gigagan-coco-30k".
    """
    folder = folder or AssetFolder()
    missing = [name for name in dict.fromkeys(names) if folder.state(asset(name)).state != "fetched"]
    if not missing:
        return
    listed = ", ".join(missing[:-1]) + (" and " if len(missing) > 1 else "") + missing[-1]
    it = "it" if len(missing) == 1 else "them"
    where = f"not in {folder.root}; `gigagan assets fetch {' '.join(missing)}` gets {it}"
    if what is None:
        raise GigaganError(f"asset {listed} is {where}")
    raise GigaganError(f"{what} needs {listed}, {where}")
