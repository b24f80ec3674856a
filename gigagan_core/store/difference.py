"""What differs between two artifacts of one stage: why the second was not the first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from gigagan_core.store.lineage import references_of

What = Literal["setting", "input", "code", "attempt", "package"]
_ABSENT = "-"
_DIGITS = 12
_SHOWN = 3


@dataclass(frozen=True)
class Difference:
    """what: the kind of thing. name: dotted setting, role of an input, module, package. before, after: as text."""

    what: What
    name: str
    before: str
    after: str

    def __str__(self) -> str:
        if self.what == "code":
            added, gone = self.before == _ABSENT, self.after == _ABSENT
            return f"code {self.name} {'is new' if added else 'is gone' if gone else 'changed'}"
        return f"{self.what} {self.name} {self.before} -> {self.after}"


def decisive(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Difference]:
    """Of two manifests, or of one and what is to be made: everything that decides the fingerprint.

    Where an input that is an artifact differs, its reference says from which to which.
    """
    one, other = before["parts"], after["parts"]
    found = _compare("setting", _flat(one["settings"]), _flat(other["settings"]))
    named = _inputs(before), _inputs(after)
    for name in sorted({*one["inputs"], *other["inputs"]}):
        if one["inputs"].get(name) != other["inputs"].get(name):
            found.append(_input(name, *(each.get(name, []) for each in named)))
    if one["code"] != other["code"]:
        found += _code(before, after)
    return found


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Difference]:
    """`decisive`, and what is part of no fingerprint: operational settings, attempts, package versions."""
    found = decisive(before, after)
    known = {each.name for each in found if each.what == "setting"}
    operational = _compare("setting", _flat(before["settings"]), _flat(after["settings"]))
    found += [each for each in operational if each.name not in known]
    if before["attempt"] != after["attempt"]:
        found.append(Difference("attempt", "", str(before["attempt"]), str(after["attempt"])))
    return found + _compare("package", before.get("packages", {}), after.get("packages", {}))


def _code(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Difference]:
    modules = before.get("code_modules"), after.get("code_modules")
    if all(isinstance(each, Mapping) for each in modules):
        found = _compare("code", *modules)
        if found:
            return found
    return [Difference("code", "(which module is not recorded)", "one version", "another")]


def _compare(what: What, before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Difference]:
    return [
        Difference(what, name, _text(before, name), _text(after, name))
        for name in sorted({*before, *after})
        if before.get(name, _ABSENT) != after.get(name, _ABSENT)
    ]


def _text(values: Mapping[str, Any], name: str) -> str:
    return str(values[name])[:80] if name in values else _ABSENT


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    flattened: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flattened |= _flat(value, f"{prefix}{key}.")
        else:
            flattened[f"{prefix}{key}"] = value
    return flattened


def _input(name: str, before: list[str], after: list[str]) -> Difference:
    """What went and what came, of an input that may be many files."""
    gone, new = [each for each in before if each not in after], [each for each in after if each not in before]
    if not gone and not new:
        return Difference("input", name, "one order or weighting", "another")
    return Difference("input", name, _some(gone), _some(new))


def _some(words: list[str]) -> str:
    more = f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else ""
    return (", ".join(words[:_SHOWN]) or _ABSENT) + more


def _inputs(manifest: Mapping[str, Any]) -> dict[str, list[str]]:
    """Each input in a few words: names, and short digests, which change where the contents do."""
    found: dict[str, list[str]] = {}
    for role, reference in references_of(manifest):
        digest = reference.get("output_digest") or reference.get("sha256") or reference["fingerprint"]
        name = reference.get("kind") or reference["uri"].rpartition("/")[2]
        found.setdefault(role, []).append(f"{name} {digest[:_DIGITS]}")
    return found
