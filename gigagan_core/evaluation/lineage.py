"""From an artifact back to everything it was made of, as lines of a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gigagan_core.store.artifact import Artifact
    from gigagan_core.store.store import Store

OUTSIDE, ARROW = "outside file", " ← "
"""The stage of a line that is no artifact; what stands in a role between a thing and what it was made of."""


def trace(inputs: Mapping[str, Any], store: Store) -> list[dict[str, Any]]:
    """One line an artifact, the inputs first, then what they were made of, each artifact once.

    inputs: by role, `Artifact`, `ExternalFile`, a list of them, or None. Every line has role, stage,
    fingerprint, made, git_commit, mlflow_run (text) and settings (flat dict). An ancestor that is no longer
    in the store, or a file from outside, is listed with what is known of it.
    """
    from gigagan_core.store.artifact import Artifact

    lines: list[dict[str, Any]] = []
    seen: set[str] = set()
    waiting = [(role, item) for role, value in inputs.items() for item in _items(value)]
    while waiting:
        role, item = waiting.pop(0)
        if isinstance(item, Artifact):
            reference, artifact = item.reference(), item
        else:
            reference = item.reference() if hasattr(item, "reference") else item
            known = "stage" in reference and "fingerprint" in reference
            artifact = store.find(reference["stage"], reference["fingerprint"]) if known else None
        key = reference.get("output_digest") or reference.get("sha256") or str(reference)
        if key in seen:
            continue
        seen.add(key)
        lines.append(_line(role, reference, artifact))
        if artifact is not None:
            ancestors = artifact.manifest.get("inputs", {})
            waiting += [
                (f"{role}{ARROW}{name}", item) for name, value in ancestors.items() for item in _items(value)
            ]
    return lines


def attribution(inputs: Mapping[str, Any]) -> list[str]:
    """Licences and sources that the inputs' manifests name (``licence``, ``attribution``), each once."""
    from gigagan_core.store.artifact import Artifact

    lines = []
    for value in inputs.values():
        for item in _items(value):
            if isinstance(item, Artifact):
                parts = [
                    str(item.notes[key])
                    for key in ("attribution", "licence", "license")
                    if item.notes.get(key)
                ]
                if parts:
                    lines.append(" · ".join(parts))
    return list(dict.fromkeys(lines))


def _items(value: Any) -> list[Any]:
    """What an input holds: one thing, several, or pairs of one and its weight in a mixture."""
    if isinstance(value, (list, tuple)):
        return [item for part in value for item in _items(part)]
    return [] if value is None or isinstance(value, (int, float)) else [value]


def _line(role: str, reference: Mapping[str, Any], artifact: Artifact | None) -> dict[str, Any]:
    from gigagan_core.config.base import flat

    manifest = artifact.manifest if artifact is not None else {}
    return {
        "role": role,
        "stage": str(manifest.get("label") or reference.get("stage") or OUTSIDE),
        "fingerprint": str(reference.get("fingerprint") or reference.get("sha256") or ""),
        "output_digest": str(reference.get("output_digest") or reference.get("sha256") or ""),
        "made": str(manifest.get("created", ""))[:16].replace("T", " "),
        "git_commit": str(manifest.get("git_commit") or "")[:12],
        "mlflow_run": str((manifest.get("mlflow") or {}).get("run_id") or ""),
        "settings": flat(manifest.get("settings", {})),
    }
