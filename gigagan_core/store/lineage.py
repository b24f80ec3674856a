"""Which artifacts were made of which, by their manifests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gigagan_core.store.artifact import Artifact, Input


@dataclass(frozen=True)
class Key:
    """An artifact by name. attempt: None stands for every attempt of the fingerprint."""

    stage: str
    fingerprint: str
    attempt: int | None = None

    @classmethod
    def of(cls, reference: Artifact | Mapping[str, Any]) -> Key:
        """Of an artifact, or of a manifest's reference to one."""
        if isinstance(reference, Artifact):
            return cls(reference.stage, reference.fingerprint, reference.attempt)
        return cls(reference["stage"], reference["fingerprint"], reference.get("attempt"))


def references_of(manifest: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(role, reference) of everything a manifest names as an input: artifacts, and files from outside.

    A shard set names its partitions in its notes.
    """
    for role, value in manifest.get("inputs", {}).items():
        for reference in _flat([value]):
            if isinstance(reference, Mapping):
                yield role, reference
    for fingerprint in manifest.get("notes", {}).get("partitions", ()):
        yield "partitions", {"stage": "download", "kind": "partition", "fingerprint": fingerprint}


def artifacts_in(inputs: Mapping[str, Input]) -> list[Artifact]:
    """The artifacts among a stage's inputs, mixtures taken apart."""
    return [each for each in _flat(inputs.values()) if isinstance(each, Artifact)]


def inputs_of(artifact: Artifact) -> Iterator[tuple[str, str]]:
    """(stage, output digest) of every artifact that this one was made of, directly."""
    for _, reference in references_of(artifact.manifest):
        if "output_digest" in reference:
            yield reference["stage"], reference["output_digest"]


def made_of(artifacts: Iterable[Artifact], sources: Iterable[Artifact]) -> list[Artifact]:
    """Those of `artifacts` that were made of any of `sources`, directly or through others, in their order."""
    artifacts = list(artifacts)
    known = {(source.stage, digest) for source in sources for digest in source.digests}
    found: list[Artifact] = []
    more = True
    while more:
        fresh = [each for each in artifacts if each not in found and known.intersection(inputs_of(each))]
        known |= {(each.stage, digest) for each in fresh for digest in each.digests}
        found += fresh
        more = bool(fresh)
    return [each for each in artifacts if each in found]


class Lineage:
    """The artifacts of a store by name, with what each was made of and what was made of it."""

    def __init__(self, artifacts: Iterable[Artifact]):
        self.artifacts = list(artifacts)
        self._attempts: dict[Key, list[Artifact]] = {}
        for each in self.artifacts:
            self._attempts.setdefault(Key(each.stage, each.fingerprint), []).append(each)
        self._children: dict[Key, list[tuple[str, Artifact]]] = {}
        for each in self.artifacts:
            for role, parent in self.parents(each):
                self._children.setdefault(Key.of(parent), []).append((role, each))

    def named(self, key: Key) -> list[Artifact]:
        """The artifacts of a name that are here."""
        attempts = self._attempts.get(Key(key.stage, key.fingerprint), [])
        return [each for each in attempts if key.attempt in (None, each.attempt)]

    def parents(self, artifact: Artifact) -> list[tuple[str, Artifact]]:
        """(role, artifact) of what one was made of, directly."""
        return [
            (role, parent)
            for role, reference in references_of(artifact.manifest)
            if "fingerprint" in reference
            for parent in self.named(Key.of(reference))
        ]

    def children(self, artifact: Artifact) -> list[tuple[str, Artifact]]:
        """(role, artifact) of what was made of one, directly."""
        return self._children.get(Key.of(artifact), [])

    def reachable(self, roots: Iterable[Artifact]) -> set[Key]:
        """The names of artifacts and of all they were made of."""
        found: set[Key] = set()
        waiting = list(roots)
        while waiting:
            each = waiting.pop()
            if Key.of(each) not in found:
                found.add(Key.of(each))
                waiting += [parent for _, parent in self.parents(each)]
        return found


def _flat(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from _flat(value)
        else:
            yield value
