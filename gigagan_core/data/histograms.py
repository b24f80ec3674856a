"""Histograms as inline SVG: all rows behind, the selected ones before; no script, colours from the page."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape

import numpy as np

_WIDTH, _HEIGHT = 340, 170
_LEFT, _RIGHT, _TOP, _BOTTOM = 8, 8, 16, 20
_BARS = 36
STYLE = """
.hist-all { fill: var(--bar); } .hist-kept { fill: var(--accent); }
.key-all { background: var(--bar); } .key-kept { background: var(--accent); }
"""


@dataclass(frozen=True)
class Histogram:
    """edges: [B + 1]. everything, kept: rows by bar [B]. above: rows beyond the last edge, which no bar shows.

    whole: the values are whole numbers, and the edges lie half-way between two.
    """

    edges: np.ndarray
    everything: np.ndarray
    kept: np.ndarray
    above: int
    whole: bool

    @classmethod
    def of(cls, values: np.ndarray, kept: np.ndarray, whole: bool = False) -> Histogram | None:
        """Of [N] values and whether each row is selected; None where no value is finite.

        whole: the values are whole numbers, so a bar holds equally many of them. A long tail above is cut off at its
        99.5th percentile: a single caption of 100 KB would press all others into one bar.
        """
        finite = np.isfinite(values)
        values, kept = values[finite].astype(np.float64), kept[finite]
        if not len(values):
            return None
        low, high = float(values.min()), float(values.max())
        far = float(np.quantile(values, 0.995))
        if high - low > 2 * (far - low) > 0:
            high = far
        if whole:
            step = max(1, math.ceil((high - low + 1) / _BARS))
            edges = np.arange(low, high + 1 + step, step) - 0.5
        else:
            room = (high - low) or max(1e-3, abs(high) * 1e-3)
            edges = np.linspace(low, low + room, _BARS + 1)
        everything, _ = np.histogram(values, edges)
        above = int((values > edges[-1]).sum())
        return cls(edges, everything, np.histogram(values[kept], edges)[0], above, whole)

    def svg(self, label: str) -> str:
        """The drawing as text; `label` is escaped."""
        most = int(self.everything.max()) or 1
        width = (_WIDTH - _LEFT - _RIGHT) / len(self.everything)
        floor = _HEIGHT - _BOTTOM
        parts = [
            f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(label, quote=True)}">',
            f'<line class="rule" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{floor}" y2="{floor}"/>',
            f'<text x="{_LEFT}" y="10">{most:,} rows in the highest bar</text>',
        ]
        for css, counts in (("hist-all", self.everything), ("hist-kept", self.kept)):
            for bar, count in enumerate(counts.tolist()):
                height = count / most * (floor - _TOP)
                if count:
                    parts.append(
                        f'<rect class="{css}" x="{_LEFT + bar * width:.1f}" y="{floor - height:.1f}" '
                        f'width="{max(width - 1, 0.5):.1f}" height="{height:.1f}"/>'
                    )
        inward = 0.5 if self.whole else 0.0
        low, high = self.edges[0] + inward, self.edges[-1] - inward
        for x, anchor, value in (
            (_LEFT, "start", low),
            (_WIDTH / 2, "middle", (low + high) // 2 if self.whole else (low + high) / 2),
            (_WIDTH - _RIGHT, "end", high),
        ):
            parts.append(f'<text x="{x}" y="{_HEIGHT - 6}" text-anchor="{anchor}">{_short(value)}</text>')
        return "".join([*parts, "</svg>"])


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
