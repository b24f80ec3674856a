"""Two reports beside each other: figures that may be compared, figures that may not, settings that differ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from gigagan_core.evaluation import judged_on
from gigagan_core.evaluation.lineage import ARROW
from gigagan_core.evaluation.report_file import Known, StoredReport, labels

_ROLES = ("model", "upsampler", "control", "data", "train", "condition", "judge")
"""The order of the inputs; those that only some reports have, such as prompts and assets, come after."""


@dataclass(frozen=True)
class Compared:
    """A figure that both reports have. difference: second - first. overlap: of the intervals, None where one has none
    or a number is not finite.

    better: "first" or "second", "equal", "undecided" where the intervals overlap or are missing, a number is not
    finite, or the held-out images are not the same.
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
    names less than equal. first_cautions, second_cautions: the reports' own."""

    first: str
    second: str
    figures: list[Compared]
    refused: list[str]
    only_first: list[str]
    only_second: list[str]
    settings: list[Difference]
    cautions: list[str]
    first_cautions: list[str]
    second_cautions: list[str]

    def as_json(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


def compare(first: StoredReport, second: StoredReport) -> Comparison:
    """Every figure of two reports set against the other's.

    Figures are compared where their full names agree, their extractors' weights, the counts of real images, and what
    `judged_on` looks at: a distance depends on extractor, resolution, both counts, captions and real images.
    """
    shared = [name for name in first.figures if name in second.figures]
    comparable, refused = _may_be_compared(shared, first, second)
    only_first = [name for name in first.figures if name not in second.figures]
    only_second = [name for name in second.figures if name not in first.figures]
    for name in list(only_first):
        twins = [other for other in only_second if _same_measure(name, other, first, second)]
        if twins:
            refused.append(_why_not(first.figures[name], second.figures[twins[0]]))
            only_first.remove(name)
            only_second.remove(twins[0])
    decides = judged_on.same_held_out(first, second)
    return Comparison(
        *labels(first, second),
        [compared(first.figures[name], second.figures[name], decides) for name in comparable],
        refused,
        only_first,
        only_second,
        _differences(first, second),
        judged_on.cautions(first, second),
        list(first.cautions),
        list(second.cautions),
    )


def compared(first: Known, second: Known, decides: bool = True) -> Compared:
    """Two figures of one name. decides: whether one may be called better."""
    difference, overlap = second.value - first.value, None
    numbers = (first.value, second.value, *(first.interval or ()), *(second.interval or ()))
    finite = all(math.isfinite(number) for number in numbers)
    if finite and first.interval and second.interval:
        overlap = first.interval[0] <= second.interval[1] and second.interval[0] <= first.interval[1]
    better = "undecided"
    # the last digits depend on the number of threads
    if finite and math.isclose(first.value, second.value, rel_tol=1e-9):
        better = "equal"
    elif decides and overlap is False:
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


def _may_be_compared(
    shared: list[str], first: StoredReport, second: StoredReport
) -> tuple[list[str], list[str]]:
    """The names of figures that may be compared, and a sentence for each reason why others may not."""
    others = judged_on.others(first, second)
    by_reason: dict[str | None, list[str]] = {None: []}
    for name in shared:
        reason = _other(first.figures[name], second.figures[name], others)
        by_reason.setdefault(reason, []).append(name)
    comparable = by_reason.pop(None)
    return comparable, [
        f"{len(names)} figures ({names[0]}, ...) have the same name and other {reason}"
        for reason, names in by_reason.items()
    ]


def _other(first: Known, second: Known, others: Sequence[judged_on.Other]) -> str | None:
    """What two figures of one name do not have in common, so that they must not be compared; None: nothing."""
    if first.sha256 != second.sha256:
        return (
            f"weights of the extractor {first.parts.extractor} (sha256 {_short(first.sha256)} and "
            f"{_short(second.sha256)}): not compared; judge both models by one extractor"
        )
    if first.real != second.real:
        counts = " and ".join("unknown" if each.real is None else str(each.real) for each in (first, second))
        return f"counts of real images ({counts}): not compared; judge both models by the same real images"
    found = (other for other in others if other.concerns(first))
    return next((f"{other.what}: not compared; {other.mend}" for other in found), None)


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
    """Settings of the evaluations, then the inputs by role, then the settings that made these.

    Of an input that only one report has, or that another stage made, the settings are not set beside each other.
    """
    from gigagan_core.config.base import flat

    one, two = flat(first.document["settings"]), flat(second.document["settings"])
    found = _unequal("evaluate", one, two)
    for role in dict.fromkeys([*_ROLES, *_inputs(first), *_inputs(second)]):
        lines = [_line(report, role) for report in (first, second)]
        digests = [str(line.get("fingerprint", ""))[:12] or None for line in lines]
        if digests[0] != digests[1]:
            found.append(Difference(role, *digests))
        stages = [str(line.get("stage", "")) for line in lines]
        if stages[0].split()[:1] == stages[1].split()[:1]:  # "ingest heldout" is an ingest
            found += _unequal(role, *(line.get("settings", {}) for line in lines))
        elif all(lines):
            found.append(Difference(f"{role}: made by", *stages))
    return found


def _inputs(report: StoredReport) -> list[str]:
    """The roles of what went into the evaluation itself."""
    return [line["role"] for line in report.document["lineage"] if ARROW not in line["role"]]


def _unequal(place: str, first: dict[str, Any], second: dict[str, Any]) -> list[Difference]:
    return [
        Difference(f"{place}: {key}", first.get(key), second.get(key))
        for key in dict.fromkeys([*first, *second])
        if first.get(key) != second.get(key)
    ]


def _line(report: StoredReport, role: str) -> dict[str, Any]:
    return next((line for line in report.document["lineage"] if line["role"] == role), {})


def _short(sha256: str | None) -> str:
    return (sha256 or "unknown")[:12]
