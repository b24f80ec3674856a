"""The trade-off stage: a base model at several truncations, each judged, and the Pareto front among them.

Inputs by name: ``model`` (base-model), ``data`` (held-out shard set), ``condition`` and ``judge`` (encoder).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from gigagan_core import console
from gigagan_core.config.base import all_settings
from gigagan_core.config.tradeoff import TradeoffSettings
from gigagan_core.errors import GigaganError
from gigagan_core.stages.base import Outcome, RunContext, StageSpec, StageWork, materialise
from gigagan_core.stages.judge import check_judge, place
from gigagan_core.store.artifact import Artifact, Input

if TYPE_CHECKING:
    from gigagan_core.evaluation.tradeoff import Point

SPEC = StageSpec("tradeoff", kind="tradeoff", module=__name__)


def run(settings: TradeoffSettings, inputs: Mapping[str, Input], context: RunContext) -> Artifact:
    """The trade-off artifact: `tradeoff.json`, `tradeoff.html`. A killed sweep continues with the next point.

    Raises GigaganError where an input is missing or the judge took part in training the model.
    """
    from gigagan_core.encoders.roles import CONDITION, JUDGE, require_role

    missing = [name for name in ("model", "data", "condition", "judge") if inputs.get(name) is None]
    if missing:
        raise GigaganError(f"tradeoff needs {' and '.join(missing)}; give the artifact of each")
    if not settings.points():
        raise GigaganError("tradeoff has no point to judge; give psi or prompt_psi, such as psi=[1,0.8,0.6]")
    require_role(inputs["condition"], CONDITION)
    require_role(inputs["judge"], JUDGE)
    return materialise(SPEC, settings, inputs, context, _produce)


def _produce(work: StageWork) -> Outcome:
    from gigagan_core.evaluation import tradeoff
    from gigagan_core.evaluation.names import feature_space, metric_name
    from gigagan_core.evaluation.tradeoff_page import render

    points, extractor, count, available = _sweep(work)
    size = work.settings.image_size
    space = feature_space(extractor, work.settings.normalise_features)
    names = {
        key: metric_name(metric, extractor=by, resolution=size, count=count)
        for key, metric, by in (("fd", "fd", space), ("clip", "clip-score", extractor))
    }
    sweep = tradeoff.Sweep(points, names, all_settings(work.settings))
    (work.output / "tradeoff.json").write_text(
        json.dumps(tradeoff.as_json(sweep), indent=2, allow_nan=False) + "\n"
    )
    (work.output / "tradeoff.html").write_text(render(sweep), encoding="utf-8")
    for name, curve in tradeoff.curves(points).items():
        _log(work, name, curve, names)
    held_out = work.inputs["data"]
    work.run.log_dataset("held-out", held_out.uri, held_out.output_digest, held_out.manifest.get("counts"))
    for file in ("tradeoff.html", "tradeoff.json"):
        work.run.log_artifact(work.output / file)
    skipped = available - count
    return Outcome(
        counts={
            "in": available,
            "out": count,
            "rejected": {"over max_images": skipped} if skipped else {},
        },
        summary=_headlines(points, names),
        notes={"extractor": extractor, "front": [point.key for point in points if point.on_front]},
    )


def _sweep(work: StageWork) -> tuple[list[Point], str, int, int]:
    """The points, the judge's name as figures have it, how many images each has, and how many there were."""
    from gigagan_core.data.openmoji import base_name
    from gigagan_core.data.reader import load_all
    from gigagan_core.encoders.open_clip_encoder import load_encoder
    from gigagan_core.evaluation import baselines, tradeoff
    from gigagan_core.evaluation.clip_score import distinct_indices
    from gigagan_core.evaluation.extractors.clip import embedded_name
    from gigagan_core.evaluation.feature_set import FeatureSet
    from gigagan_core.evaluation.features import caption_features, image_features
    from gigagan_core.inference.generate import generate
    from gigagan_core.inference.places import find_device

    settings, inputs = work.settings, work.inputs
    device = find_device(None)
    condition, judge = load_encoder(place(inputs["condition"]), device), load_encoder(place(inputs["judge"]))
    check_judge(judge.sha256, condition.sha256, inputs, work)
    real, captions, _ = load_all(inputs["data"], settings.image_size)
    available = len(captions)
    chosen = baselines.sample(min(settings.max_images or available, available), available, settings.seed)
    real, captions = real[chosen], [captions[row] for row in chosen.tolist()]
    groups = distinct_indices([base_name(caption) for caption in captions])[1]
    options = {"batch_size": settings.batch_size, "normalise": settings.normalise_features}
    reference = FeatureSet.of(image_features(judge, real, **options), "held-out images")
    texts = caption_features(judge, captions)
    total = len(settings.points()) * len(captions)
    with console.progress("truncation sweep", total=total, unit="images") as bar:

        def judged(psi: float, prompt_psi: float) -> Point:
            images = generate(
                inputs["model"].path,
                captions,
                condition,
                seed=settings.seed,
                psi=psi,
                prompt_psi=prompt_psi,
                batch_size=settings.batch_size,
                device=device,
            )
            if images.shape != real.shape:
                raise GigaganError(
                    f"the model's images are {list(images.shape[1:])} and the held-out ones {list(real.shape[1:])}; "
                    f"set image_size={images.shape[-1]}"
                )
            features = image_features(judge, images, **options)
            return tradeoff.judge(psi, prompt_psi, reference, features, texts, captions, settings, groups)

        points = tradeoff.sweep(
            settings, work.path / "points", judged, on_point=lambda point: bar.advance(len(captions))
        )
    return points, embedded_name(judge), len(captions), available


def _log(work: StageWork, curve: str, points: list[Point], names: Mapping[str, str]) -> None:
    """Each curve as a series whose step is the truncation in percent: 0 leaves the model as it is."""
    for point in points:
        step = round(100 * (1 - min(point.psi, point.prompt_psi)))
        values = {
            f"tradeoff/{curve.replace(' ', '-')}/{names['fd']}": point.fd,
            f"tradeoff/{curve.replace(' ', '-')}/{names['clip']}": point.clip,
        }
        work.run.log_metrics(values, step=step)


def _headlines(points: list[Point], names: Mapping[str, str]) -> dict[str, float]:
    """The best of either figure, and where it is."""
    closest, truest = min(points, key=lambda point: point.fd), max(points, key=lambda point: point.clip)
    return {
        f"best/{names['fd']}": closest.fd,
        "best-fd/psi": closest.psi,
        "best-fd/prompt-psi": closest.prompt_psi,
        f"best/{names['clip']}": truest.clip,
        "best-clip-score/psi": truest.psi,
        "best-clip-score/prompt-psi": truest.prompt_psi,
        "points-on-front": float(sum(point.on_front for point in points)),
    }
