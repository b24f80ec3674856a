"""Programs that no Python package brings, and the user that PostgreSQL runs as."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
from pathlib import Path

from gigagan_core.errors import GigaganError

DEBIAN_FOLDERS = Path("/usr/lib/postgresql")


def postgres_programs(data: Path | None = None) -> Path:
    """The folder of `postgres` and `initdb`: of PATH, else the newest that Debian installed.

    data: a data folder that exists; it belongs to one version. Raises GigaganError where none fits.
    """
    version = data / "PG_VERSION" if data else None
    wanted = version.read_text().strip() if version and version.is_file() else None
    on_path = shutil.which("postgres")
    folders = [Path(on_path).resolve().parent] if on_path else []
    folders += sorted(DEBIAN_FOLDERS.glob("*/bin"), key=_version, reverse=True)
    whole = [each for each in folders if (each / "postgres").exists() and (each / "initdb").exists()]
    if not whole:
        raise GigaganError("PostgreSQL is not installed; on Debian: apt-get install postgresql")
    if wanted is None:
        return whole[0]
    for folder in whole:
        if f"{os.sep}{wanted}{os.sep}" in f"{folder}{os.sep}":
            return folder
    raise GigaganError(
        f"{data} was written by PostgreSQL {wanted}, which is not installed; on Debian: apt-get install "
        f"postgresql-{wanted}, or remove that folder to start empty"
    )


def _version(folder: Path) -> float:
    try:
        return float(folder.parent.name)
    except ValueError:
        return 0.0


def require_s3_server() -> None:
    """Raise GigaganError where moto, the S3 server, is not installed."""
    if importlib.util.find_spec("moto") is None:
        raise GigaganError("the S3 server (moto) is not installed; it comes with `make install`")


def unprivileged_user() -> str | None:
    """Who PostgreSQL runs as where we are root, which it refuses; None for ourselves.

    Raises GigaganError where there is no such user, or no program that changes to one.
    """
    if os.geteuid() != 0:
        return None
    if shutil.which("setpriv") is None:
        raise GigaganError("root needs setpriv to start PostgreSQL; on Debian: apt-get install util-linux")
    for name in ("postgres", "nobody"):
        try:
            pwd.getpwnam(name)
        except KeyError:
            continue
        return name
    raise GigaganError("PostgreSQL refuses to run as root, and there is no user postgres or nobody; add one")


def as_user(user: str | None, command: list[str]) -> list[str]:
    """`command` as that user, ended with the process that starts it."""
    if user is None:
        return command
    group = pwd.getpwnam(user).pw_gid
    # Changing the user takes the signal away that `gigagan_core.servers` has asked for; setpriv asks again.
    changed = ("--reuid", user, "--regid", str(group), "--clear-groups", "--pdeathsig", "TERM")
    return [shutil.which("setpriv") or "setpriv", *changed, "--", *command]
