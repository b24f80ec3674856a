"""A report: every figure, verdict and picture of an evaluation, as `report.json` and one HTML page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from gigagan_core.config.base import all_settings
from gigagan_core.config.evaluate import EvaluateSettings
from gigagan_core.evaluation import baselines, report_page
from gigagan_core.evaluation.claims import Claim
from gigagan_core.evaluation.curves import Curve
from gigagan_core.evaluation.judging import SetFigures, UpsamplerFigures
from gigagan_core.evaluation.names import extractor_name, metric_name

SCHEMA = "gigagan-report"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Sample:
    """A held-out caption (a stranger's text, raw) and its pictures by column title, uint8 [3, H, W]."""

    caption: str
    images: Mapping[str, Tensor]


@dataclass(frozen=True)
class Report:
    """All that a report shows.

    settings: of the evaluation. count: held-out images judged; independent: how many of them count as
    independent. judge, condition: facts about the encoders (``name``, ``sha256``, ...). sets: the base
    model's figures and its baselines', "generated" first. upsamplers: figures of every way to enlarge.
    claims: the verdicts. cautions: sentences a reader must know. samples: one for each shown caption;
    strips: the same for the upsampler on real images. curves: of training. lineage: lines of
    `evaluation.lineage`. attribution: licences and sources of the data. record: git commit, MLflow run,
    machine, packages, time.
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
    curves: Sequence[Curve] = ()
    lineage: Sequence[Mapping[str, Any]] = ()
    attribution: Sequence[str] = ()
    record: Mapping[str, Any] = field(default_factory=dict)

    @property
    def extractor(self) -> str:
        """The judge's name, as it stands in every figure's name."""
        return extractor_name(self.judge["name"])


def metrics(report: Report) -> dict[str, float]:
    """Every figure by its full name (`names.metric_name`), baselines under ``baseline/<id>/``.

    The names are valid MLflow keys; the values are finite.
    """
    settings = report.settings

    def name(metric: str, resolution: int, count: int) -> str:
        return metric_name(metric, extractor=report.extractor, resolution=resolution, count=count)

    named: dict[str, float] = {}
    for figures in report.sets:
        prefix = "" if figures.id == "generated" else f"baseline/{figures.id}/"
        for metric, value in set_values(figures).items():
            named[prefix + name(metric, settings.image_size, report.count)] = value
    for figures in report.upsamplers:
        prefix = "" if figures.id == "upsampler" else f"baseline/{figures.id}/"
        size, patches = settings.upsampled_size, figures.patch_fd.count
        named[prefix + name(f"patch{settings.patch_size}-fd", size, patches)] = figures.patch_fd.distance
        # these two compare pixels: no encoder in their names
        named[prefix + f"psnr_{size}_{report.count}"] = figures.psnr
        named[prefix + f"consistency-rmse_{size}_{report.count}"] = figures.consistency
    return named


def set_values(figures: SetFigures) -> dict[str, float]:
    """The figures that a set has, by short name, in the order of the report's table."""
    values: dict[str, float] = {}
    if figures.fd is not None:
        values["fd"] = figures.fd.distance
    if figures.clip is not None:
        values["clip-score"] = figures.clip.score
        values["clip-score-shuffled"] = figures.clip.shuffled
        values["clip-score-difference"] = figures.clip.difference
        values["clip-score-difference-low"] = figures.clip.interval.low
        values["clip-score-difference-high"] = figures.clip.interval.high
    if figures.retrieval is not None:
        values[f"retrieval-at-{figures.retrieval.k}"] = figures.retrieval.recall
        values[f"retrieval-at-{figures.retrieval.k}-chance"] = figures.retrieval.chance
    if figures.manifold is not None:
        values["precision"] = figures.manifold.precision
        values["recall"] = figures.manifold.recall
    return values


def as_json(report: Report) -> dict[str, Any]:
    """The report without its pictures, JSON-able; captions raw, for JSON needs no other escaping."""
    return {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "protocol": report.settings.protocol,
        "settings": all_settings(report.settings),
        "count": report.count,
        "independent": report.independent,
        "encoders": {"judge": dict(report.judge), "condition": dict(report.condition)},
        "metrics": metrics(report),
        "claims": [claim.as_dict() for claim in report.claims],
        "cautions": list(report.cautions),
        "sets": [_set_json(figures) for figures in report.sets],
        "upsamplers": [asdict(figures) for figures in report.upsamplers],
        "baselines": {"blur_size": baselines.BLUR_SIZE},
        "samples": [sample.caption for sample in report.samples],
        "curves": [asdict(curve) for curve in report.curves],
        "lineage": [dict(line) for line in report.lineage],
        "attribution": list(report.attribution),
        "record": dict(report.record),
    }


def _set_json(figures: SetFigures) -> dict[str, Any]:
    return {
        "id": figures.id,
        "label": figures.label,
        "figures": set_values(figures),
        "fd": asdict(figures.fd) if figures.fd else None,
        "clip_interval": asdict(figures.clip.interval) if figures.clip else None,
        "retrieval_interval": asdict(figures.retrieval.interval) if figures.retrieval else None,
    }


def write(report: Report, folder: Path) -> dict[str, Path]:
    """Write `report.json`, `report.html` and the picture grids; returns the paths by name."""
    from gigagan_core.evaluation.pictures import Row, grid

    paths = {"json": folder / "report.json", "html": folder / "report.html"}
    paths["json"].write_text(json.dumps(as_json(report), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    paths["html"].write_text(report_page.render(report, metrics(report)), encoding="utf-8")
    for name, samples, columns in (("samples", report.samples, 3), ("upsampler", report.strips, 1)):
        if samples:
            rows = [Row(sample.caption, tuple(sample.images.values())) for sample in samples]
            paths[name] = folder / f"{name}.png"
            grid(rows, list(samples[0].images), columns=columns).save(paths[name])
    return paths
