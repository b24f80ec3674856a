"""Artifacts that a person wants kept, whatever refers to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gigagan_core.store.artifact import Artifact
from gigagan_core.store.lineage import Key
from gigagan_core.store.runs import known_fields, now
from gigagan_core.store.store import Store

FOLDER = "_pins"


@dataclass(frozen=True)
class Pin:
    """A pinned artifact, since when, and what somebody wrote about it."""

    reference: dict[str, Any]
    since: str
    why: str = ""

    @property
    def key(self) -> Key:
        """The artifact's name."""
        return Key.of(self.reference)


def pin(store: Store, artifact: Artifact, why: str = "") -> Pin:
    """Keep an artifact, and with it all it was made of, until `unpin`."""
    made = Pin(artifact.reference(), now(), why)
    store.write_note(_place(artifact), vars(made))
    return made


def unpin(store: Store, artifact: Artifact) -> bool:
    """Whether there was a pin to remove."""
    return store.remove_note(_place(artifact))


def pins(store: Store) -> list[Pin]:
    """Every pin."""
    return [Pin(**known_fields(Pin, document)) for document in store.read_notes(FOLDER)]


def _place(artifact: Artifact) -> str:
    return f"{FOLDER}/{artifact.stage}-{artifact.fingerprint}-{artifact.attempt}.json"
