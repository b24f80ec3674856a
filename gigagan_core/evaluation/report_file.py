"""Reading a report back: which one is meant, its figures, and what it says of itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gigagan_core.errors import GigaganError
from gigagan_core.evaluation import names
from gigagan_core.store.names import is_folder_name

FILE = "report.json"
SCHEMA, SCHEMA_VERSION = "gigagan-report", 2
_WHOLE, _DIGITS = 64, 12
"""Characters of a fingerprint, and those that are shown of it."""


@dataclass(frozen=True)
class Known:
    """A figure of a report.

    parts: what its name says. metric: its measure, as the report has it. interval: (low, high), or None where it has
    none. sha256: of its extractor's weights. real: real images that took part, None where the report does not say.
    cautions: sentences to read before quoting it.
    """

    name: str
    parts: names.Parts
    metric: str
    value: float
    better: str
    interval: tuple[float, float] | None
    sha256: str | None
    real: int | None = None
    cautions: tuple[str, ...] = ()


@dataclass(frozen=True)
class StoredReport:
    """place: where it was read. figures: by full name. cautions: what must be said with every figure. document: all of
    `report.json`."""

    place: str
    figures: Mapping[str, Known]
    cautions: tuple[str, ...]
    document: Mapping[str, Any]

    @property
    def label(self) -> str:
        """The folder's name, or the file's where it is not called `report.json`; a fingerprint short."""
        return _parts(self.place)[-1]

    def digest(self, role: str) -> str | None:
        """The output digest of what had this role ("model", "upsampler", "data"), or None where nothing had."""
        lines = [line for line in self.document.get("lineage", ()) if line.get("role") == role]
        return (lines[0].get("output_digest") or None) if lines else None


def read_report(path: Path) -> StoredReport:
    """A `report.json`, or the one in a folder. Raises GigaganError for what is none, or of another schema version."""
    file = path / FILE if path.is_dir() else path
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise GigaganError(f"{path}: no {FILE} there; give a report's folder or file") from None
    except (OSError, ValueError) as error:
        raise GigaganError(f"{file}: unreadable ({error}); evaluate again") from error
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise GigaganError(f"{file} is no {SCHEMA}; give the {FILE} that `gigagan evaluate` wrote")
    if document.get("schema_version") != SCHEMA_VERSION:
        raise GigaganError(
            f"{file} has schema version {document.get('schema_version')} and this code reads {SCHEMA_VERSION}; "
            "evaluate that model again"
        )
    try:
        missing = {"figures", "settings", "lineage"} - document.keys()
        if missing:
            raise KeyError(*sorted(missing))
        if not isinstance(document["settings"], dict) or not _is_lineage(document["lineage"]):
            raise TypeError("settings are no object, or lineage is no list of roles")
        weights = _weights(document)
        figures = {name: _known(name, figure, weights) for name, figure in document["figures"].items()}
        cautions = _sentences(document)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise GigaganError(f"{file}: damaged figures ({error!r}); evaluate again") from error
    return StoredReport(str(file.absolute()), figures, cautions, document)


def labels(first: StoredReport, second: StoredReport) -> tuple[str, str]:
    """What two reports are called beside each other: the shortest ends of their places that differ.

    "first" and "second" where none do.
    """
    places = [_parts(each.place) for each in (first, second)]
    for length in range(1, max(map(len, places)) + 1):
        one, two = ("/".join(parts[-length:]) for parts in places)
        if one != two:
            return one, two
    return "first", "second"


def _parts(place: str) -> list[str]:
    """A path's parts without `report.json`, fingerprints short."""
    path = Path(place)
    parts = path.parent.parts if path.name == FILE else path.parts
    return [part[:_DIGITS] + part[_WHOLE:] if is_folder_name(part) else part for part in parts]


def _is_lineage(lines: Any) -> bool:
    """Whether these are lines of `lineage.trace`, as far as a reader looks at them."""
    return isinstance(lines, list) and all(
        isinstance(line, dict)
        and isinstance(line.get("role"), str)
        and isinstance(line.get("settings", {}), dict)
        for line in lines
    )


def _sentences(document: Mapping[str, Any]) -> tuple[str, ...]:
    """The cautions of a report, or of one figure."""
    found = document.get("cautions", [])
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise TypeError("cautions are no list of sentences")
    return tuple(found)


def _weights(document: Mapping[str, Any]) -> dict[str, str]:
    """sha256 by extractor: of the judge, or of the outside networks of a protocol (`how`)."""
    networks = [
        document.get("encoders", {}).get("judge") or {},
        *document.get("how", {}).get("extractors", ()),
    ]
    return {names.extractor_name(each["name"]): each["sha256"] for each in networks if each.get("sha256")}


def _known(name: str, figure: Mapping[str, Any], weights: Mapping[str, str]) -> Known:
    interval, parts = figure["interval"], names.parse(name)
    return Known(
        name=name,
        parts=parts,
        metric=str(figure.get("metric", parts.metric)),
        value=float(figure["value"]),
        better=figure["better"],
        interval=(float(interval["low"]), float(interval["high"])) if interval else None,
        sha256=weights.get(names.extractor_name(figure["extractor"])) if figure["extractor"] else None,
        real=figure.get("images", {}).get("real"),
        cautions=_sentences(figure),
    )
