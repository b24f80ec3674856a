"""Line charts as inline SVG: sharp at any size, no script, colours from the page (light and dark)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 340, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 10, 34
_POINTS = 400


@dataclass(frozen=True)
class Line:
    """One curve: name for the legend, points (x, y) by rising x."""

    name: str
    points: tuple[tuple[float, float], ...]


def line_chart(lines: Sequence[Line], x_label: str) -> str:
    """SVG text of a chart of lines over a common axis; every string in it is escaped.

    Non-finite points are left out, long curves thinned to means of equal stretches. Empty without a point.
    """
    thinned = [Line(line.name, _thin(line.points)) for line in lines]
    thinned = [line for line in thinned if line.points]
    if not thinned:
        return ""
    xs = [x for line in thinned for x, _ in line.points]
    ys = [y for line in thinned for _, y in line.points]
    x_low, x_high = min(xs), max(xs)
    y_ticks = ticks(min(ys), max(ys))
    # a flat line has one tick, and stands in the middle
    y_low, y_high = (y_ticks[0], y_ticks[-1]) if len(y_ticks) > 1 else (y_ticks[0] - 1, y_ticks[0] + 1)

    def across(x: float) -> float:
        return _LEFT + (x - x_low) / ((x_high - x_low) or 1) * (_WIDTH - _LEFT - _RIGHT)

    def up(y: float) -> float:
        return _HEIGHT - _BOTTOM - (y - y_low) / ((y_high - y_low) or 1) * (_HEIGHT - _TOP - _BOTTOM)

    label = escape(f"{', '.join(line.name for line in thinned)} over {x_label}", quote=True)
    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">']
    for tick in y_ticks:
        y = up(tick)
        parts.append(f'<line class="rule" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{_short(tick)}</text>')
    x_ticks = [tick for tick in ticks(x_low, x_high) if x_low <= tick <= x_high]
    for tick in x_ticks:
        x = across(tick)
        anchor = "end" if x > _WIDTH - 30 else "middle"
        parts.append(
            f'<text x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 14}" text-anchor="{anchor}">{_short(tick)}</text>'
        )
    parts.append(
        f'<text class="axis" x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 4}" text-anchor="middle">'
        f"{escape(x_label)}</text>"
    )
    for number, line in enumerate(thinned):
        path = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in line.points)
        parts.append(f'<polyline class="line line-{number % 4}" points="{path}"/>')
    parts.append("</svg>")
    return "".join(parts)


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers that cover low to high, about `about` of them; equal ends give one tick."""
    if high <= low:
        return [low]
    raw = (high - low) / about
    power = 10 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
    first = math.floor(low / step + 1e-9)
    return [number * step for number in range(first, math.ceil(high / step - 1e-9) + 1)]


def _thin(points: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    finite = [(float(x), float(y)) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    stretch = -(-len(finite) // _POINTS)
    if stretch <= 1:
        return tuple(finite)
    pieces = [finite[start : start + stretch] for start in range(0, len(finite), stretch)]
    return tuple(
        (sum(x for x, _ in piece) / len(piece), sum(y for _, y in piece) / len(piece)) for piece in pieces
    )


def _short(value: float) -> str:
    """1500000 -> 1.5M, 20000 -> 20k, 0.25 -> 0.25."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{round(value, 10):g}"
