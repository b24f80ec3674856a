"""A protocol's result as `report.json`, in the keys of every report, and as one HTML page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gigagan_core.config.base import all_settings
from gigagan_core.config.evaluate import EvaluateSettings
from gigagan_core.evaluation import published_tables, report_sections
from gigagan_core.evaluation.curves import Curve
from gigagan_core.evaluation.figures import Figure
from gigagan_core.evaluation.protocols.run import ProtocolResult
from gigagan_core.evaluation.protocols.showcase import SIDE, Showcase
from gigagan_core.evaluation.report import SCHEMA, SCHEMA_VERSION, galleries_json, write_grids
from gigagan_core.evaluation.report_parts import CHARTS, CLOSING, GALLERIES, OPENING, SAMPLES, TERMS

_FIGURES = """
<section>
<p class="hint">{{ origin }}.</p>
{% if cautions %}
<div class="caution" role="note">
{% for caution in cautions %}<p>{{ caution | visible }}</p>{% endfor %}
</div>
{% endif %}
<h2>Figures</h2>
<div class="scroll"><table><thead><tr><th>figure</th><th class="number">value</th><th class="number">interval or
spread</th><th class="number">images real / generated</th></tr></thead><tbody>
{% for figure in figures %}<tr><td class="mono">{{ figure.name }}</td>
<td class="number">{{ "%.5g" | format(figure.value) }}</td><td class="number">{{ range_of(figure) }}</td>
<td class="number">{{ "{:,} / {:,}".format(figure.real, figure.fake) }}</td></tr>{% endfor %}
</tbody></table></div>
{% for figure in figures %}{% for caution in figure.cautions | reject("in", cautions) %}
<p class="hint"><span class="mono">{{ figure.name }}</span>: {{ caution | visible }}</p>{% endfor %}{% endfor %}
</section>
"""

_EXTRAPOLATIONS = """
{% if extrapolations %}
<section>
<h2>Without the bias of the count</h2>
<p>A Frechet distance falls with the number of generated images, nearly along a line over 1/N: read off at 0, it is the
distance of infinitely many.</p>
{% for each in extrapolations %}
<figure class="card trade">
<figcaption class="mono">{{ each.name }}</figcaption>
<div class="legend">
{% for name in each.names %}<span><i class="key-{{ loop.index0 % 4 }}"></i>{{ name }}</span>{% endfor %}
</div>
{{ each.svg }}
</figure>
{% endfor %}
</section>
{% endif %}
"""

_PUBLISHED = """
{% if published %}
<section>
<h2>Beside the published</h2>
<div class="scroll"><table><thead><tr><th>model</th><th>quantity</th><th class="number">published</th>
<th class="number">ours</th><th>differs</th></tr></thead><tbody>
{% for row in published %}<tr><td>{{ row.model }}</td><td>{{ row.quantity }} ({{ row.mark }})</td>
<td class="number">{{ "{:,.0f} million".format(row.published / 1e6) if row.published >= 1e6
else "%.6g" | format(row.published) }}</td>
<td class="number">{{ "" if row.ours is none else "%.5g" | format(row.ours) }}</td>
<td>{{ row.differs | reject("in", cautions) | join("; ") | visible }}</td></tr>{% endfor %}
</tbody></table></div>
<p class="hint">{{ published[0].table }}. V2: two or more independent notes state the number; V1: one.
{% if cautions %}The cautions at the top hold here too.{% endif %}</p>
</section>
{% endif %}
"""

_TEMPLATE = "".join(
    [OPENING, _FIGURES, SAMPLES, _EXTRAPOLATIONS, GALLERIES, _PUBLISHED, CHARTS, TERMS, CLOSING]
)


@dataclass(frozen=True)
class ProtocolReport:
    """All that the report of a protocol shows. curves, lineage, attribution, record: as in `report.Report`."""

    result: ProtocolResult
    showcase: Showcase
    settings: EvaluateSettings
    curves: Sequence[Curve] = ()
    lineage: Sequence[Mapping[str, Any]] = ()
    attribution: Sequence[str] = ()
    record: Mapping[str, Any] = field(default_factory=dict)

    @property
    def figures(self) -> tuple[Figure, ...]:
        """The protocol's own, then those of nearest neighbours."""
        return (*self.result.figures, *self.showcase.figures)

    @property
    def metrics(self) -> dict[str, float]:
        """The value of every figure by its full name."""
        return {figure.name: figure.value for figure in self.figures}


def write(report: ProtocolReport, folder: Path) -> dict[str, Path]:
    """Write `report.json`, `report.html`, `prompts.jsonl`, `samples.png` and `galleries/`; paths by name."""
    paths = {name: folder / f"report.{name}" for name in ("json", "html")}
    paths["prompts"] = folder / "prompts.jsonl"
    document = as_json(report)
    paths["json"].write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    paths["html"].write_text(_page(report, document), encoding="utf-8")
    report.result.prompts.write(paths["prompts"])
    samples = report.showcase.samples
    columns = 2 if report.result.evidence.paired else 4
    return paths | write_grids(folder, [("samples", samples, columns)], report.showcase.galleries)


def as_json(report: ProtocolReport) -> dict[str, Any]:
    """JSON-able; `figures` and `metrics` as in every report, `how` instead of encoders and baselines."""
    result, showcase = report.result, report.showcase
    count = len(result.prompts.prompts)
    return {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "protocol": result.protocol.name,
        "settings": all_settings(report.settings),
        "count": count,
        "independent": count,
        "figures": {figure.name: figure.as_json() for figure in report.figures},
        "metrics": report.metrics,
        "claims": [],
        "cautions": list(result.cautions),
        "how": result.record,
        "published": published_tables.beside(
            result.figures, result.protocol.rows, result.protocol, result.cautions
        )
        if result.protocol.rows
        else [],
        "samples": [sample.caption for sample in showcase.samples],
        "galleries": galleries_json(showcase.galleries),
        "remarks": {section: said for section, said in showcase.remarks.items() if said},
        "curves": [asdict(curve) for curve in report.curves],
        "lineage": [dict(line) for line in report.lineage],
        "attribution": list(report.attribution),
        "record": dict(report.record),
    }


def _page(report: ProtocolReport, document: Mapping[str, Any]) -> str:
    result, protocol = report.result, report.result.protocol
    return report_sections.filled(
        _TEMPLATE,
        title=protocol.name,
        lead=(
            f"{_sentence(protocol.what)}; {len(result.prompts.prompts):,} images, seed {protocol.seed}, "
            f"truncation psi = {result.record['generated']['psi']:g}, mode {protocol.mode}."
        ),
        origin=_sentence(protocol.origin),
        cautions=result.cautions,
        figures=report.figures,
        range_of=_range,
        extrapolations=report_sections.extrapolations(report.figures),
        published=document["published"],
        samples_note=_samples_note(report),
        samples_class="wide" if result.evidence.paired else "gallery",
        samples=[report_sections.shown(sample) for sample in report.showcase.samples],
        gallery_sections=report_sections.galleries(report.showcase.galleries, report.showcase.remarks),
        charts=report_sections.training_charts(report.curves),
        terms=_terms(result),
        lineage=report.lineage,
        metrics=report.metrics,
        attribution=report.attribution,
        machine=report_sections.joined(report.record.get("machine", {})),
        versions=report_sections.joined(report.record.get("packages", {}), separator=" "),
    )


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _range(figure: Figure) -> str:
    if figure.interval is not None:
        return f"{figure.interval.low:.4g} to {figure.interval.high:.4g} ({figure.interval.level:.0%})"
    return "" if figure.spread is None else f"± {figure.spread:.4g}"


def _samples_note(report: ProtocolReport) -> str:
    shown, protocol = len(report.showcase.samples), report.result.protocol
    what = "an image for each"
    if report.result.evidence.paired:
        what = "what the upsampler was given, what it made, and the real image"
    return (
        f"The first {shown} captions of those drawn by seed {protocol.seed}, chosen by nobody: {what}, cropped "
        f"as for the networks below and at most {SIDE} pixels wide."
    )


def _terms(result: ProtocolResult) -> list[tuple[str, str]]:
    """The networks, and what was done to captions and images before they came to them."""
    prompts = result.record["prompts"]
    networks = [
        (each["name"], f"{each['rule']}; sha256 {each['sha256']}") for each in result.record["extractors"]
    ]
    judge = (
        "Failures and neighbours",
        f"Chosen by the features of {networks[0][0]}: the distance of two images is that of their features.",
    )
    return [
        *networks,
        judge,
        ("Captions", f"{prompts['source']}, sha256 of the choice {prompts['sha256']}."),
        ("Images of both sides", f"{result.record['preparation']}."),
    ]
