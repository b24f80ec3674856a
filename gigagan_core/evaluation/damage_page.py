"""What a study of damage shows: a sheet of before and after for each kind, one of all kinds, and a page."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from gigagan_core.evaluation.claims import figure
from gigagan_core.evaluation.damage_study import BICUBIC, OURS, Study, Trial
from gigagan_core.evaluation.pictures import Row, grid
from gigagan_core.evaluation.report_style import STYLE
from gigagan_core.text import plain

if TYPE_CHECKING:
    from PIL import Image

_SMALLEST, _LARGEST = 144, 256  # sides of a picture on a sheet, below which its column's title has no room
_TITLES = {"psnr": "PSNR", "ssim": "SSIM", "lpips": "LPIPS", "fd": "Distance"}

_SHEETS = "img.sheet { width: auto; max-width: 100%; aspect-ratio: auto; margin-bottom: 1.6rem; }"

_TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>Damaged pictures</title>
<style>{{ style }}</style>
</head>
<body>
<header>
<p class="eyebrow">GigaGAN upsampler</p>
<h1>Pictures it did not see made</h1>
<p class="lead">{{ count }} pictures shrunk to {{ low }} pixels, damaged as other generators and the web do, and
enlarged to {{ high }}; beside them what bicubic enlarging makes of the same input. Seed {{ seed }}, noise on the input
{{ noise }}.</p>
</header>
<main>
{% if cautions %}
<div class="caution" role="note">
{% for caution in cautions %}<p>{{ caution | visible }}</p>{% endfor %}
</div>
{% endif %}
<section>
<h2>Figures</h2>
<p class="hint">Below a figure its {{ level }} interval. Gain: how much better the upsampler is than bicubic, image by
image; where its interval leaves out 0, the difference is more than chance. PSNR and SSIM reward a blurred guess.</p>
{% for table in tables %}
<h3>{{ table.title }} <span class="hint">{{ table.name }}, {{ table.better }} is better</span></h3>
<div class="scroll"><table>
<thead><tr><th>damage</th>{% for column in table.columns %}<th class="number">{{ column }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in table.rows %}
<tr><td>{{ row.label }}</td>
{% for cell in row.cells %}<td class="number">{{ cell }}</td>
{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
{% endfor %}
</section>
<section>
<h2>Before and after</h2>
{% for sheet in sheets %}
<h3>{{ sheet.label }}</h3>
<p>{{ sheet.what }}{% if sheet.settings %} <span class="mono hint">{{ sheet.settings }}</span>{% endif %}</p>
<img class="sheet" src="{{ sheet.uri }}" width="{{ sheet.width }}" height="{{ sheet.height }}"
 alt="{{ sheet.label }}: input, bicubic, upsampler and original, side by side">
{% endfor %}
</section>
</main>
<footer><p>Upsampler {{ upsampler | visible }}</p></footer>
</body>
</html>
"""


def write(study: Study, folder: Path) -> dict[str, Path]:
    """Write `damage.json`, `damage.html`, `damage.png` (one picture, all kinds) and `before-after/<kind>.png`.

    Returns the paths by name.
    """
    paths = {name: folder / f"damage.{name}" for name in ("json", "html", "png")}
    document = json.dumps(study.as_json(), indent=2, allow_nan=False) + "\n"
    paths["json"].write_text(document, encoding="utf-8")
    sheets = {trial.kind: sheet(study, trial) for trial in study.trials}
    (folder / "before-after").mkdir(exist_ok=True)
    for kind, image in sheets.items():
        paths[kind] = folder / "before-after" / f"{kind}.png"
        image.save(paths[kind])
    overview(study).save(paths["png"])
    paths["html"].write_text(render(study, sheets), encoding="utf-8")
    return paths


def sheet(study: Study, trial: Trial) -> Image.Image:
    """The first pictures of one kind, a row each: input, bicubic, upsampler, original."""
    shown = range(min(study.settings.shown, len(study.originals.names)))
    rows = [Row(_caption(study, number), _pictures(study, trial, number)) for number in shown]
    return grid(rows, _columns(study), tile=_tile(study), columns=2 if len(rows) > 1 else 1)


def overview(study: Study) -> Image.Image:
    """The first picture, a row for each kind of damage."""
    rows = [Row(f"{label(trial)}. {trial.what}", _pictures(study, trial, 0)) for trial in study.trials]
    return grid(rows, _columns(study), tile=_tile(study), columns=2)


def label(trial: Trial) -> str:
    """A kind of damage for people."""
    return trial.kind.replace("_", " ").capitalize().replace("Jpeg", "JPEG")


def _columns(study: Study) -> list[str]:
    return [f"input, {study.trials[0].low.shape[-1]} px", BICUBIC, OURS, "original"]


def _pictures(study: Study, trial: Trial, number: int) -> tuple[Any, ...]:
    made = [trial.enlarged[by][number] for by in (BICUBIC, OURS)]
    return (trial.low[number], *made, study.originals.images[number])


def _caption(study: Study, number: int) -> str:
    return str(study.originals.prompts[number] or study.originals.names[number])


def _tile(study: Study) -> int:
    return min(_LARGEST, max(_SMALLEST, study.originals.images.shape[-1]))


def render(study: Study, sheets: dict[str, Image.Image]) -> str:
    """The page as text; it refers to nothing outside itself. sheets: by kind, as `sheet` makes them."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["visible"] = plain
    settings = study.settings
    return environment.from_string(_TEMPLATE).render(
        style=Markup(STYLE + _SHEETS),
        count=len(study.originals.names),
        low=study.trials[0].low.shape[-1],
        high=study.originals.images.shape[-1],
        seed=settings.seed,
        noise=f"{settings.upsampler_noise:g}",
        cautions=study.cautions,
        level=f"{settings.confidence:.0%}",
        tables=list(_tables(study)),
        sheets=[_sheet(study, trial, sheets[trial.kind]) for trial in study.trials],
        upsampler=" ".join(str(value) for value in study.upsampler.values()),
    )


def _tables(study: Study) -> Iterator[dict[str, Any]]:
    """A table for each figure: a row for each kind of damage."""
    for place, known in enumerate(study.trials[0].figures[OURS]):
        gained = known.name in study.trials[0].gains
        rows = []
        for trial in study.trials:
            cells = [
                _cell(each.value, each.interval)
                for each in (trial.figures[by][place] for by in (BICUBIC, OURS))
            ]
            cells += [_cell(*trial.gains[known.name], sign="+")] if gained else []
            rows.append({"label": label(trial), "cells": cells})
        title = _TITLES.get(known.metric, "Patch distance")
        yield {
            "title": f"{title}, {known.extractor}" if known.extractor else title,
            "name": known.name,
            "better": known.better,
            "columns": [BICUBIC, OURS, *(["gain"] if gained else [])],
            "rows": rows,
        }


def _cell(value: float, interval: Any, sign: str = "") -> Markup:
    shown = f"+{figure(value)}" if sign and value > 0 else figure(value)
    return Markup("{}<small>{} to {}</small>").format(shown, figure(interval.low), figure(interval.high))


def _sheet(study: Study, trial: Trial, image: Image.Image) -> dict[str, Any]:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    settings = getattr(study.settings, trial.kind, None)
    return {
        "label": label(trial),
        "what": trial.what,
        "settings": ""
        if settings is None
        else ", ".join(f"{k} {v:g}" for k, v in settings.model_dump().items()),
        "uri": "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii"),
        "width": image.width,
        "height": image.height,
    }
