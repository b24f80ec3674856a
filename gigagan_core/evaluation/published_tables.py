"""The paper's Tables 1 to 5 and A1 as data, and our figures beside them, with what makes them incomparable.

Each line of `tables/*.csv` is one published number: its model, what it is, network, resolution and count as far as
they are stated, how sure it is (V2: two or more independent notes state it; V1: one), and where it is from.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from typing import Any

from gigagan_core.errors import GigaganError, nearest
from gigagan_core.evaluation.figures import Figure
from gigagan_core.evaluation.names import short_count
from gigagan_core.evaluation.protocols.protocol import Protocol

TABLES = {
    "table1": "Table 1: what each part adds (64 px, 100k steps, batch 256)",
    "table2": "Table 2: zero-shot COCO 2014",
    "table3": "Table 3: COCO 2017, fast samplers",
    "table4": "Table 4: upsampling 128 to 1024 px",
    "table5": "Table 5: upsampling ImageNet, 64 to 256 px",
    "tableA1": "Table A1: ImageNet 256, by class",
}
# the published quantity -> the measure of ours that is meant by it
_MEASURES = {"fid": "fd", "clip-score": "clip-score", "is": "is", "patch-fid": "patch-fd", "lpips": "lpips"}
_TRUNCATED = (
    "-truncated"  # how the name ends of a CLIP that sees images as the authors' released code shows them
)


@dataclass(frozen=True)
class Published:
    """One number of a table. quantity: fid, clip-score, is, patch-fid, lpips, parameters, or seconds an image.

    extractor, resolution (pixels), count (generated images): None where not stated. mark: V1 or V2. source: where.
    unstated: what else of its making is not published and moves it, None where a protocol of ours repeats it.
    """

    table: str
    model: str
    quantity: str
    value: float
    extractor: str | None
    resolution: int | None
    count: int | None
    mark: str
    source: str
    unstated: str | None


def load(name: str) -> list[Published]:
    """Every number of a table, in its order. name: a key of TABLES. Raises GigaganError for another."""
    if name not in TABLES:
        raise GigaganError(f"no published table {name!r}; {nearest(name, TABLES)}")
    text = resources.files("gigagan_core.evaluation").joinpath("tables", f"{name}.csv").read_text("utf-8")
    return [
        Published(
            name,
            row["model"],
            row["quantity"],
            float(row["value"]),
            row["extractor"] or None,
            int(row["resolution"]) if row["resolution"] else None,
            int(row["count"]) if row["count"] else None,
            row["mark"],
            row["source"],
            row["unstated"] or None,
        )
        for row in csv.DictReader(text.splitlines())
    ]


def beside(
    figures: Iterable[Figure],
    table: str | None = None,
    protocol: Protocol | None = None,
    cautions: Iterable[str] = (),
) -> list[dict[str, Any]]:
    """Published numbers with our figure of the same measure beside each, cells by column, in the tables' order.

    table: a key of TABLES; None: the tables that have a number by a network of ours. protocol: that the figures were
    taken by; None: by none. cautions: of the evaluation; one that a figure carries too counts for that figure alone.
    Columns: table, model, quantity, published, mark, source, ours, figure (its full name; both None where we have
    none), differs (sentences: why the two may not be compared; empty only where the number's making is published and
    ours is the same, without a caution).
    """
    ours = [figure for figure in figures if "/" not in figure.name]  # baselines stand beside nothing
    of_figures = {caution for figure in ours for caution in figure.cautions}
    of_all = [caution for caution in cautions if caution not in of_figures]
    rows = []
    for name in [table] if table else TABLES:
        numbers = load(name)
        known = {number.extractor for number in numbers if number.quantity in _MEASURES} - {None}
        if table is None and not any(figure.extractor in known for figure in ours):
            continue
        is_its = protocol is not None and protocol.rows == name
        of_table = [] if is_its else ["ours was taken by no protocol of this table"]
        rows += [_row(number, _partner(number, ours), [*of_table, *of_all]) for number in numbers]
    return rows


def _partner(number: Published, figures: list[Figure]) -> Figure | None:
    """Our figure of the same measure: by the same network, resolution and count where there is one."""
    same = [figure for figure in figures if figure.metric == _MEASURES.get(number.quantity)]
    return min(same, key=lambda figure: len(_differences(number, figure)), default=None)


def _row(number: Published, figure: Figure | None, further: list[str]) -> dict[str, Any]:
    return {
        "table": TABLES[number.table],
        "model": number.model,
        "quantity": number.quantity,
        "published": number.value,
        "mark": number.mark,
        "source": number.source,
        "ours": None if figure is None else figure.value,
        "figure": None if figure is None else figure.name,
        "differs": [] if figure is None else [*_differences(number, figure), *figure.cautions, *further],
    }


def _differences(number: Published, figure: Figure) -> list[str]:
    found = []
    network = figure.extractor or "another"
    if number.unstated is not None:  # whether a code that is not known truncated is not known either
        network = network.removesuffix(_TRUNCATED)
    if number.extractor != network:
        found.append(f"theirs by {number.extractor or 'an unstated network'}, ours by {network}")
    parts = figure.name.split("_")
    resolution, count = parts[-2], parts[-1]
    for what, published, own in (
        ("px", number.resolution, resolution),
        ("images", number.count and short_count(number.count), count),
    ):
        if published is None:
            found.append(f"theirs does not state its {'resolution' if what == 'px' else 'count'}")
        elif str(published) != own and not (what == "images" and figure.metric == "patch-fd"):
            found.append(f"theirs {published} {what}, ours {own}")
    if number.unstated is not None:
        found.append(f"theirs does not state {number.unstated}")
    return found
