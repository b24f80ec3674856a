"""Scores of a shard set by one scorer, or a CLIP's embeddings of it: one parquet a shard, here or spread over Ray.

Which scorer is in the settings, and its module alone decides the scores: how the shards are spread does not.
"""

from __future__ import annotations

import functools
import importlib
import itertools
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from gigagan_core import console, environment, ray_nodes
from gigagan_core.config.curate import ScoreSettings
from gigagan_core.errors import GigaganError
from gigagan_core.stages.base import Outcome, StageSpec, StageWork
from gigagan_core.store.artifact import Artifact, Input

if TYPE_CHECKING:
    import numpy as np

    from gigagan_core.data.scoring import Scorer
    from gigagan_core.data.shards import Shard

EMBEDDING = "image_embedding"
EMBEDDINGS = "embeddings"
"""Name of the input, and kind of the artifact."""
SCORER_MODULES = {
    EMBEDDING: "gigagan_core.data.scorers.image_embedding",
    "clip_similarity": "gigagan_core.data.scorers.clip_similarity",
    "aesthetic_v1": "gigagan_core.data.scorers.aesthetic",
    "aesthetic_v2": "gigagan_core.data.scorers.aesthetic",
    "watermark": "gigagan_core.data.scorers.watermark",
    "nsfw": "gigagan_core.data.scorers.nsfw",
    "language": "gigagan_core.data.scorers.language",
}
Places = tuple[tuple[str, str], ...]
"""Where a scorer finds its files, by name."""


def spec_of(scorer: str) -> StageSpec:
    """The stage that computes one scorer's scores."""
    if scorer == EMBEDDING:
        return StageSpec("embed", kind=EMBEDDINGS, module=SCORER_MODULES[scorer])
    return StageSpec("score", kind="scores", module=SCORER_MODULES[scorer])


def embed(work: StageWork) -> Outcome:
    """A CLIP's embedding of every picture; `work.inputs`: "data", "encoder"."""
    from gigagan_core.data.scores import read_reasons

    files = _files(work)
    reasons = Counter(itertools.chain.from_iterable(read_reasons(path) for path in files))
    rows, embedded = reasons.total(), reasons.pop(None, 0)
    return Outcome(
        counts={"in": rows, "out": embedded, "rejected": dict(sorted(reasons.items()))},
        notes={"files": [path.name for path in files]},
    )


def score(work: StageWork) -> Outcome:
    """One scorer's scores; `work.inputs`: "data" and what the scorer needs."""
    import numpy as np

    from gigagan_core.data.scores import read_scores

    missing: Counter[str] = Counter()
    values = []
    files = _files(work)
    for path in files:
        stored = read_scores(path)
        column, metadata = next(iter(stored.metadata.items()))
        missing += stored.missing
        values.append(stored.columns[column])
    scores = np.concatenate(values)
    present = scores[np.isfinite(scores)]
    return Outcome(
        counts={"in": len(scores), "out": len(present), "rejected": dict(sorted(missing.items()))},
        summary=_quantiles(work.settings.scorer, present),
        notes={"column": column, **metadata, "files": [path.name for path in files]},
    )


def _files(work: StageWork) -> list[Path]:
    """One parquet a shard, all there: a run that was cut off goes on with the shards that have none."""
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
    return list(files.values())


def _places(inputs: Mapping[str, Input]) -> Places:
    return tuple(
        (name, str(value.path) if isinstance(value, Artifact) else value.uri)
        for name, value in inputs.items()
        if name != "data"
    )


def _load(settings: ScoreSettings, places: Places) -> Scorer:
    return importlib.import_module(SCORER_MODULES[settings.scorer]).load(settings, dict(places))


# A worker of Ray scores many shards, and a CLIP takes seconds to load.
_load_once = functools.lru_cache(maxsize=1)(_load)


def _score_here(pending: dict[Shard, Path], work: StageWork, on_done: Callable[[int], None]) -> None:
    from gigagan_core.data.scoring import score_shard

    if not pending:
        return
    settings, places = work.settings, _places(work.inputs)
    if settings.gpus_per_task:
        _require_cuda(settings)
    scorer = _load(settings, places)
    for shard, path in pending.items():
        score_shard(shard, scorer, path, settings.batch_size, on_done, _embeddings_of(path, places))


def _require_cuda(settings: ScoreSettings) -> None:
    import torch

    if not torch.cuda.is_available():
        raise GigaganError(
            f"gpus_per_task={settings.gpus_per_task:g} and torch sees no CUDA device on this machine; set it to 0, or "
            "in_process_shards=0 to score on a Ray cluster that has GPUs (RAY_ADDRESS)"
        )


def _score_in_ray(pending: dict[Shard, Path], work: StageWork, on_done: Callable[[int], None]) -> None:
    """One task a shard, as many in flight as the cluster has CPUs and GPUs for."""
    ray = work.ray()
    settings: ScoreSettings = work.settings
    _require_a_node(ray_nodes.offers_with_places(ray, _bundle(settings), 1, "scoring"), settings)
    asked = {"num_cpus": settings.cpus_per_task, "num_gpus": settings.gpus_per_task}
    task = ray.remote(**asked, max_retries=2)(_score_one)
    places, waiting, running = _places(work.inputs), list(pending.items()), []
    while waiting or running:
        in_flight = _in_flight(ray, settings)
        while waiting and len(running) < in_flight:
            shard, path = waiting.pop()
            running.append(task.remote(shard, settings, places, path))
        finished, running = ray.wait(running, num_returns=1)
        for rows in ray.get(finished):
            on_done(rows)


def _bundle(settings: ScoreSettings) -> dict[str, float]:
    """What a task asks for, by Ray's name of it."""
    return {"CPU": settings.cpus_per_task, "GPU": settings.gpus_per_task}


def _require_a_node(nodes: list[dict[str, float]], settings: ScoreSettings) -> None:
    """Raises GigaganError where no node has what a task asks for: Ray would wait for ever."""
    if ray_nodes.places(nodes, _bundle(settings)):
        return
    for kind, wanted in _bundle(settings).items():
        most = max((node.get(kind, 0.0) for node in nodes), default=0.0)
        if most < wanted:
            raise GigaganError(
                f"{kind.lower()}s_per_task={wanted:g} and no node of the Ray cluster has more than {most:g} {kind}; "
                "lower it, or join a cluster with such a node (RAY_ADDRESS)"
            )
    raise GigaganError(
        f"cpus_per_task={settings.cpus_per_task:g}, gpus_per_task={settings.gpus_per_task:g} and no node of the Ray "
        "cluster has both; lower one of them, or join a cluster with such a node (RAY_ADDRESS)"
    )


def _in_flight(ray: ModuleType | Any, settings: ScoreSettings) -> int:
    """Tasks that Ray has at a time: as many as can run. Where the cluster grows as many again wait, and by those its
    autoscaler goes.
    """
    # A node that went is no end: Ray starts its tasks on another one.
    run = max(ray_nodes.places(ray_nodes.offers(ray), _bundle(settings)), 1)
    return 2 * run if environment.ray_node_patience() else run


def _score_one(shard: Shard, settings: ScoreSettings, places: Places, path: Path) -> int:
    """In a Ray worker; returns the rows scored."""
    from gigagan_core.data.scoring import score_shard

    scorer = _load_once(settings, places)
    score_shard(shard, scorer, path, settings.batch_size, embeddings=_embeddings_of(path, places))
    return shard.selected


def _embeddings_of(path: Path, places: Places) -> Path | None:
    """The same shard's file in the artifact of embeddings, where the scorer was given one."""
    folder = dict(places).get(EMBEDDINGS)
    return None if folder is None else Path(folder) / path.name


def _quantiles(scorer: str, scores: np.ndarray) -> dict[str, float]:
    if not len(scores):
        return {}
    ordered = sorted(scores.tolist())
    at = {"p05": 0.05, "p50": 0.50, "p95": 0.95}
    quantiles = {f"{scorer}_{name}": ordered[int(q * (len(ordered) - 1))] for name, q in at.items()}
    return {f"{scorer}_mean": sum(ordered) / len(ordered), **quantiles}
