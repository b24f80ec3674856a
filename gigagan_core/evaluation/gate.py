"""A gate: requirements on a report's figures, whether they hold, and which cautions shut it all the same."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from gigagan_core.errors import GigaganError, nearest
from gigagan_core.evaluation.report_file import Known, StoredReport
from gigagan_core.text import plain

_FORM = re.compile(r"\s*([A-Za-z0-9_\-./]+)\s*(<=|>=|<|>)\s*(\S+)\s*")
WHOLE = ("fd", "fid", "clip-score")
"""Measures whose names begin those of others, as fd does fd-infinity: such a word means that measure alone."""
DISQUALIFYING = ("do not quote these figures", "trained on the very images")
"""Words of the cautions that shut the gate: of a rehearsal, and of a model judged by its own training images."""
_LONG = 1000
"""Characters of a caution that are shown."""
_HOLDS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


@dataclass(frozen=True)
class Requirement:
    """What must hold of a figure. text: as it was written. figure: as `resolve` takes it."""

    text: str
    figure: str
    relation: str
    bound: float


@dataclass(frozen=True)
class Verdict:
    """Whether a requirement holds. name: of the figure. measured: what was compared with the bound, in strict mode the
    interval's worse end (None: the figure has no interval). sentence: for people."""

    requirement: str
    name: str
    value: float
    measured: float | None
    bound: float
    holds: bool
    sentence: str

    def as_json(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


def parse(text: str) -> Requirement:
    """``fd<0.2``, ``clip-score >= 0.25``. Raises GigaganError for any other form."""
    match = _FORM.fullmatch(text)
    try:
        bound = float(match[3]) if match else math.nan
    except ValueError:
        bound = math.nan
    if match is None or not math.isfinite(bound):
        raise GigaganError(
            f"requirement {text!r}: write FIGURE, one of < <= > >=, and a number, such as fd<0.2 (in quotes, since a "
            "shell reads < and >)"
        )
    return Requirement(text.strip(), match[1], match[2], bound)


def judge(report: StoredReport, requirements: Sequence[str], strict: bool = False) -> list[Verdict]:
    """A verdict for each requirement, in order.

    strict: compare the worse end of the figure's interval with the bound. Raises GigaganError where there is no
    requirement, one is misspelt, or names no figure or several.
    """
    if not requirements:
        raise GigaganError("a gate without a requirement lets everything through; give one, such as fd<0.2")
    return [_judge(report, parse(text), strict) for text in requirements]


def require(
    report: StoredReport, requirements: Sequence[str], strict: bool = False, despite_cautions: bool = False
) -> list[Verdict]:
    """The verdicts where all hold. Raises GigaganError with one sentence for each that does not.

    despite_cautions: let pass what `refusals` names, which shuts the gate otherwise.
    """
    verdicts = judge(report, requirements, strict)
    failed = [verdict.sentence for verdict in verdicts if not verdict.holds]
    failed += [] if despite_cautions else refusals(report)
    if failed:
        raise GigaganError(f"the gate stays shut: {'; '.join(failed)}")
    return verdicts


def refusals(report: StoredReport) -> list[str]:
    """A sentence for each of a report's cautions by which its figures say nothing of how good the model is."""
    return [
        f"its report cautions: {plain(caution, _LONG).rstrip('.')} (judge the model anew, or let it through with "
        "--despite-cautions, of a flow despite_cautions)"
        for caution in report.cautions
        if any(words in caution for words in DISQUALIFYING)
    ]


def cautions(report: StoredReport, verdicts: Sequence[Verdict]) -> list[str]:
    """What must be read with the verdicts: the cautions of the report, and of the figures that were judged."""
    found = list(report.cautions)
    for verdict in verdicts:
        found += [
            f"{verdict.name}: {caution}"
            for caution in report.figures[verdict.name].cautions
            if not any(caution in said for said in report.cautions)  # a report repeats those of its distances
        ]
    return [plain(caution, _LONG) for caution in dict.fromkeys(found)]


def resolve(report: StoredReport, wanted: str) -> Known:
    """The figure that is meant: by its full name, its measure (the model's own), a unique beginning of its name, or
    its measure as the report has it under `metric` (patch-fd, of patches of any size).

    Raises GigaganError where there is none, or several; a word of WHOLE is never taken for a beginning.
    """
    figures = report.figures
    if wanted in figures:
        return figures[wanted]
    own = [name for name, known in figures.items() if not known.parts.baseline]
    measured = [name for name in own if figures[name].parts.metric == wanted]
    is_measure = wanted.rpartition("/")[2] in WHOLE
    begun = [name for name in figures if name.startswith(f"{wanted}_" if is_measure else wanted)]
    found = measured if len(measured) == 1 else begun
    found = found or [name for name in own if figures[name].metric == wanted]
    if len(found) == 1:
        return figures[found[0]]
    if found:
        raise GigaganError(f"figure {wanted!r} may be {', '.join(found)}; write more of its name")
    known = [name.split("_")[0] for name in figures if "/" not in name]
    raise GigaganError(f"report {report.label} has no figure {wanted!r}; {nearest(wanted, known)}")


def _judge(report: StoredReport, wanted: Requirement, strict: bool) -> Verdict:
    known = resolve(report, wanted.figure)
    measured: float | None = known.value
    if strict:
        worse = 1 if wanted.relation in ("<", "<=") else 0
        measured = known.interval[worse] if known.interval else None
    holds = (
        measured is not None
        and _finite(known.value, measured)
        and _HOLDS[wanted.relation](measured, wanted.bound)
    )
    return Verdict(
        wanted.text,
        known.name,
        known.value,
        measured,
        wanted.bound,
        holds,
        _sentence(known, wanted, measured, holds),
    )


def _sentence(known: Known, wanted: Requirement, measured: float | None, holds: bool) -> str:
    if measured is None:
        return f"{known.name} is {known.value:.6g} without an interval, so {wanted.text} cannot be shown strictly"
    # the same number, also where it is NaN
    which = "" if measured is known.value else f" (the worse end of its interval is {measured:.6g})"
    kind = "" if _finite(known.value, measured) else ", no finite number"
    return f"{known.name} is {known.value:.6g}{which}{kind}, {'as' if holds else 'not as'} {wanted.text} requires"


def _finite(*numbers: float) -> bool:
    return all(map(math.isfinite, numbers))
