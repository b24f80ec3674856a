"""What the report page says below its verdicts: galleries, neighbours, the paper's rows, times."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gigagan_core.evaluation.claims import figure
from gigagan_core.evaluation.galleries import Sample
from gigagan_core.evaluation.neighbours import NEAR_QUANTILE

if TYPE_CHECKING:
    from gigagan_core.evaluation.latency import Timing
    from gigagan_core.evaluation.report import Report

_SECTIONS = {
    "scores": (
        "Best and worst",
        "Chosen by the CLIP score alone. What to expect stands above, in the samples that nobody chose.",
    ),
    "failures": (
        "Failures",
        "What went wrong most, found by the judge's features: images unlike any real one, and images that repeat.",
    ),
    "memorisation": ("Memory", ""),
}


def galleries(report: Report, shown: Callable[[Sample], Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The sections that have galleries, in order; shown: a sample as the template takes it."""
    sections = []
    for key, (title, note) in _SECTIONS.items():
        members = [gallery for gallery in report.galleries if gallery.section == key]
        facts = _memory(report) if key == "memorisation" else _repetition(report) if key == "failures" else ""
        if members:
            listed = [
                {"title": each.title, "note": each.note, "samples": [shown(s) for s in each.samples]}
                for each in members
            ]
            sections.append(
                {"title": title, "note": " ".join(filter(None, (note, facts))), "members": listed}
            )
    return sections


def _memory(report: Report) -> str:
    found = report.memorisation
    if found is None:
        return ""
    interval = found.interval
    verdict = "no nearer to the training images than new real images are"
    if interval.low > 0.5:
        verdict = "nearer to the training images than new real images are: look at the pairs below"
    elif interval.high >= 0.5:
        verdict = "about as near to the training images as new real images are"
    return (
        f"Has the model learned, or does it hand out its training images? Of a generated and a held-out real image the "
        f"generated one is nearer to its nearest of {found.searched:,} training images with chance "
        f"{found.closer:.1%} ({interval.level:.0%} interval {interval.low:.1%} to {interval.high:.1%}); copying gives "
        f"100%, new data 50%. Generated images are {verdict}. Median distance {_median(found.generated)}, of held-out "
        f"images {_median(found.held_out)}."
    )


def _median(nearest: Any) -> str:
    return figure(float(nearest.distance.median()))


def _repetition(report: Report) -> str:
    twins = report.repetition
    if twins is None:
        return ""
    return (
        f"{twins.share:.1%} of the generated images ({twins.interval.low:.1%} to {twins.interval.high:.1%}) have a "
        f"twin for another caption, where {NEAR_QUANTILE:.0%} of the real ones do."
    )


def latency(report: Report) -> dict[str, Any]:
    """The table of times."""
    rows = [
        {
            "label": f"{timing.part}, batch {timing.batch}",
            "values": timing_cells(timing),
            "ours": False,
        }
        for timing in report.timings
    ]
    devices = ", ".join(dict.fromkeys(timing.device for timing in report.timings))
    return {
        "latency_columns": ["p50", "p95", "images a second", "peak memory"],
        "latency_rows": rows,
        "latency_note": f"Measured on {devices} after warm-up, a call at a time, the device idle before and done "
        "after; they belong to this machine and to no other.",
    }


def timing_cells(timing: Timing) -> list[str]:
    """p50, p95, images a second and peak memory as tables print them; a dash for what is not known."""
    if timing.p50 is None or timing.p95 is None or timing.throughput is None:
        return ["did not fit into memory", "–", "–", "–"]
    peak = "–" if timing.peak_mib is None else f"{timing.peak_mib:,.0f} MiB"
    return [_milliseconds(timing.p50), _milliseconds(timing.p95), figure(timing.throughput), peak]


def _milliseconds(seconds: float) -> str:
    """0.0123 -> 12.3 ms."""
    return f"{figure(1000 * seconds)} ms"


def published(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The paper's rows beside ours, as a table; columns in the order in which rows name them."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    return {
        "published_columns": columns,
        "published_rows": [[_cell(row.get(column)) for column in columns] for row in rows],
    }


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value)
