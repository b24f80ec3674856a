"""What a person may mistype in a URI without a file system noticing."""

from __future__ import annotations

import os
import re

from gigagan_core.errors import GigaganError

_WITHOUT_SLASHES = re.compile(r"([a-z][a-z0-9+.-]*):/?(?![/:])(.*)", re.IGNORECASE)


def require_slashes(uri: str, what: str) -> None:
    """Refuse ``s3:/bucket/folder``, which fsspec takes for a folder of this machine that is called ``s3:``.

    what: how the sentence calls it. Raises GigaganError, with the URI that was meant; a file or folder that really has
    such a name is left alone.
    """
    import fsspec

    found = _WITHOUT_SLASHES.fullmatch(uri)
    if found and found[1].lower() in fsspec.available_protocols() and not os.path.exists(uri):
        raise GigaganError(
            f"{what} {uri} has no // behind {found[1]}:; write {found[1].lower()}://{found[2]}, or ./{uri} for a "
            "folder of this machine"
        )
