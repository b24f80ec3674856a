"""Line charts as inline SVG: sharp at any size, no script, colours from the page (light and dark)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

_WIDTH, _HEIGHT = 340, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 10, 34
_POINTS = 400


@dataclass(frozen=True)
class Line:
    """One curve: name for the legend, points (x, y) by rising x."""

    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Mark:
    """One point of a trade-off: x, y, its label, whether it stands out, and where the label is, beside what a pointer
    over the mark shows."""

    x: float
    y: float
    label: str
    strong: bool = False
    place: Literal["above", "below", "hidden"] = "above"


def line_chart(lines: Sequence[Line], x_label: str) -> str:
    """SVG text of a chart of lines over a common axis; every string in it is escaped.

    Non-finite points are left out, long curves thinned to means of equal stretches. Empty without a point.
    """
    thinned = [Line(line.name, _thin(line.points)) for line in lines]
    thinned = [line for line in thinned if line.points]
    if not thinned:
        return ""
    frame = _Frame.of([point for line in thinned for point in line.points])
    parts = frame.opening(f"{', '.join(line.name for line in thinned)} over {x_label}", x_label)
    parts += [
        f'<polyline class="line line-{number % 4}" points="{frame.path(line.points)}"/>'
        for number, line in enumerate(thinned)
    ]
    return "".join([*parts, "</svg>"])


def trade_chart(curves: Mapping[str, Sequence[Mark]], x_label: str, y_label: str) -> str:
    """SVG text of marks joined in their order, a colour a curve; every string in it is escaped.

    A label that would lie on another is left out; a pointer over the mark shows it.
    """
    frame = _Frame.of([(mark.x, mark.y) for curve in curves.values() for mark in curve], wide=True)
    parts = frame.opening(f"{y_label} over {x_label}", x_label, y_label)
    parts += [
        f'<polyline class="line line-{number % 4}" points="{frame.path([(mark.x, mark.y) for mark in curve])}"/>'
        for number, curve in enumerate(curves.values())
    ]
    placed = [(number, mark) for number, curve in enumerate(curves.values()) for mark in curve]
    for number, mark in placed:
        strong, size = (" strong", 4.5) if mark.strong else ("", 3)
        parts.append(
            f'<circle class="mark line-{number % 4}{strong}" cx="{frame.across(mark.x):.1f}" '
            f'cy="{frame.up(mark.y):.1f}" r="{size}"><title>{escape(mark.label)}</title></circle>'
        )
    return "".join([*parts, *_labels(frame, [mark for _, mark in placed]), "</svg>"])


def _labels(frame: _Frame, marks: Sequence[Mark]) -> list[str]:
    """Texts beside marks, those that stand out first."""
    parts: list[str] = []
    taken: list[tuple[float, float]] = []
    for mark in sorted(marks, key=lambda mark: not mark.strong):
        x, y = frame.across(mark.x), frame.up(mark.y) + (18 if mark.place == "below" else 0)
        if mark.place != "hidden" and all(abs(x - left) > 26 or abs(y - top) > 12 for left, top in taken):
            taken.append((x, y))
            anchor, left = ("end", x - 8) if x > frame.width - 60 else ("start", x + 8)
            parts.append(
                f'<text x="{left:.1f}" y="{y - 6:.1f}" text-anchor="{anchor}">{escape(mark.label)}</text>'
            )
    return parts


@dataclass(frozen=True)
class _Frame:
    """Axes: from figures to places on the chart."""

    width: int
    height: int
    x_low: float
    x_high: float
    y_ticks: tuple[float, ...]

    @classmethod
    def of(cls, points: Sequence[tuple[float, float]], wide: bool = False) -> _Frame:
        xs, ys = [x for x, _ in points], [y for _, y in points]
        # a mark is no line: it needs room on both sides
        room = (max(xs) - min(xs)) * 0.04 if wide else 0
        width, height = (_WIDTH * 1.5, _HEIGHT * 1.8) if wide else (_WIDTH, _HEIGHT)
        return cls(
            round(width), round(height), min(xs) - room, max(xs) + room, tuple(ticks(min(ys), max(ys)))
        )

    def across(self, x: float) -> float:
        room = self.width - _LEFT - _RIGHT
        return _LEFT + (x - self.x_low) / ((self.x_high - self.x_low) or 1) * room

    def up(self, y: float) -> float:
        # a flat line has one tick, and stands in the middle
        low, high = self.y_ticks[0], self.y_ticks[-1]
        low, high = (low, high) if len(self.y_ticks) > 1 else (low - 1, high + 1)
        room = self.height - _TOP - _BOTTOM
        return self.height - _BOTTOM - (y - low) / ((high - low) or 1) * room

    def path(self, points: Sequence[tuple[float, float]]) -> str:
        return " ".join(f"{self.across(x):.1f},{self.up(y):.1f}" for x, y in points)

    def opening(self, label: str, x_label: str, y_label: str = "") -> list[str]:
        """The start of the SVG, with rules, ticks and the axes' names."""
        view = f"0 0 {self.width} {self.height}"
        parts = [f'<svg viewBox="{view}" role="img" aria-label="{escape(label, quote=True)}">']
        right = self.width - _RIGHT
        for tick in self.y_ticks:
            y = self.up(tick)
            parts.append(f'<line class="rule" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(f'<text x="{_LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{_short(tick)}</text>')
        for tick in ticks(self.x_low, self.x_high):
            if self.x_low <= tick <= self.x_high:
                x, y = self.across(tick), self.height - _BOTTOM + 14
                anchor = "end" if x > self.width - 30 else "middle"
                parts.append(f'<text x="{x:.1f}" y="{y}" text-anchor="{anchor}">{_short(tick)}</text>')
        parts.append(
            f'<text class="axis" x="{(_LEFT + right) / 2}" y="{self.height - 4}" text-anchor="middle">'
            f"{escape(x_label)}</text>"
        )
        if y_label:
            middle = (_TOP + self.height - _BOTTOM) / 2
            parts.append(
                f'<text class="axis" transform="translate(9 {middle}) rotate(-90)" text-anchor="middle">'
                f"{escape(y_label)}</text>"
            )
        return parts


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
