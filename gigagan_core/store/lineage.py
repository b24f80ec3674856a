"""Which artifacts were made of which, by their manifests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from gigagan_core.store.artifact import Artifact


def inputs_of(artifact: Artifact) -> Iterator[tuple[str, str]]:
    """(stage, output digest) of every artifact that this one was made of, directly."""
    for reference in _flat(artifact.manifest.get("inputs", {}).values()):
        if isinstance(reference, dict) and "output_digest" in reference:
            yield reference["stage"], reference["output_digest"]


def made_of(artifacts: Iterable[Artifact], sources: Iterable[Artifact]) -> list[Artifact]:
    """Those of `artifacts` that were made of any of `sources`, directly or through others, in their order."""
    artifacts = list(artifacts)
    known = {(source.stage, source.output_digest) for source in sources}
    found: list[Artifact] = []
    more = True
    while more:
        fresh = [each for each in artifacts if each not in found and known.intersection(inputs_of(each))]
        known |= {(each.stage, each.output_digest) for each in fresh}
        found += fresh
        more = bool(fresh)
    return [each for each in artifacts if each in found]


def _flat(references: Iterable[Any]) -> Iterator[Any]:
    for reference in references:
        if isinstance(reference, (list, tuple)):
            yield from _flat(reference)
        else:
            yield reference
