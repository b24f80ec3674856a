"""Files from outside that a preset needs: there, whole, and the right ones."""

from __future__ import annotations

from collections.abc import Iterator

from gigagan_core.assets.catalogue import asset
from gigagan_core.assets.folder import AssetFolder
from gigagan_core.doctor.finding import Finding, fail, ok, warn
from gigagan_core.doctor.request import Request
from gigagan_core.errors import GigaganError


def weights(request: Request, folder: AssetFolder | None = None) -> Iterator[Finding]:
    """Every asset of the preset; each is read whole for its sum."""
    folder = folder or AssetFolder()
    needed, usual = request.assets(), request.usual_assets()
    if not needed and not usual:
        yield ok("weights", f"{request.preset} needs no file from outside")
    for name, option in usual.items():
        if folder.state(asset(name)).state != "fetched":
            yield warn(
                f"weights {name}",
                f"not in {folder.root}; {request.preset} is usually trained with it",
                f"gigagan assets fetch {name}, or name another file with {option}",
            )
        else:
            needed.append(name)
    for name in needed:
        each = asset(name)
        state = folder.state(each).state
        if state != "fetched":
            yield fail(f"weights {name}", f"{state} in {folder.root}", f"gigagan assets fetch {name}")
            continue
        try:
            sha256 = folder.check(each, folder.file(each))
        except GigaganError as error:
            yield fail(f"weights {name}", str(error), f"delete the file; gigagan assets fetch {name}")
        else:
            yield ok(f"weights {name}", f"sha256 {sha256[:12]} as it should be")
