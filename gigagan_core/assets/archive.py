"""Archives: the wanted member unpacked, whole or not at all, and compared with what was unpacked."""

from __future__ import annotations

import errno
import lzma
import shutil
import zipfile
import zlib
from pathlib import Path

from gigagan_core import console
from gigagan_core.assets.catalogue import Asset

# Of an encrypted file, and of a compression that Python lacks, zipfile says so with a RuntimeError; of a damaged
# directory it may stumble over a name or an offset.
_DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, ValueError)


class CannotUnpack(Exception):
    """An archive that is damaged or lacks the member; its text is what can be said of the archive."""


def unpack(asset: Asset, file: Path, root: Path) -> None:
    """The wanted member of an archive into `ROOT/NAME/`, which is there only when whole.

    What lay there is replaced. Raises CannotUnpack.
    """
    final, temporary = root / asset.name, root / f".{asset.name}.unpacking"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with zipfile.ZipFile(file) as archive:
            _extract(asset, archive, temporary)
        shutil.rmtree(final, ignore_errors=True)
        temporary.replace(final)
    except _DAMAGE as error:
        raise CannotUnpack(f"cannot be unpacked ({error})") from error
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):
            raise
        # bzip2's word for damage has no number, and a directory that is damaged may ask for an offset below zero
        raise CannotUnpack(f"cannot be unpacked ({error})") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _extract(asset: Asset, archive: zipfile.ZipFile, target: Path) -> None:
    names = _wanted(asset, archive)
    if not names:
        raise CannotUnpack(f"holds no {asset.member}")
    with console.progress(f"unpacking {asset.name}", total=len(names), unit="files") as bar:
        for name in names:
            archive.extract(name, target)
            bar.advance(1)


def first_changed(asset: Asset, file: Path, root: Path) -> Path | None:
    """The first file below `ROOT/NAME/` that is gone or has another CRC-32 than the archive says; None: all are right.

    Raises OSError for one that cannot be read.
    """
    with zipfile.ZipFile(file) as archive:
        members = [archive.getinfo(name) for name in _wanted(asset, archive) if not name.endswith("/")]
    with console.progress(f"comparing {asset.name}", total=len(members), unit="files") as bar:
        for member in members:
            # as zipfile places it
            parts = [part for part in member.filename.split("/") if part not in ("", ".", "..")]
            path = Path(root, asset.name, *parts)
            if not path.is_file() or _crc32(path) != member.CRC:
                return path
            bar.advance(1)
    return None


def _wanted(asset: Asset, archive: zipfile.ZipFile) -> list[str]:
    return [
        name for name in archive.namelist() if name == asset.member or name.startswith(f"{asset.member}/")
    ]


def _crc32(path: Path) -> int:
    found = 0
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            found = zlib.crc32(piece, found)
    return found
