"""Where an asset is fetched from: its published address, or a mirror's."""

from __future__ import annotations

import base64
import urllib.parse
from dataclasses import dataclass, field

from gigagan_core.assets.catalogue import Asset
from gigagan_core.errors import GigaganError
from gigagan_core.text import without_password


@dataclass(frozen=True)
class Address:
    """shown: as it may be printed and recorded, without name, password and query, which may be a signature.

    url: what is asked for, without name and password. authorization: value of the header of that name, or None.
    """

    shown: str
    url: str = field(repr=False)
    authorization: str | None = field(default=None, repr=False)


def address_of(asset: Asset, mirror: str | None) -> Address:
    """Where an asset is fetched from.

    mirror: address below which files lie under the catalogue's file names. A name and a password before its host are
    sent as basic authentication; a query, such as a signature, stands behind the file's name.
    Raises GigaganError for a mirror that is no HTTP address.
    """
    if mirror is None:
        return Address(asset.address, asset.address)
    parts = _split(mirror)
    host, path = parts.netloc.rpartition("@")[2], f"{parts.path.rstrip('/')}/{urllib.parse.quote(asset.file)}"
    shown, url = (
        urllib.parse.urlunsplit((parts.scheme, host, path, query, "")) for query in ("", parts.query)
    )
    return Address(shown, url, _authorization(parts))


def _split(mirror: str) -> urllib.parse.SplitResult:
    try:
        parts = urllib.parse.urlsplit(mirror)
        # reading the port checks it; other characters would be refused when the request is sent
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        usable = usable and mirror.isascii() and mirror.isprintable() and not {" ", "#"} & set(mirror)
    except ValueError:
        usable = False
    if not usable:
        # where it is not even known which part is the password, all that stands before the last @ may be
        harmless = without_password(mirror).partition("?")[0].rpartition("@")[2]
        raise GigaganError(
            f"--mirror {harmless} is no http or https address; give one below which the files lie"
        )
    return parts


def _authorization(parts: urllib.parse.SplitResult) -> str | None:
    if not (parts.username or parts.password):
        return None
    pair = ":".join(urllib.parse.unquote(part or "") for part in (parts.username, parts.password))
    return f"Basic {base64.b64encode(pair.encode()).decode()}"
