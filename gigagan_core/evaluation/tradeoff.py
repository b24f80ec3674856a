"""Fidelity against following the caption: a truncation sweep's figures, its Pareto front, its page."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from gigagan_core.config.tradeoff import TradeoffSettings
from gigagan_core.errors import GigaganError
from gigagan_core.evaluation.bootstrap import Interval, bootstrap_mean
from gigagan_core.evaluation.clip_score import clip_score
from gigagan_core.evaluation.feature_set import FeatureSet
from gigagan_core.evaluation.frechet import frechet_distance
from gigagan_core.evaluation.frechet_error import distance_interval

GLOBAL, PROMPT, BOTH = "global mean", "prompt mean", "both"
SCHEMA = "gigagan-tradeoff"


@dataclass(frozen=True)
class Point:
    """One truncation's figures. psi, prompt_psi: 1 changes nothing. fd: lower is better; clip: higher is.

    on_front: no other point has both at least as good and one better.
    """

    psi: float
    prompt_psi: float
    fd: float
    fd_interval: Interval
    clip: float
    clip_interval: Interval
    on_front: bool = False

    @property
    def key(self) -> str:
        """Its name in files."""
        return _key(self.psi, self.prompt_psi)

    @property
    def curve(self) -> str:
        """What it is truncated towards; without truncation it begins both curves."""
        if self.prompt_psi == 1.0:
            return GLOBAL
        return PROMPT if self.psi == 1.0 else BOTH


@dataclass(frozen=True)
class Sweep:
    """Every point, those on the front marked. names: of the two figures, "fd" and "clip". settings: of the sweep."""

    points: Sequence[Point]
    names: Mapping[str, str]
    settings: Mapping[str, Any] = field(default_factory=dict)


def judge(
    psi: float,
    prompt_psi: float,
    real: FeatureSet,
    generated: Tensor,
    texts: Tensor,
    captions: list[str],
    settings: TradeoffSettings,
    groups: Tensor | None = None,
) -> Point:
    """The figures of one truncation's images: features generated [N, E] of N captions, texts [N, E] theirs.

    groups: int64 [N], equal where captions name variants of one drawing, see `bootstrap_mean`.
    """
    fake = FeatureSet.of(generated, "generated images")
    draws = {"resamples": settings.bootstrap_resamples, "seed": settings.seed, "level": settings.confidence}
    fd = frechet_distance(real.moments, fake.moments).distance
    score = clip_score(generated, texts, captions, groups=groups, **draws)
    return Point(
        psi,
        prompt_psi,
        fd,
        distance_interval(real, fake, fd, groups=(groups, groups), **draws),
        score.score,
        bootstrap_mean(score.per_image, groups=groups, **draws),
    )


def sweep(
    settings: TradeoffSettings,
    folder: Path,
    judged: Callable[[float, float], Point],
    on_point: Callable[[Point], None] = lambda point: None,
) -> list[Point]:
    """Every point of the settings, those on the front marked; what lies in `folder` from an earlier run is not redone.

    judged: gives the figures of (psi, prompt_psi). on_point: called with each point, old or new, as it is there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    points = []
    for psi, prompt_psi in settings.points():
        path = folder / f"{_key(psi, prompt_psi)}.json"
        point = _read(path) or judged(psi, prompt_psi)
        _write(path, point)
        points.append(point)
        on_point(point)
    return with_front(points)


def with_front(points: Sequence[Point]) -> list[Point]:
    """The points, each told whether it lies on the Pareto front of a low distance and a high CLIP score."""

    def beaten(point: Point) -> bool:
        return any(
            other.fd <= point.fd
            and other.clip >= point.clip
            and (other.fd < point.fd or other.clip > point.clip)
            for other in points
        )

    return [replace(point, on_front=not beaten(point)) for point in points]


def curves(points: Sequence[Point]) -> dict[str, list[Point]]:
    """The points by what they are truncated towards, from little truncation to much; the untruncated begins each."""
    start = [point for point in points if point.psi == point.prompt_psi == 1.0]
    found: dict[str, list[Point]] = {}
    for name in (GLOBAL, PROMPT, BOTH):
        of_curve = [point for point in points if point.curve == name and point not in start]
        if of_curve:
            found[name] = ([] if name == BOTH else start) + sorted(
                of_curve, key=lambda point: (-point.psi, -point.prompt_psi)
            )
    return found or {GLOBAL: start}


def as_json(sweep: Sweep) -> dict[str, Any]:
    """JSON-able."""
    return {
        "schema": SCHEMA,
        "schema_version": 1,
        "figures": dict(sweep.names),
        "settings": dict(sweep.settings),
        "points": [asdict(point) | {"curve": point.curve} for point in sweep.points],
        "front": [point.key for point in sweep.points if point.on_front],
    }


def read(file: Path) -> Sweep:
    """What the stage wrote as `tradeoff.json`. Raises GigaganError for another file."""
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        if document["schema"] != SCHEMA:
            raise ValueError(f"its schema is {document['schema']!r}")
        points = [_point(stored) for stored in document["points"]]
        return Sweep(points, document["figures"], document["settings"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise GigaganError(
            f"{file}: no trade-off ({error}); name an artifact of `gigagan tradeoff`"
        ) from error


def _key(psi: float, prompt_psi: float) -> str:
    """The name of a truncation in files, with every digit: two truncations never share one."""
    one, other = (repr(float(each)).removesuffix(".0") for each in (psi, prompt_psi))
    return f"psi-{one}-prompt-{other}"


def _write(path: Path, point: Point) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(asdict(point), allow_nan=False))
    partial.rename(path)


def _read(path: Path) -> Point | None:
    if not path.is_file():
        return None
    try:
        return _point(json.loads(path.read_text()))
    except (ValueError, TypeError, KeyError) as error:
        raise GigaganError(f"{path}: no point of a sweep ({error}); delete it and run again") from error


def _point(stored: Mapping[str, Any]) -> Point:
    """From what `asdict` gave of it, and perhaps its curve, which follows from the rest."""
    fields = {name: value for name, value in stored.items() if name != "curve"}
    intervals = {name: Interval(**fields[name]) for name in ("fd_interval", "clip_interval")}
    return Point(**{**fields, **intervals})
