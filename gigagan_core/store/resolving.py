"""An artifact by the words of a person: a fingerprint, a unique prefix of one, a path, or `latest`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from gigagan_core.errors import GigaganError
from gigagan_core.store.artifact import MANIFEST, Artifact

if TYPE_CHECKING:
    from gigagan_core.store.store import Store

SHORTEST_PREFIX = 4
"""Digits from which an artifact of another kind is taken for what was meant."""


def resolve(
    store: Store,
    reference: str,
    kinds: tuple[str, ...],
    where: Callable[[Artifact], bool] = lambda artifact: True,
    what: str = "artifact",
) -> Artifact:
    """The artifact of these words; an earlier attempt than the newest is PREFIX.ATTEMPT.

    kinds: what the caller can use; empty: anything. where: a further condition, e.g. the role of an encoder.
    what: how the sentence calls it. Raises GigaganError when there is none, or more than one.
    """
    if os.sep in reference or reference.startswith("."):
        return _at(reference, kinds, what)
    needed = f" ({' or '.join(kinds)})" if kinds else ""
    if reference == "latest":
        usable = [artifact for artifact in store.artifacts(kinds=kinds) if where(artifact)]
        if not usable:
            raise GigaganError(f"store {store.uri} has no {what}{needed}; run the stage that makes one first")
        return usable[-1]
    prefix, _, attempt = reference.partition(".")
    named = store.with_prefix(prefix, int(attempt) if attempt.isdigit() else None)
    matches = [each for each in named if (not kinds or each.kind in kinds) and where(each)]
    fingerprints = {artifact.fingerprint for artifact in matches}
    if len(fingerprints) == 1:
        return max(matches, key=lambda artifact: artifact.attempt)
    if fingerprints:
        listed = ", ".join(sorted(fingerprint[:16] for fingerprint in fingerprints))
        raise GigaganError(f"{what} {reference!r} fits several: {listed}; give more digits")
    if named and len(reference) >= SHORTEST_PREFIX:
        raise GigaganError(
            f"{reference!r} is a {named[0].kind} made by {named[0].stage}, and {what} needs "
            f"{' or '.join(kinds)}; `gigagan store ls` lists what there is"
        )
    raise GigaganError(
        f"store {store.uri} has no {what} {reference!r}; `gigagan store ls` lists what there is"
    )


def _at(reference: str, kinds: tuple[str, ...], what: str) -> Artifact:
    folder = Path(reference).expanduser().absolute()
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        artifact = Artifact.from_manifest(manifest, str(folder))
    except FileNotFoundError:
        raise GigaganError(f"{what} {reference}: no {MANIFEST} there; give an artifact's folder") from None
    except (ValueError, KeyError, OSError) as error:
        raise GigaganError(f"{what} {reference}: unreadable {MANIFEST} ({error})") from None
    if kinds and artifact.kind not in kinds:
        raise GigaganError(f"{what} {reference} is a {artifact.kind}; {' or '.join(kinds)} is needed")
    return artifact
