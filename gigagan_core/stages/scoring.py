"""Scores of a shard set by one scorer: one parquet a shard, here or spread over Ray.

Which scorer is in the settings, and its module alone decides the scores: how the shards are spread does not.
"""

from __future__ import annotations

import functools
import importlib
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from gigagan_core import console
from gigagan_core.config.curate import ScorerName, ScoreSettings
from gigagan_core.errors import GigaganError
from gigagan_core.stages.base import Outcome, StageSpec, StageWork
from gigagan_core.store.artifact import Artifact, Input

if TYPE_CHECKING:
    import numpy as np

    from gigagan_core.data.scoring import Scorer
    from gigagan_core.data.shards import Shard

SCORER_MODULES: dict[ScorerName, str] = {
    "clip_similarity": "gigagan_core.data.scorers.clip_similarity",
    "aesthetic_v1": "gigagan_core.data.scorers.aesthetic",
    "aesthetic_v2": "gigagan_core.data.scorers.aesthetic",
    "watermark": "gigagan_core.data.scorers.watermark",
    "nsfw": "gigagan_core.data.scorers.nsfw",
    "language": "gigagan_core.data.scorers.language",
}


def spec_of(scorer: ScorerName) -> StageSpec:
    """The stage that computes one scorer's scores."""
    return StageSpec("score", kind="scores", module=SCORER_MODULES[scorer])


def score(work: StageWork) -> Outcome:
    """One parquet a shard; a run that was cut off goes on with the shards that have none."""
    import numpy as np

    from gigagan_core.data.scores import read_scores
    from gigagan_core.data.shards import read_index

    shards = read_index(work.inputs["data"])
    files = {shard: work.output / f"{number:05d}.parquet" for number, shard in enumerate(shards)}
    pending = {shard: path for shard, path in files.items() if not path.is_file()}
    rows = sum(shard.selected for shard in shards)
    if not rows:
        raise GigaganError(
            f"shard set {work.inputs['data'].short} has no selected row; select or ingest more"
        )
    with console.progress("scoring", total=rows, unit="images") as bar:
        bar.start_from(rows - sum(shard.selected for shard in pending))
        spread = len(pending) > work.settings.in_process_shards
        (_score_in_ray if spread else _score_here)(pending, work, bar.advance)
    missing: Counter[str] = Counter()
    values = []
    for path in files.values():
        shard_scores = read_scores(path)
        column, metadata = next(iter(shard_scores.metadata.items()))
        missing.update(shard_scores.missing)
        values.append(shard_scores.columns[column])
    scores = np.concatenate(values)
    present = scores[np.isfinite(scores)]
    return Outcome(
        counts={"in": len(scores), "out": len(present), "rejected": dict(sorted(missing.items()))},
        summary=_quantiles(work.settings.scorer, present),
        notes={"column": column, **metadata, "files": [path.name for path in files.values()]},
    )


def _places(inputs: Mapping[str, Input]) -> tuple[tuple[str, str], ...]:
    """Where a scorer finds its files, by name."""
    return tuple(
        (name, str(value.path) if isinstance(value, Artifact) else value.uri)
        for name, value in inputs.items()
        if name != "data"
    )


def _load(settings: ScoreSettings, places: tuple[tuple[str, str], ...]) -> Scorer:
    return importlib.import_module(SCORER_MODULES[settings.scorer]).load(settings, dict(places))


# A worker of Ray scores many shards, and a CLIP takes seconds to load.
_load_once = functools.lru_cache(maxsize=1)(_load)


def _score_here(pending: dict[Shard, Path], work: StageWork, on_done: Callable[[int], None]) -> None:
    from gigagan_core.data.scoring import score_shard

    if pending:
        scorer = _load(work.settings, _places(work.inputs))
    for shard, path in pending.items():
        score_shard(shard, scorer, path, work.settings.batch_size, on_done)


def _score_in_ray(pending: dict[Shard, Path], work: StageWork, on_done: Callable[[int], None]) -> None:
    """One task a shard, as many in flight as there are CPUs for."""
    ray = work.ray()
    settings: ScoreSettings = work.settings
    task = ray.remote(num_cpus=settings.cpus_per_task, max_retries=2)(_score_one)
    in_flight = max(1, int(ray.cluster_resources().get("CPU", 1) / settings.cpus_per_task))
    places, waiting, running = _places(work.inputs), list(pending.items()), []
    while waiting or running:
        while waiting and len(running) < in_flight:
            shard, path = waiting.pop()
            running.append(task.remote(shard, settings, places, path))
        finished, running = ray.wait(running, num_returns=1)
        for rows in ray.get(finished):
            on_done(rows)


def _score_one(shard: Shard, settings: ScoreSettings, places: tuple[tuple[str, str], ...], path: Path) -> int:
    """In a Ray worker; returns the rows scored."""
    from gigagan_core.data.scoring import score_shard

    score_shard(shard, _load_once(settings, places), path, settings.batch_size)
    return shard.selected


def _quantiles(scorer: str, scores: np.ndarray) -> dict[str, float]:
    if not len(scores):
        return {}
    ordered = sorted(scores.tolist())
    at = {"p05": 0.05, "p50": 0.50, "p95": 0.95}
    quantiles = {f"{scorer}_{name}": ordered[int(q * (len(ordered) - 1))] for name, q in at.items()}
    return {f"{scorer}_mean": sum(ordered) / len(ordered), **quantiles}
