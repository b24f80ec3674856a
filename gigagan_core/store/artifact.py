"""What passes between stages: an artifact in the store, or a file from outside it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
MANIFEST_SCHEMA = 1
LOG = "stage.log"
"""What the stage said while it worked, beside the artifact's files and none of them: two equal runs differ in it."""
KIND_OF_STAGE = {"download": "partition", "score": "scores", "embed": "embeddings"}
"""Stages with one kind and many artifacts: who looks for another kind reads none of their manifests."""

STAGES = frozenset(
    (
        *KIND_OF_STAGE,
        "curate",
        "evaluate",
        "import",
        "import-model",
        "ingest",
        "tradeoff",
        "train-base",
        "train-encoder",
        "train-upsampler",
    )
)
"""Every stage of this package: only below these does `garbage` remove a folder that has no manifest."""


@dataclass(frozen=True)
class Artifact:
    """A committed result of a stage.

    stage: the stage that made it. kind: what it can be used as ("shard-set", "partition", "encoder",
    "base-model", "upsampler-model", "report", "tradeoff", "scores", "embeddings").
    fingerprint: sha256 of what decided it; attempt: 1, or more after `--force`.
    output_digest: sha256 of what came out; the fingerprints of later stages are made of it.
    uri: the folder that holds it. manifest: the whole record, JSON-able.
    """

    stage: str
    kind: str
    fingerprint: str
    attempt: int
    output_digest: str
    uri: str
    manifest: dict[str, Any] = field(compare=False, hash=False, repr=False)

    @property
    def path(self) -> Path:
        """The local folder with the files; fetched into the cache first where the store is remote."""
        from gigagan_core.store.cache import local_folder

        return local_folder(self)

    @property
    def short(self) -> str:
        """The fingerprint's first 12 digits: enough to type, and unique in practice."""
        return self.fingerprint[:12]

    @property
    def bytes(self) -> int:
        """Of its files, as the manifest counts them; links count whole."""
        return sum(entry["bytes"] for entry in self.manifest.get("files", {}).values())

    @property
    def label(self) -> str:
        """How the run that made it called it: the stage, with the role where it has one."""
        return str(self.manifest.get("label", self.stage))

    @property
    def digests(self) -> frozenset[str]:
        """The output digest, and those it had before something was removed: earlier artifacts name those."""
        return frozenset([self.output_digest, *self.manifest.get("former_digests", ())])

    @property
    def summary(self) -> dict[str, float]:
        """The stage's figures."""
        return dict(self.manifest.get("summary", {}))

    @property
    def notes(self) -> dict[str, Any]:
        """Free facts: licence, attribution, role of an encoder."""
        return dict(self.manifest.get("notes", {}))

    def reference(self) -> dict[str, Any]:
        """How another manifest names this artifact."""
        return {
            "stage": self.stage,
            "kind": self.kind,
            "fingerprint": self.fingerprint,
            "attempt": self.attempt,
            "output_digest": self.output_digest,
        }

    @classmethod
    def from_manifest(cls, manifest: dict[str, Any], uri: str) -> Artifact:
        """The artifact that a folder's manifest describes."""
        return cls(
            stage=manifest["stage"],
            kind=manifest["kind"],
            fingerprint=manifest["fingerprint"],
            attempt=manifest["attempt"],
            output_digest=manifest["output_digest"],
            uri=uri,
            manifest=manifest,
        )


@dataclass(frozen=True)
class ExternalFile:
    """A file from outside the store, known by what is in it.

    uri: where it was read; not part of any fingerprint. sha256: of its bytes (hex). read_as: the architecture or
    backbone that weights are put into, where the file does not say it: they are another network in another one.
    """

    uri: str
    sha256: str
    read_as: str | None = field(default=None, kw_only=True)

    @property
    def digest(self) -> str:
        """What it contributes to a fingerprint."""
        return self.sha256 if self.read_as is None else f"{self.read_as}:{self.sha256}"

    def reference(self) -> dict[str, Any]:
        """How a manifest names this file."""
        named = {} if self.read_as is None else {"read_as": self.read_as}
        return {"uri": self.uri, "sha256": self.sha256, **named}


@dataclass(frozen=True)
class ExternalTable(ExternalFile):
    """A table of URLs and captions; rows: their number where it is known."""

    rows: int | None = None


Input = Artifact | ExternalFile | list["Artifact | ExternalFile | tuple[Artifact, float]"] | None
"""What a stage is given: one thing, several, shard sets with their weights in a mixture, or nothing."""


def digest_of(value: Input) -> Any:
    """What an input contributes to a fingerprint: output digests and file sums, never places."""
    if isinstance(value, Artifact):
        return value.output_digest
    if isinstance(value, ExternalFile):
        return value.digest
    if isinstance(value, (list, tuple)):
        return [digest_of(item) for item in value]
    return value


def reference_of(value: Input) -> Any:
    """How a manifest names an input."""
    if isinstance(value, (Artifact, ExternalFile)):
        return value.reference()
    if isinstance(value, (list, tuple)):
        return [reference_of(item) for item in value]
    return value
