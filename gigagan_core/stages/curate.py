"""The curate stage: scores are added to every row, and rules on them decide which rows stay selected.

Two artifacts: the scores (stage ``score``, decided by shard set and encoder) and the curated shard set (decided by
scores and rules), so other rules do not score again. The curated set has tables of its own and shares the tars.

Inputs by name: ``data`` (shard set), ``encoder`` (encoder artifact of role condition, or a weight file).
"""

from __future__ import annotations

import math
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from gigagan_core import console
from gigagan_core.config.curate import CurateSettings, ScoreRule, ScoreSettings
from gigagan_core.encoders.roles import CONDITION, require_role
from gigagan_core.errors import GigaganError
from gigagan_core.stages.base import Outcome, RunContext, StageSpec, StageWork, materialise
from gigagan_core.store.artifact import Artifact, Input

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa

    from gigagan_core.data.shards import Shard

SPEC = StageSpec("curate", kind="shard-set", module=__name__)
SCORE_SPEC = StageSpec("score", kind="scores", module="gigagan_core.data.scoring")
REJECTED_BY = "rejected_by"
"""Column: the rule that took a row's selection away, null where it has it or never had."""


def run(settings: CurateSettings, inputs: dict[str, Input], context: RunContext) -> Artifact:
    """The curated shard set. Its rows have a column `clip_similarity_<encoder>`; the table's own one stays.

    Raises GigaganError where an input is missing, the encoder is the judge, or a rule leaves no row.
    """
    missing = [name for name in ("data", "encoder") if inputs.get(name) is None]
    if missing:
        raise GigaganError(f"curate needs {' and '.join(missing)}; give a shard set and a condition encoder")
    # Choosing training data by the judge would be training on the test.
    require_role(inputs["encoder"], CONDITION)
    scores = materialise(
        SCORE_SPEC,
        _score_settings(settings, inputs["encoder"]),
        inputs,
        context,
        _score,
        label="curate (scores)",
    )
    return materialise(SPEC, settings, {"data": inputs["data"], "scores": scores}, context, _select)


def _score_settings(settings: CurateSettings, encoder: Input) -> ScoreSettings:
    outside = None if isinstance(encoder, Artifact) else encoder.uri.partition(":")[0]
    return ScoreSettings(
        architecture=outside,
        batch_size=settings.batch_size,
        in_process_shards=settings.in_process_shards,
        cpus_per_task=settings.cpus_per_task,
    )


# ---- scores ----------------------------------------------------------------------------------------


def _score(work: StageWork) -> Outcome:
    """One parquet a shard; a run that was cut off goes on with the shards that have none."""
    from gigagan_core.data.scoring import read_scores
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
    scored = [read_scores(path) for path in files.values()]
    values = [value for shard_scores in scored for value in shard_scores.values.values()]
    missing = Counter(reason for shard_scores in scored for reason in shard_scores.missing.values())
    present = [value for value in values if value is not None]
    return Outcome(
        counts={"in": len(values), "out": len(present), "rejected": dict(sorted(missing.items()))},
        summary=_quantiles(present),
        notes={"column": scored[0].name, "files": [path.name for path in files.values()]},
    )


def _place(encoder: Input) -> str:
    """What `load_encoder` takes."""
    return str(encoder.path) if isinstance(encoder, Artifact) else encoder.uri


def _score_here(pending: dict[Shard, Path], work: StageWork, on_done: Callable[[int], None]) -> None:
    from gigagan_core.data.scoring import clip_similarity, score_shard

    if pending:
        scorer = clip_similarity(_place(work.inputs["encoder"]))
    for shard, path in pending.items():
        score_shard(shard, scorer, path, work.settings.batch_size, on_done)


def _score_in_ray(pending: dict[Shard, Path], work: StageWork, on_done: Callable[[int], None]) -> None:
    """One task a shard, as many in flight as there are CPUs for."""
    ray = work.ray()
    settings: ScoreSettings = work.settings
    task = ray.remote(num_cpus=settings.cpus_per_task, max_retries=2)(_score_one)
    in_flight = max(1, int(ray.cluster_resources().get("CPU", 1) / settings.cpus_per_task))
    place, waiting, running = _place(work.inputs["encoder"]), list(pending.items()), []
    while waiting or running:
        while waiting and len(running) < in_flight:
            shard, path = waiting.pop()
            running.append(task.remote(shard, place, path, settings.batch_size))
        finished, running = ray.wait(running, num_returns=1)
        for rows in ray.get(finished):
            on_done(rows)


def _score_one(shard: Shard, place: str, path: Path, batch_size: int) -> int:
    """In a Ray worker; returns the rows scored."""
    from gigagan_core.data.scoring import clip_similarity, score_shard

    score_shard(shard, clip_similarity(place), path, batch_size)
    return shard.selected


def _quantiles(scores: list[float]) -> dict[str, float]:
    if not scores:
        return {}
    ordered = sorted(scores)
    at = {"p05": 0.05, "p50": 0.50, "p95": 0.95}
    quantiles = {f"clip_similarity_{name}": ordered[int(q * (len(ordered) - 1))] for name, q in at.items()}
    return {"clip_similarity_mean": sum(ordered) / len(ordered), **quantiles}


# ---- selection -------------------------------------------------------------------------------------


def _select(work: StageWork) -> Outcome:
    import pyarrow.parquet as pq

    from gigagan_core.data.scoring import read_scores
    from gigagan_core.data.shards import ATTRIBUTION_FILE, Shard, read_index, read_table, write_index

    data, scores = work.inputs["data"], work.inputs["scores"]
    rule: ScoreRule = work.settings.clip_similarity
    work.run.log_dataset("data", data.uri, data.output_digest, data.manifest.get("counts"))
    shards = read_index(data)
    by_shard = [read_scores(scores.path / name).values for name in scores.notes["files"]]
    threshold = _threshold(rule, [score for values in by_shard for score in values.values()])
    counts: Counter[str | None] = Counter()
    curated = []
    for number, (shard, values) in enumerate(zip(shards, by_shard, strict=True)):
        table, reasons = _apply(read_table(shard), values, scores, rule, threshold)
        counts.update(reasons)
        parquet = work.output / f"{number:05d}.parquet"
        pq.write_table(table, parquet)
        selected = sum(reason is None for reason in reasons)
        curated.append(Shard(_share_tar(shard.tar, number, work), parquet, len(table), selected))
    kept, rows = counts.pop(None, 0), sum(len(values) for values in by_shard)
    if not kept:
        raise GigaganError(
            f"clip_similarity leaves none of {rows} rows (best score: {_best(by_shard)}); set a lower "
            "clip_similarity.minimum"
        )
    write_index(work.output, curated)
    if (data.path / ATTRIBUTION_FILE).is_file():
        shutil.copyfile(data.path / ATTRIBUTION_FILE, work.output / ATTRIBUTION_FILE)
    summary = {"rows_in": float(rows), "rows_out": float(kept), "kept_share": kept / rows}
    if threshold is not None:
        summary["clip_similarity_threshold"] = threshold
    carried = {name: data.notes[name] for name in ("licence", "attribution") if name in data.notes}
    return Outcome(
        counts={
            "in": rows,
            "out": kept,
            "rejected": {str(reason): n for reason, n in sorted(counts.items())},
        },
        summary={**scores.summary, **summary},
        notes={**carried, "column": scores.notes["column"]},
    )


def _threshold(rule: ScoreRule, scores: list[float | None]) -> float | None:
    """The lowest score that stays; None where the rule is off or nothing has a score."""
    present = sorted((score for score in scores if score is not None), reverse=True)
    if rule.missing == "fail" and len(present) < len(scores):
        raise GigaganError(
            f"{len(scores) - len(present)} of {len(scores)} rows have no clip_similarity; set "
            "clip_similarity.missing to keep or drop, or ingest them again"
        )
    if rule.keep_fraction is None or not present:
        return rule.minimum
    return present[math.ceil(rule.keep_fraction * len(present)) - 1]


def _reason(rule: ScoreRule, threshold: float | None, score: float | None) -> str | None:
    if rule.minimum is None and rule.keep_fraction is None:
        return None
    if score is None:
        return "clip_similarity_missing" if rule.missing == "drop" else None
    return "clip_similarity_too_low" if threshold is not None and score < threshold else None


def _apply(
    table: pa.Table,
    scores: dict[str, float | None],
    artifact: Artifact,
    rule: ScoreRule,
    threshold: float | None,
) -> tuple[pa.Table, list[str | None]]:
    """The table with the score's column, `selected` and `rejected_by`; and the reason of every scored row."""
    import pyarrow as pa

    keys, before = table["key"].to_pylist(), table["selected"].to_pylist()
    reasons = {key: _reason(rule, threshold, score) for key, score in scores.items()}
    if not reasons.keys() <= set(keys):
        raise AssertionError("the scores are of another shard set than the tables")
    # Only rows that counted were scored: what left earlier stays out, with the reason it had.
    stays = [was and key in reasons and reasons[key] is None for was, key in zip(before, keys, strict=True)]
    old = table[REJECTED_BY].to_pylist() if REJECTED_BY in table.column_names else [None] * len(keys)
    rejected_by = [reasons.get(key) or earlier for key, earlier in zip(keys, old, strict=True)]
    columns = {
        _free_name(table, artifact): pa.array([scores.get(key) for key in keys], pa.float32()),
        "selected": pa.array(stays, pa.bool_()),
        REJECTED_BY: pa.array(rejected_by, pa.string()),
    }
    for name, column in columns.items():
        if name in table.column_names:
            table = table.set_column(table.column_names.index(name), name, column)
        else:
            table = table.append_column(name, column)
    return table, list(reasons.values())


def _free_name(table: pa.Table, scores: Artifact) -> str:
    """The score's column; another encoder of the same name does not overwrite what a table has already."""
    name = scores.notes["column"]
    return name if name not in table.column_names else f"{name}_{scores.output_digest[:8]}"


def _best(by_shard: list[dict[str, float | None]]) -> str:
    present = [score for values in by_shard for score in values.values() if score is not None]
    return f"{max(present):.3f}" if present else "none could be computed"


def _share_tar(tar: Path, number: int, work: StageWork) -> Path:
    """Where the curated set's index finds a tar of the input set.

    In a local store the tar stays where it is, and is named relative to the place this set will have, so a store
    that is moved stays whole. A remote store is read through a cache, artifact by artifact, so there the set gets
    the tar itself.
    """
    if work.store.is_local:
        root, tar = Path(work.store.uri), Path(os.path.abspath(tar))
        if not tar.is_relative_to(root):
            return tar
        place = root / SPEC.name / "attempt"  # every artifact lies two folders below the root
        return work.output / os.path.relpath(tar, place)
    own = work.output / f"{number:05d}.tar"
    own.unlink(missing_ok=True)
    try:
        os.link(tar, own)
    except OSError:
        shutil.copyfile(tar, own)
    return own
