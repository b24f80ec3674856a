"""A report: every figure, verdict and picture of an evaluation, as `report.json` and one HTML page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gigagan_core.config.base import all_settings
from gigagan_core.config.evaluate import OPENMOJI, EvaluateSettings
from gigagan_core.evaluation import baselines, report_page, tradeoff
from gigagan_core.evaluation.claims import Claim
from gigagan_core.evaluation.curves import Curve
from gigagan_core.evaluation.galleries import Gallery, Sample
from gigagan_core.evaluation.judging import SetFigures, UpsamplerFigures
from gigagan_core.evaluation.latency import Timing
from gigagan_core.evaluation.names import extractor_name
from gigagan_core.evaluation.neighbours import Memorisation, Repetition
from gigagan_core.evaluation.report_figures import figures, metrics, set_values
from gigagan_core.evaluation.report_file import FILE, SCHEMA, SCHEMA_VERSION
from gigagan_core.evaluation.tradeoff import Sweep

GALLERIES = "galleries"
OWN_PROTOCOL = "own-heldout"
"""What the protocol of the drawings is called on other pictures."""


@dataclass(frozen=True)
class Report:
    """All that a report shows.

    settings: of the evaluation. count: held-out images judged; independent: how many of them count as independent.
    judge, condition: facts about the encoders (``name``, ``sha256``, ...). sets: the base model's figures and its
    baselines', "generated" first. upsamplers: figures of every way to enlarge. claims: the verdicts. cautions:
    sentences a reader must know. samples: one for each shown caption; strips: the same for the upsampler on real
    images. galleries: pictures chosen by a figure. memorisation, repetition: of the nearest neighbours. tradeoff: the
    truncation sweep of the same model, where there is one. timings: of the networks, where asked for. curves: of
    training. lineage: lines of `evaluation.lineage`. attribution: licences and sources of the data. record: git commit,
    MLflow run, machine, packages, time. protocol: its name, by the held-out pictures.
    """

    settings: EvaluateSettings
    count: int
    independent: int
    judge: Mapping[str, Any]
    condition: Mapping[str, Any]
    sets: Sequence[SetFigures]
    upsamplers: Sequence[UpsamplerFigures]
    claims: Sequence[Claim]
    cautions: Sequence[str]
    samples: Sequence[Sample]
    strips: Sequence[Sample]
    galleries: Sequence[Gallery] = ()
    memorisation: Memorisation | None = None
    repetition: Repetition | None = None
    tradeoff: Sweep | None = None
    timings: Sequence[Timing] = ()
    curves: Sequence[Curve] = ()
    lineage: Sequence[Mapping[str, Any]] = ()
    attribution: Sequence[str] = ()
    record: Mapping[str, Any] = field(default_factory=dict)
    protocol: str = OPENMOJI

    @property
    def extractor(self) -> str:
        """The judge's name, as it stands in every figure's name."""
        return extractor_name(self.judge["name"])


def as_json(report: Report) -> dict[str, Any]:
    """The report without its pictures, JSON-able; captions raw, for JSON needs no other escaping."""
    return {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "protocol": report.protocol,
        "settings": all_settings(report.settings),
        "count": report.count,
        "independent": report.independent,
        "encoders": {"judge": dict(report.judge), "condition": dict(report.condition)},
        "figures": {figure.name: figure.as_json() for figure in figures(report)},
        "metrics": metrics(report),
        "claims": [claim.as_dict() for claim in report.claims],
        "cautions": list(report.cautions),
        "sets": [_set_json(figures) for figures in report.sets],
        "upsamplers": [asdict(figures) for figures in report.upsamplers],
        "baselines": {"blur_size": baselines.BLUR_SIZE},
        "samples": [sample.caption for sample in report.samples],
        "galleries": galleries_json(report.galleries),
        "tradeoff": report.tradeoff and tradeoff.as_json(report.tradeoff),
        "latency": [asdict(timing) for timing in report.timings],
        "curves": [asdict(curve) for curve in report.curves],
        "lineage": [dict(line) for line in report.lineage],
        "attribution": list(report.attribution),
        "record": dict(report.record),
    }


def galleries_json(galleries: Sequence[Gallery]) -> list[dict[str, Any]]:
    """The galleries without their pictures, JSON-able; captions raw."""
    return [
        {
            "id": each.id,
            "title": each.title,
            "note": each.note,
            "shown": [{"caption": sample.caption, "note": sample.note} for sample in each.samples],
        }
        for each in galleries
    ]


def _set_json(figures: SetFigures) -> dict[str, Any]:
    return {
        "id": figures.id,
        "label": figures.label,
        "figures": set_values(figures),
        "fd": asdict(figures.fd) if figures.fd else None,
        "fd_interval": asdict(figures.fd_interval) if figures.fd_interval else None,
        "clip_interval": asdict(figures.clip.interval) if figures.clip else None,
        "retrieval_interval": asdict(figures.retrieval.interval) if figures.retrieval else None,
    }


def write(report: Report, folder: Path) -> dict[str, Path]:
    """Write `report.json`, `report.html` and the picture grids; returns the paths by name."""
    paths = {"json": folder / FILE, "html": folder / "report.html"}
    paths["json"].write_text(json.dumps(as_json(report), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    paths["html"].write_text(report_page.render(report, metrics(report)), encoding="utf-8")
    return paths | write_grids(
        folder, [("samples", report.samples, 3), ("upsampler", report.strips, 1)], report.galleries
    )


def write_grids(
    folder: Path, sheets: Sequence[tuple[str, Sequence[Sample], int]], galleries: Sequence[Gallery]
) -> dict[str, Path]:
    """Write a PNG sheet of each (name, samples, columns) and gallery that has pictures; returns the paths by name."""
    from gigagan_core.evaluation.pictures import Row, grid

    (folder / GALLERIES).mkdir(exist_ok=True)
    paths = {}
    for name, samples, columns in [
        *sheets,
        *((f"{GALLERIES}/{gallery.id}", gallery.samples, 4) for gallery in galleries),
    ]:
        if samples:
            rows = [Row(sample.caption, tuple(sample.images.values())) for sample in samples]
            paths[name] = folder / f"{name}.png"
            grid(rows, list(samples[0].images), columns=columns).save(paths[name])
    return paths
