"""A protocol's result as `report.json`, in the keys of every report, and as one HTML page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from gigagan_core.config.base import all_settings
from gigagan_core.config.evaluate import EvaluateSettings
from gigagan_core.evaluation import published_tables
from gigagan_core.evaluation.figures import Figure
from gigagan_core.evaluation.protocols.run import ProtocolResult
from gigagan_core.evaluation.report import SCHEMA, SCHEMA_VERSION
from gigagan_core.evaluation.report_style import STYLE
from gigagan_core.text import plain

_TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ protocol.name }}</title><style>{{ style }}</style></head><body>
<p class="eyebrow">GigaGAN evaluation</p>
<h1>{{ protocol.name }}</h1>
<p class="lead">{{ protocol.what }}; {{ count }} images, seed {{ protocol.seed }}, truncation psi = {{ psi }},
mode {{ protocol.mode }}.</p>
<p class="hint">{{ protocol.origin }}.</p>
{% for caution in cautions %}<div class="caution" role="note">{{ caution | visible }}</div>{% endfor %}
<h2>Figures</h2>
<div class="scroll"><table><thead><tr><th>figure</th><th class="number">value</th><th class="number">interval or
spread</th><th class="number">images real / generated</th></tr></thead><tbody>
{% for figure in figures %}<tr><td class="mono">{{ figure.name }}</td>
<td class="number">{{ "%.5g" | format(figure.value) }}</td><td class="number">{{ figure | range }}</td>
<td class="number">{{ figure.real }} / {{ figure.fake }}</td></tr>{% endfor %}
</tbody></table></div>
{% for figure in figures %}{% for caution in figure.cautions | reject("in", cautions) %}
<p class="hint"><span class="mono">{{ figure.name }}</span>: {{ caution | visible }}</p>{% endfor %}{% endfor %}
{% if published %}<h2>Beside the published</h2>
<div class="scroll"><table><thead><tr><th>model</th><th>quantity</th><th class="number">published</th>
<th class="number">ours</th><th>differs</th></tr></thead><tbody>
{% for row in published %}<tr><td>{{ row.model }}</td><td>{{ row.quantity }} ({{ row.mark }})</td>
<td class="number">{{ "%.4g million" | format(row.published / 1e6) if row.published >= 1e6
else "%.6g" | format(row.published) }}</td>
<td class="number">{{ "" if row.ours is none else "%.5g" | format(row.ours) }}</td>
<td>{{ row.differs | reject("in", cautions) | join("; ") | visible }}</td></tr>{% endfor %}
</tbody></table></div>
<p class="hint">{{ published[0].table }}. V2: two or more independent notes state the number; V1: one.
{% if cautions %}The cautions at the top hold here too.{% endif %}</p>{% endif %}
<h2>Networks</h2>
<dl class="terms">{% for each in extractors %}<dt>{{ each.name }}</dt>
<dd>{{ each.rule }}; sha256 <span class="mono">{{ each.sha256 }}</span></dd>{% endfor %}</dl>
<p class="hint">Captions: {{ prompts.source | visible }}, sha256 of the choice <span class="mono">{{ prompts.sha256 }}
</span>. Images of both sides: {{ preparation }}.</p>
</body></html>
"""


def write(
    result: ProtocolResult,
    settings: EvaluateSettings,
    lineage: Sequence[Mapping[str, Any]],
    record: Mapping[str, Any],
    folder: Path,
) -> dict[str, Path]:
    """Write `report.json`, `report.html`, `prompts.jsonl` and, where images were kept, `samples.png`; paths by name.

    lineage, record: as in `report.Report`.
    """
    paths = {name: folder / f"report.{name}" for name in ("json", "html")}
    paths["prompts"] = folder / "prompts.jsonl"
    document = as_json(result, settings, lineage, record)
    paths["json"].write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    paths["html"].write_text(_page(result, document), encoding="utf-8")
    result.prompts.write(paths["prompts"])
    if result.shown:
        paths["samples"] = folder / "samples.png"
        _grid(result).save(paths["samples"])
    return paths


def as_json(
    result: ProtocolResult,
    settings: EvaluateSettings,
    lineage: Sequence[Mapping[str, Any]],
    record: Mapping[str, Any],
) -> dict[str, Any]:
    """JSON-able; `figures` and `metrics` as in every report, `how` instead of encoders and baselines."""
    count = len(result.prompts.prompts)
    return {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "protocol": result.protocol.name,
        "settings": all_settings(settings),
        "count": count,
        "independent": count,
        "figures": {figure.name: figure.as_json() for figure in result.figures},
        "metrics": {figure.name: figure.value for figure in result.figures},
        "claims": [],
        "cautions": list(result.cautions),
        "how": result.record,
        "published": published_tables.beside(
            result.figures, result.protocol.rows, result.protocol, result.cautions
        )
        if result.protocol.rows
        else [],
        "samples": [caption for caption, _ in result.shown],
        "lineage": [dict(line) for line in lineage],
        "record": dict(record),
    }


def _page(result: ProtocolResult, document: Mapping[str, Any]) -> str:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters |= {"visible": plain, "range": _range}
    return environment.from_string(_TEMPLATE).render(
        style=Markup(STYLE),
        protocol=result.protocol,
        psi=result.record["generated"]["psi"],
        count=document["count"],
        cautions=result.cautions,
        figures=result.figures,
        published=document["published"],
        extractors=result.record["extractors"],
        prompts=result.record["prompts"],
        preparation=result.record["preparation"],
    )


def _range(figure: Figure) -> str:
    if figure.interval is not None:
        return f"{figure.interval.low:.4g} to {figure.interval.high:.4g} ({figure.interval.level:.0%})"
    return "" if figure.spread is None else f"± {figure.spread:.4g}"


def _grid(result: ProtocolResult) -> Any:
    import numpy as np
    import torch
    from PIL import Image

    from gigagan_core.evaluation.pictures import Row, grid

    rows = [
        Row(caption, (torch.from_numpy(np.asarray(Image.open(path)).copy()).permute(2, 0, 1),))
        for caption, path in result.shown
    ]
    return grid(rows, ["generated"], columns=4)
