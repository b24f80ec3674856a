"""The way from a report to a promoted model: requirements, and the alias that moves where they hold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gigagan_core.evaluation.gate import Verdict
    from gigagan_core.evaluation.report_file import StoredReport


def promote_judged(
    report: StoredReport,
    name: str,
    verdicts: Sequence[Verdict],
    tracking_uri: str | None = None,
    only_check: bool = False,
) -> dict[str, Any]:
    """Make the model that a report judged the `champion` of a registered model; all verdicts must hold.

    tracking_uri: default: this home's. only_check: nothing moves. Returns what `registry.promote` does, and raises as
    it does.
    """
    from gigagan_core import environment
    from gigagan_core.tracking import registry

    if not verdicts or not all(verdict.holds for verdict in verdicts):
        raise ValueError("a model is promoted by a gate that it has passed")
    judged = {role: report.digest(role) for role in ("model", "upsampler")}
    tags = {
        "gigagan.promoted_by": report.place,
        "gigagan.requirements": ", ".join(verdict.requirement for verdict in verdicts),
    }
    return registry.promote(tracking_uri or environment.mlflow_uri(), name, judged, tags, only_check)


def checked(require: Sequence[str] | None, promote: str | None) -> list[str]:
    """The requirements, before any work starts. Raises GigaganError where one is misspelt, or guards nothing."""
    from gigagan_core.errors import GigaganError
    from gigagan_core.evaluation import gate

    for text in require or ():
        gate.parse(text)
    if promote and not require:
        raise GigaganError(f"promote {promote} needs at least one requirement; give require, such as fd<0.2")
    return list(require or ())


def pass_gate(
    path: Path,
    require: Sequence[str],
    strict: bool,
    promote: Sequence[str] = (),
    despite_cautions: bool = False,
) -> list[str]:
    """What a report's figures were and what it cautions, as sentences, where all requirements hold; the judged models
    are promoted then.

    path: of the report. promote: registered models, all of them or none. despite_cautions: as `gate.require` takes it.
    Raises GigaganError with one sentence for each requirement that does not hold and each caution that shuts the gate,
    and where one of the models cannot be promoted.
    """
    from gigagan_core.evaluation import gate
    from gigagan_core.evaluation.report_file import read_report

    report = read_report(path)
    verdicts = gate.require(report, require, strict, despite_cautions)
    sentences = [verdict.sentence for verdict in verdicts]
    sentences += [f"caution: {sentence}" for sentence in gate.cautions(report, verdicts)]
    for name in promote:
        promote_judged(report, name, verdicts, only_check=True)
    return sentences + [promotion(promote_judged(report, name, verdicts)) for name in promote]


def promotion(promoted: dict[str, Any]) -> str:
    """What `promote_judged` did, as a sentence."""
    state = "is now" if promoted["moved"] else "was already"
    return f"version {promoted['version']} of {promoted['name']} {state} the champion"
