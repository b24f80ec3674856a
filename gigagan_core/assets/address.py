"""Where an asset is fetched from: its published address, or a mirror's."""

from __future__ import annotations

import urllib.parse

from gigagan_core.assets.catalogue import Asset
from gigagan_core.errors import GigaganError


def address_of(asset: Asset, mirror: str | None) -> str:
    """Where an asset is fetched from. Raises GigaganError for a mirror that is no HTTP address."""
    if mirror is None:
        return asset.address
    try:
        parts = urllib.parse.urlsplit(mirror)
        # reading the port checks it; other characters would be refused when the request is sent
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        usable = usable and mirror.isascii() and mirror.isprintable() and " " not in mirror
    except ValueError:
        usable = False
    if not usable:
        raise GigaganError(
            f"--mirror {mirror} is no http or https address; give one below which the files lie"
        )
    return f"{mirror.rstrip('/')}/{urllib.parse.quote(asset.file)}"
