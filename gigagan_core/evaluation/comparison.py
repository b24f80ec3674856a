"""Two reports beside each other: figures that may be compared, figures that may not, settings that differ."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from gigagan_core.evaluation.report_file import Known, StoredReport, labels

_ROLES = ("model", "upsampler", "control", "data", "train", "condition", "judge")


@dataclass(frozen=True)
class Compared:
    """A figure that both reports have. difference: second - first. overlap: of the intervals, None where one has none
    or a number is not finite.

    better: "first" or "second", "equal", "undecided" where the intervals overlap or are missing, or a number is not
    finite.
    """

    name: str
    first: float
    second: float
    difference: float
    first_interval: tuple[float, float] | None
    second_interval: tuple[float, float] | None
    overlap: bool | None
    better: str


@dataclass(frozen=True)
class Difference:
    """A setting, or an input, that differs; None where one report does not have it."""

    name: str
    first: Any
    second: Any


@dataclass(frozen=True)
class Comparison:
    """first, second: what the reports are called. refused: a sentence for each measure that both took and that must not
    be compared. only_first, only_second: names of figures that the other has in no form. cautions: what makes equal
    names less than equal."""

    first: str
    second: str
    figures: list[Compared]
    refused: list[str]
    only_first: list[str]
    only_second: list[str]
    settings: list[Difference]
    cautions: list[str]

    def as_json(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


def compare(first: StoredReport, second: StoredReport) -> Comparison:
    """Every figure of two reports set against the other's.

    Figures are compared where their full names agree, their extractors' weights and the counts of real images: a
    distance depends on extractor, resolution and both counts.
    """
    shared = [name for name in first.figures if name in second.figures]
    other_weights = [name for name in shared if not _same_weights(first.figures[name], second.figures[name])]
    refused = []
    if other_weights:
        known = first.figures[other_weights[0]], second.figures[other_weights[0]]
        refused.append(
            f"{len(other_weights)} figures ({other_weights[0]}, ...) have the same name and other weights of the "
            f"extractor {known[0].parts.extractor} (sha256 {_short(known[0].sha256)} and {_short(known[1].sha256)}): "
            "not compared; judge both models by one extractor"
        )
    same_weights = [name for name in shared if name not in other_weights]
    other_counts = [name for name in same_weights if first.figures[name].real != second.figures[name].real]
    if other_counts:
        refused.append(_other_counts(other_counts, first, second))
    only_first = [name for name in first.figures if name not in second.figures]
    only_second = [name for name in second.figures if name not in first.figures]
    for name in list(only_first):
        twins = [other for other in only_second if _same_measure(name, other, first, second)]
        if twins:
            refused.append(_why_not(first.figures[name], second.figures[twins[0]]))
            only_first.remove(name)
            only_second.remove(twins[0])
    return Comparison(
        *labels(first, second),
        [
            compared(first.figures[name], second.figures[name])
            for name in same_weights
            if name not in other_counts
        ],
        refused,
        only_first,
        only_second,
        _differences(first, second),
        _cautions(first, second),
    )


def compared(first: Known, second: Known) -> Compared:
    """Two figures of one name."""
    difference, overlap = second.value - first.value, None
    numbers = (first.value, second.value, *(first.interval or ()), *(second.interval or ()))
    finite = all(math.isfinite(number) for number in numbers)
    if finite and first.interval and second.interval:
        overlap = first.interval[0] <= second.interval[1] and second.interval[0] <= first.interval[1]
    better = "undecided"
    # the last digits depend on the number of threads
    if finite and math.isclose(first.value, second.value, rel_tol=1e-9):
        better = "equal"
    elif overlap is False:
        better = "second" if (difference < 0) == (first.better == "lower") else "first"
    return Compared(
        first.name,
        first.value,
        second.value,
        difference,
        first.interval,
        second.interval,
        overlap,
        better,
    )


def _same_weights(first: Known, second: Known) -> bool:
    return first.sha256 == second.sha256


def _same_measure(name: str, other: str, first: StoredReport, second: StoredReport) -> bool:
    one, two = first.figures[name].parts, second.figures[other].parts
    return (one.baseline, one.metric) == (two.baseline, two.metric)


def _why_not(first: Known, second: Known) -> str:
    differing = [
        f"{what} ({one or 'none'} and {two or 'none'})"
        for what, one, two in zip(
            ("extractor", "resolution", "count"), first.parts[2:], second.parts[2:], strict=True
        )
        if one != two
    ]
    return f"{first.name} and {second.name} differ in {' and '.join(differing)}: not compared"


def _differences(first: StoredReport, second: StoredReport) -> list[Difference]:
    """Settings of the evaluations, then the inputs by role, then the settings that made these."""
    from gigagan_core.config.base import flat

    one, two = flat(first.document["settings"]), flat(second.document["settings"])
    found = _unequal("evaluate", one, two)
    for role in _ROLES:
        lines = [_line(report, role) for report in (first, second)]
        digests = [str(line.get("fingerprint", ""))[:12] or None for line in lines]
        if digests[0] != digests[1]:
            found.append(Difference(role, *digests))
        found += _unequal(role, *(line.get("settings", {}) for line in lines))
    return found


def _unequal(place: str, first: dict[str, Any], second: dict[str, Any]) -> list[Difference]:
    return [
        Difference(f"{place}: {key}", first.get(key), second.get(key))
        for key in dict.fromkeys([*first, *second])
        if first.get(key) != second.get(key)
    ]


def _line(report: StoredReport, role: str) -> dict[str, Any]:
    return next((line for line in report.document["lineage"] if line["role"] == role), {})


def _cautions(first: StoredReport, second: StoredReport) -> list[str]:
    cautions = []
    if first.digest("data") != second.digest("data"):
        cautions.append(
            "The held-out images are not the same: differences between the figures are of images too."
        )
    if first.document["settings"].get("seed") != second.document["settings"].get("seed"):
        cautions.append("The seeds differ, and so do latents and the images drawn.")
    return cautions


def _other_counts(names: list[str], first: StoredReport, second: StoredReport) -> str:
    known = (report.figures[names[0]].real for report in (first, second))
    counts = " and ".join("unknown" if count is None else str(count) for count in known)
    return (
        f"{len(names)} figures ({names[0]}, ...) have the same name and other counts of real images ({counts}): not "
        "compared; judge both models by the same real images"
    )


def _short(sha256: str | None) -> str:
    return (sha256 or "unknown")[:12]
