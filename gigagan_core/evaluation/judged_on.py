"""What two reports were judged on: by other captions or real images, a figure of equal name is another figure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gigagan_core.evaluation.protocols.request import ASSET
from gigagan_core.evaluation.report_file import Known, StoredReport


@dataclass(frozen=True)
class Other:
    """Something that is not the same in two protocols' reports, so that figures must not be compared.

    what, mend: parts of a sentence. of_distances: it concerns only figures that real images took part in.
    """

    what: str
    mend: str
    of_distances: bool = False

    def concerns(self, known: Known) -> bool:
        """Whether this figure depends on it; one that does not say how many real images it took may."""
        return not self.of_distances or known.real != 0


def others(first: StoredReport, second: StoredReport) -> list[Other]:
    """What stands in the way of comparing: other captions, real images, or preparation of the images.

    Captions of one source that another seed drew, and for upsampling the images they belong to, are none: intervals
    are for the images drawn.
    """
    drawn = _other_draw(first, second)
    found = []
    if not drawn and _differ(first, second, "prompts", "sha256"):
        found.append(
            Other(
                f"captions ({_both(first, second, 'prompts', 'sha256')})",
                "judge both models by the same ones",
            )
        )
    upsampling = {_how(report, "protocol", "task") for report in (first, second)} == {"upsampling"}
    if not (drawn and upsampling) and _differ(first, second, "real", "digest"):
        found.append(
            Other(
                f"real images ({_both(first, second, 'real', 'digest')})",
                "judge both models by the same ones",
                of_distances=True,
            )
        )
    if _differ(first, second, "preparation"):
        prepared = " and ".join(f"{_how(report, 'preparation')}" for report in (first, second))
        found.append(Other(f"preparation of the images ({prepared})", "judge both models by one protocol"))
    return found


def cautions(first: StoredReport, second: StoredReport) -> list[str]:
    """What makes the figures that may be compared less than equal."""
    found = []
    protocols = [report.document.get("protocol") for report in (first, second)]
    if not same_held_out(first, second):
        found.append(
            "The held-out images are not the same: differences between the figures are of images too, so none is "
            "called better."
        )
    if first.document["settings"].get("seed") != second.document["settings"].get("seed"):
        found.append("The seeds differ, and so do latents and the images drawn.")
    if protocols[0] != protocols[1]:
        found.append(
            f"The protocols differ ({protocols[0]} and {protocols[1]}): equal names hide other rules."
        )
    if _other_draw(first, second):
        found.append("The captions are other draws from one source: differences are of captions too.")
    return found


def same_held_out(first: StoredReport, second: StoredReport) -> bool:
    """Whether both have the same held-out shard set, or none."""
    return first.digest("data") == second.digest("data")


def _other_draw(first: StoredReport, second: StoredReport) -> bool:
    """Whether the captions differ and come from one source: a file of prompts, an asset, or the data set."""
    sources = [_source(report) for report in (first, second)]
    return _differ(first, second, "prompts", "sha256") and sources[0] is not None and sources[0] == sources[1]


def _source(report: StoredReport) -> str | None:
    asset = _how(report, "protocol", "prompts", "asset")
    return report.digest("prompts") or (report.digest(f"{ASSET}{asset}") if asset else report.digest("data"))


def _differ(first: StoredReport, second: StoredReport, *keys: str) -> bool:
    return _how(first, *keys) != _how(second, *keys)


def _both(first: StoredReport, second: StoredReport, *keys: str) -> str:
    return " and ".join(str(_how(report, *keys) or "unknown")[:12] for report in (first, second))


def _how(report: StoredReport, *keys: str) -> Any:
    """A value below `how`, which reports of protocols have; None where it is not there."""
    found: Any = report.document.get("how")
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found
