"""The page of a truncation sweep: the chart, and the figures of every point."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from gigagan_core.evaluation import charts
from gigagan_core.evaluation.claims import figure
from gigagan_core.evaluation.report_style import STYLE
from gigagan_core.evaluation.tradeoff import Point, Sweep, curves

_SECTION = """
<p class="lead">Distance to real images (lower is better) against the CLIP score (higher is better): down and to the
right is better. Thick marks lie on the Pareto front, where one figure cannot be improved but at the other's cost.</p>
<figure class="card trade">
<div class="legend">
{% for name in names %}<span><i class="key-{{ loop.index0 % 4 }}"></i>towards the {{ name }}</span>{% endfor %}
</div>
{{ svg }}
</figure>
<p class="hint">Marks are labelled by their truncation; below each figure in the table stands its {{ level }} interval.
Latents, captions and real images are the same at every point, so points are compared more closely than their intervals
say.</p>
<div class="scroll"><table>
<thead><tr><th>towards the</th><th class="number">psi</th><th class="number">prompt psi</th>
<th class="number">{{ fd_name }}</th><th class="number">{{ clip_name }}</th><th>on the front</th></tr></thead>
<tbody>
{% for name, point in rows %}
<tr{% if point.on_front %} class="strong"{% endif %}><td>{{ name }}</td>
<td class="number">{{ '%g' | format(point.psi) }}</td>
<td class="number">{{ '%g' | format(point.prompt_psi) }}</td>
<td class="number">{{ point.fd | figure }}<small>{{ point.fd_interval.low | figure }} to
{{ point.fd_interval.high | figure }}</small></td>
<td class="number">{{ point.clip | figure }}<small>{{ point.clip_interval.low | figure }} to
{{ point.clip_interval.high | figure }}</small></td>
<td>{{ 'yes' if point.on_front else '' }}</td></tr>
{% endfor %}
</tbody></table></div>
"""

_TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Trade-off</title>
<style>{{ style }}</style>
</head>
<body>
<header>
<p class="eyebrow">GigaGAN truncation sweep</p>
<h1>Trade-off</h1>
</header>
<main>
{{ section }}
</main>
</body>
</html>
"""


def render(sweep: Sweep) -> str:
    """The whole page as text."""
    return _filled(_TEMPLATE, style=Markup(STYLE), section=section(sweep))


def section(sweep: Sweep) -> Markup:
    """The chart and the table, for this page and for a report's."""
    by_curve = curves(sweep.points)
    marks = {name: [_mark(point) for point in curve] for name, curve in by_curve.items()}
    names = sweep.names
    return _filled(
        _SECTION,
        svg=Markup(charts.trade_chart(marks, names["clip"], names["fd"])),
        names=list(by_curve),
        rows=[(point.curve, point) for point in sweep.points],
        level=f"{sweep.points[0].fd_interval.level:.0%}",
        fd_name=names["fd"],
        clip_name=names["clip"],
    )


def _filled(template: str, **values: Any) -> Markup:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["figure"] = figure
    return Markup(environment.from_string(template).render(**values))


def _mark(point: Point) -> charts.Mark:
    label = f"{min(point.psi, point.prompt_psi):g}"
    if point.psi < 1 and point.prompt_psi < 1:
        label = f"{point.psi:g}, {point.prompt_psi:g}"
    return charts.Mark(point.clip, point.fd, label, point.on_front)
