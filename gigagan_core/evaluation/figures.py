"""One figure of an evaluation: value, name, interval, counts, and what a reader must know before quoting it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gigagan_core.evaluation.bootstrap import Interval
from gigagan_core.evaluation.extractors.base import Extractor
from gigagan_core.evaluation.names import metric_name


@dataclass(frozen=True)
class Figure:
    """name: by `names.metric_name`. metric: short name. real, fake: images that took part, 0 where none of that side.

    interval: for the images drawn, or None where there is none. spread: standard deviation over subsets or splits, or
    None. better: "lower" or "higher". details: settings and diagnostics, JSON-able. cautions: sentences.
    """

    name: str
    metric: str
    value: float
    real: int
    fake: int
    better: str
    extractor: str | None = None
    interval: Interval | None = None
    spread: float | None = None
    details: dict[str, Any] = field(default_factory=dict)
    cautions: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """JSON-able."""
        interval = self.interval and {
            "low": self.interval.low,
            "high": self.interval.high,
            "level": self.interval.level,
            "method": self.interval.method,
        }
        return {
            "metric": self.metric,
            "value": self.value,
            "better": self.better,
            "extractor": self.extractor,
            "images": {"real": self.real, "fake": self.fake},
            "interval": interval,
            "spread": self.spread,
            "details": self.details,
            "cautions": list(self.cautions),
        }


def figure_from_json(name: str, document: Mapping[str, Any]) -> Figure:
    """A figure of a report's `figures`: what `Figure.as_json` gave. Raises KeyError for what is none."""
    interval = document["interval"]
    return Figure(
        name=name,
        metric=document["metric"],
        value=float(document["value"]),
        real=document["images"]["real"],
        fake=document["images"]["fake"],
        better=document["better"],
        extractor=document["extractor"],
        interval=interval and Interval(**interval),
        spread=document["spread"],
        details=document["details"],
        cautions=tuple(document["cautions"]),
    )


@dataclass(frozen=True)
class Naming:
    """What the names of one evaluation's figures share.

    resolution: pixels, of real and generated images alike, or "native" where sizes differ. count: generated images.
    fake_resolution: of the generated images, for figures that look at no real one; None: as `resolution`.
    """

    resolution: int | str
    count: int
    fake_resolution: int | str | None = None

    def __call__(
        self,
        metric: str,
        extractor: Extractor | None = None,
        count: int | None = None,
        with_real: bool = True,
    ) -> str:
        """The full name of a metric; a Frechet distance of the published Inception is `fid`, any other `fd`.

        with_real: whether real images took part.
        """
        if extractor is not None and extractor.published:
            metric = (
                metric.replace("fd", "fid", 1) if metric.startswith("fd") else metric.replace("-fd", "-fid")
            )
        of_fakes = None if with_real else self.fake_resolution
        return metric_name(
            metric,
            extractor=None if extractor is None else extractor.name,
            resolution=self.resolution if of_fakes is None else of_fakes,
            count=self.count if count is None else count,
            sha256=None if extractor is None else extractor.sha256,
        )
