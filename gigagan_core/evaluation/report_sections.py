"""What report pages say below their verdicts or figures: pictures, galleries, neighbours, curves, times."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from gigagan_core.evaluation import charts
from gigagan_core.evaluation.claims import figure
from gigagan_core.evaluation.figures import Figure
from gigagan_core.evaluation.galleries import Gallery, Sample
from gigagan_core.evaluation.neighbours import NEAR_QUANTILE, Memorisation, Repetition
from gigagan_core.evaluation.pictures import data_uri
from gigagan_core.evaluation.report_style import STYLE
from gigagan_core.text import plain

if TYPE_CHECKING:
    from gigagan_core.evaluation.curves import Curve
    from gigagan_core.evaluation.latency import Timing
    from gigagan_core.evaluation.report import Report

# Below this side an image is shown with its pixels as squares: smoothing would hide what was generated.
_PIXELATED_BELOW = 100
_SECTIONS = {
    "scores": (
        "Best and worst",
        "Chosen by the CLIP score alone. What to expect stands above, in the samples that nobody chose.",
    ),
    "failures": ("Failures", "What went wrong most, found by the judge's features."),
    "memorisation": ("Memory", ""),
}


def filled(template: str, **values: Any) -> str:
    """A page of the pieces in `report_parts`: it refers to nothing outside itself and runs no script."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"visible": plain, "figure": figure}
    return environment.from_string(template).render(style=Markup(STYLE), **values)


def shown(sample: Sample) -> dict[str, Any]:
    """A sample as the templates take it."""
    images = [
        (
            name,
            {"uri": data_uri(image), "side": image.shape[-1], "pixels": image.shape[-1] < _PIXELATED_BELOW},
        )
        for name, image in sample.images.items()
    ]
    return {"caption": sample.caption, "images": images, "note": sample.note}


def galleries(members: Sequence[Gallery], facts: Mapping[str, str]) -> list[dict[str, Any]]:
    """The sections that have galleries, in order. facts: what else is said, by section, if only why there are none."""
    sections = []
    for key, (title, note) in _SECTIONS.items():
        own = [
            {"title": each.title, "note": each.note, "samples": [shown(sample) for sample in each.samples]}
            for each in members
            if each.section == key
        ]
        said = " ".join(filter(None, (note if own else "", facts.get(key, ""))))
        if own or said:
            sections.append({"title": title, "note": said, "members": own})
    return sections


def copying(found: Memorisation | None) -> str:
    """What the nearest training images say of a model, in sentences; empty where nothing was looked for."""
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


def twins(found: Repetition | None) -> str:
    """How often images for different captions look alike, in a sentence; empty where that was not counted."""
    if found is None:
        return ""
    return (
        f"{found.share:.1%} of the generated images ({found.interval.low:.1%} to {found.interval.high:.1%}) have a "
        f"twin for another caption, where {NEAR_QUANTILE:.0%} of the real ones do."
    )


def training_charts(curves: Iterable[Curve]) -> dict[str, list[dict[str, Any]]]:
    """Charts by model, the losses first."""
    members: dict[str, dict[str, list[charts.Line]]] = {}
    for curve in sorted(curves, key=lambda curve: curve.chart != "loss"):
        # a curve for every pyramid level would bury the losses; the records have them all
        if not curve.name[-1:].isdigit():
            line = charts.Line(curve.name, curve.points)
            members.setdefault(curve.group, {}).setdefault(curve.chart, []).append(line)
    drawn = {
        group: [
            {"names": [line.name for line in lines], "svg": Markup(svg)}
            for lines in by_chart.values()
            if (svg := charts.line_chart(lines, "images seen"))
        ]
        for group, by_chart in members.items()
    }
    return {group: some for group, some in drawn.items() if some}


def extrapolations(figures: Iterable[Figure]) -> list[dict[str, Any]]:
    """A chart for every FD-infinity: the distances of the subsets over 1/N, and the line that is read off at 0."""
    drawn = []
    for found in figures:
        if found.metric != "fd-infinity":
            continue
        sizes, distances = found.details["sizes"], found.details["distances"]
        points = sorted((1000 / size, value, size) for size, value in zip(sizes, distances, strict=True))
        end, places = points[-1][0], {min(sizes): "above", max(sizes): "below"}
        curves = {
            "subsets of the generated images": [
                charts.Mark(x, y, f"{size:,}", place=places.get(size, "hidden")) for x, y, size in points
            ],
            "the fitted line, read off at 0": [
                charts.Mark(0.0, found.value, figure(found.value), strong=True, place="below"),
                charts.Mark(end, found.value + found.details["slope"] * end / 1000, "fit", place="hidden"),
            ],
        }
        svg = charts.trade_chart(curves, "1000 / generated images", "Frechet distance")
        drawn.append({"name": found.name, "names": list(curves), "svg": Markup(svg)})
    return drawn


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


def memory(mib: float | None) -> str:
    """12.3 -> 12 MiB; a dash where it is not known."""
    return "–" if mib is None else f"{mib:,.0f} MiB"


def joined(facts: Mapping[str, Any], separator: str = ": ") -> str:
    """Facts on one line, for the foot of a page."""
    return " · ".join(f"{key}{separator}{value}" for key, value in facts.items())
