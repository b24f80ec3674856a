"""The page of a shard set: where its rows went, its scores, sizes and captions, and pictures by score decile."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from gigagan_core.data import histograms, report_template
from gigagan_core.data.histograms import Histogram
from gigagan_core.data.pictures import CorruptPicture, decode
from gigagan_core.data.scores import VERSION
from gigagan_core.data.scoring import pictures_of
from gigagan_core.data.shards import Shard, read_table
from gigagan_core.data.status import SUCCESS
from gigagan_core.evaluation.report_style import STYLE
from gigagan_core.text import plain

if TYPE_CHECKING:
    import pyarrow as pa

SELECTED = "selected"
NOT_SELECTED = "not_selected"
"""Of a row that no reason is written to: another tool took its selection away."""
_SHARDS_SHOWN = 16
_SAMPLES_A_DECILE = 8
_SAMPLES_WITHOUT_SCORES = 24
_THUMBNAIL = 96
_JPEG_QUALITY = 82


def data_report(
    shards: Sequence[Shard], title: str, notes: Mapping[str, Any] | None = None, seed: int = 0
) -> str:
    """One HTML page as text: it refers to nothing outside itself and runs no script.

    title: of the page. notes: facts for its end, such as licence and attribution. seed: draws the samples, which come
    from at most 16 shards spread over the set. It holds 4 bytes a row for each score and size in memory.
    Raises GigaganError for a damaged table or tar.
    """
    from jinja2 import Environment, StrictUndefined

    rows = _Rows()
    for shard in shards:
        rows.add(read_table(shard))
    figures = rows.joined()
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["visible"] = plain
    return environment.from_string(report_template.TEMPLATE).render(
        title=title,
        style=Markup(STYLE + histograms.STYLE + report_template.STYLE),
        rows=rows.fates.total(),
        selected=rows.fates[SELECTED],
        shards=len(shards),
        fates=_fates(rows.fates),
        scores=_score_charts(rows, figures),
        distributions=_distributions(figures),
        pages=_pages(shards, rows, figures, np.random.default_rng(seed)),
        facts={name: str(value) for name, value in (notes or {}).items() if isinstance(value, str | int)},
    )


@dataclass
class _Rows:
    """What every row says, collected shard by shard. A figure is float32 with NaN where a row has none.

    versions: score column -> version of its scorer, "" for a score that came with the table. ends: rows up to and
    with each shard.
    """

    fates: Counter[str] = field(default_factory=Counter)
    versions: dict[str, str] = field(default_factory=dict)
    ends: list[int] = field(default_factory=list)
    _figures: dict[str, list[tuple[int, np.ndarray]]] = field(default_factory=dict)

    def add(self, table: pa.Table) -> None:
        import pyarrow as pa
        import pyarrow.compute as pc

        start = self.ends[-1] if self.ends else 0
        self.ends.append(start + len(table))
        reasons = fates(table)
        self.fates.update(reasons)
        self._keep(SELECTED, start, np.array([reason == SELECTED for reason in reasons], np.float32))
        for column in table.schema:
            if pa.types.is_floating(column.type):
                self.versions.setdefault(
                    column.name, (column.metadata or {}).get(VERSION.encode(), b"").decode()
                )
                self._keep(column.name, start, _floats(table[column.name]))
        sides = [name for name in ("original_width", "original_height") if name in table.column_names]
        if len(sides) == 2:
            width, height = (_floats(table[name]) for name in sides)
            self._keep("shorter side", start, np.minimum(width, height))
            with np.errstate(divide="ignore", invalid="ignore"):
                self._keep("aspect", start, np.maximum(width, height) / np.minimum(width, height))
        if "caption" in table.column_names:
            captions = pc.utf8_trim_whitespace(table["caption"])
            self._keep("characters", start, _floats(pc.utf8_length(captions)))
            words = pc.list_value_length(pc.utf8_split_whitespace(captions))
            # splitting an empty text gives one empty word
            self._keep("words", start, _floats(pc.if_else(pc.equal(captions, ""), 0, words)))

    def _keep(self, name: str, start: int, values: np.ndarray) -> None:
        self._figures.setdefault(name, []).append((start, values))

    def joined(self) -> dict[str, np.ndarray]:
        """Figure -> float32 [rows]; a shard whose table lacks a column has NaN there."""
        size = self.ends[-1] if self.ends else 0
        joined = {}
        for name, parts in self._figures.items():
            joined[name] = np.full(size, np.nan, np.float32)
            for start, values in parts:
                joined[name][start : start + len(values)] = values
        return joined


def fates(table: pa.Table) -> list[str]:
    """For every row of a shard's table "selected", or the one reason for which it is not."""
    statuses, selected = table["status"].to_pylist(), table["selected"].to_pylist()
    size = len(table)
    rejected = table["rejected_by"].to_pylist() if "rejected_by" in table.column_names else [None] * size
    return [
        status if status != SUCCESS else SELECTED if chosen else reason or NOT_SELECTED
        for status, chosen, reason in zip(statuses, selected, rejected, strict=True)
    ]


def _floats(column: pa.ChunkedArray) -> np.ndarray:
    return column.to_numpy(zero_copy_only=False).astype(np.float32)


def _fates(counts: Counter[str]) -> list[dict[str, Any]]:
    """Selected first, then the reasons by falling count."""
    ordered = sorted(counts.items(), key=lambda item: (item[0] != SELECTED, -item[1], item[0]))
    most, rows = max([*counts.values(), 1]), max(counts.total(), 1)
    return [
        {
            "reason": reason.replace("_", " "),
            "count": count,
            "share": f"{count / rows:.2%}",
            "width": round(100 * count / most, 2),
            "selected": reason == SELECTED,
        }
        for reason, count in ordered
    ]


def _score_charts(rows: _Rows, figures: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    charts = []
    for name, version in rows.versions.items():
        made_by = f"scorer {_short(version)}" if version else "came with the table"
        charts.append(_chart(name, made_by, figures[name], figures[SELECTED]))
    return [chart for chart in charts if chart]


def _short(version: str) -> str:
    """The first 12 digits of a sha256; a library's name and version whole."""
    return version if " " in version else version[:12]


def _distributions(figures: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    wanted = (
        ("shorter side", "Shorter side, pixels", True),
        ("aspect", "Longer side over shorter side", False),
        ("words", "Words in a caption", True),
        ("characters", "Characters in a caption", True),
    )
    charts = [
        _chart(title, "", figures[name], figures[SELECTED], whole)
        for name, title, whole in wanted
        if name in figures
    ]
    return [chart for chart in charts if chart]


def _chart(
    title: str, about: str, values: np.ndarray, selected: np.ndarray, whole: bool = False
) -> dict[str, Any] | None:
    histogram = Histogram.of(values, selected == 1, whole)
    if histogram is None:
        return None
    finite = values[np.isfinite(values)]
    parts = [about] if about else []
    parts.append(f"median {np.median(finite):.4g}")
    if absent := len(values) - len(finite):
        parts.append(f"{absent:,} rows have none")
    if histogram.above:
        parts.append(f"{histogram.above:,} lie above {histogram.edges[-1]:.4g}, up to {finite.max():.4g}")
    return {"title": title, "svg": Markup(histogram.svg(title)), "note": "; ".join(parts)}


# ---- samples ---------------------------------------------------------------------------------------


def _pages(
    shards: Sequence[Shard], rows: _Rows, figures: Mapping[str, np.ndarray], generator: np.random.Generator
) -> list[dict[str, Any]]:
    """For each score its deciles, with samples drawn from each; without a score, samples of what is selected."""
    stride = -(-len(shards) // _SHARDS_SHOWN)
    shown = range(0, len(shards), max(1, stride))
    starts = [0, *rows.ends]
    inside = np.zeros(starts[-1], bool)
    for number in shown:
        inside[starts[number] : starts[number + 1]] = True
    drawn = {
        name: _draw(figures[name], inside, generator)
        for name in rows.versions
        if len(np.unique(figures[name][np.isfinite(figures[name])])) > 1
    }
    where = "" if len(shown) == len(shards) else f" from {len(shown)} of the {len(shards)} shards"
    if not drawn:
        return _page_without_scores(shards, rows, inside & (figures[SELECTED] == 1), generator, where)
    wanted = sorted({row for deciles in drawn.values() for _, chosen in deciles for row in chosen})
    samples = _samples(shards, rows.ends, wanted)
    return [
        {
            "title": f"Samples by {name}",
            "note": f"Drawn at random{where}, the lowest tenth of the scored rows first. A faded picture is not "
            "selected, for the reason under it.",
            "deciles": [
                {
                    "name": f"decile {number}",
                    "range": f"{low:.3g} to {high:.3g}",
                    "samples": [samples[row] for row in chosen if row in samples],
                }
                for number, ((low, high), chosen) in enumerate(deciles, start=1)
            ],
        }
        for name, deciles in drawn.items()
    ]


def _page_without_scores(
    shards: Sequence[Shard], rows: _Rows, among: np.ndarray, generator: np.random.Generator, where: str
) -> list[dict[str, Any]]:
    candidates = np.flatnonzero(among)
    if not len(candidates):
        return []
    count = min(_SAMPLES_WITHOUT_SCORES, len(candidates))
    chosen = sorted(generator.choice(candidates, count, replace=False).tolist())
    found = list(_samples(shards, rows.ends, chosen).values())
    part = {"name": "selected", "range": "", "samples": found}
    return [
        {
            "title": "Samples",
            "note": f"Drawn at random{where}: no score tells the rows apart.",
            "deciles": [part],
        }
    ]


def _draw(
    values: np.ndarray, inside: np.ndarray, generator: np.random.Generator
) -> list[tuple[tuple[float, float], list[int]]]:
    """For each tenth of the finite values its ends, and some rows of those `inside`; equal values stay together."""
    finite = np.isfinite(values)
    edges = np.quantile(values[finite], np.linspace(0, 1, 11))
    candidates = np.flatnonzero(finite & inside)
    tenth = np.searchsorted(edges[1:-1], values[candidates], side="right")
    deciles = []
    for number in range(10):
        among = candidates[tenth == number]
        chosen = (
            generator.choice(among, min(_SAMPLES_A_DECILE, len(among)), replace=False) if len(among) else []
        )
        ordered = sorted((int(row) for row in chosen), key=lambda row: float(values[row]))
        deciles.append(((float(edges[number]), float(edges[number + 1])), ordered))
    return deciles


def _samples(shards: Sequence[Shard], ends: Sequence[int], rows: Sequence[int]) -> dict[int, dict[str, Any]]:
    """Row of the set -> its caption, the reason it left and its thumbnail; rows without a picture are left out."""
    found: dict[int, dict[str, Any]] = {}
    for shard, start, end in zip(shards, [0, *ends], ends, strict=False):
        own = [row for row in rows if start <= row < end]
        if not own:
            continue
        table = read_table(shard)
        reasons = fates(table)
        keys, captions = table["key"].to_pylist(), table["caption"].to_pylist()
        by_key = {keys[row - start]: row for row in own}
        wanted = {keys[row - start]: captions[row - start] or "" for row in own}
        for picture in pictures_of(shard, wanted):
            row = by_key[picture.key]
            reason = reasons[row - start]
            try:
                uri = _thumbnail(decode(picture, _THUMBNAIL))
            except CorruptPicture:
                uri = None
            found[row] = {
                "caption": picture.caption,
                "reason": None if reason == SELECTED else reason.replace("_", " "),
                "uri": uri,
            }
    return found


def _thumbnail(pixels: np.ndarray) -> str:
    """uint8 [S, S, 3] as a JPEG inside an address."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
