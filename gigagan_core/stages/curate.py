"""The curate stage: scores are added to every row, and rules decide which rows stay selected.

Artifacts: one of scores for each scorer (stage ``score``, decided by shard set and weights) and the curated shard set
(decided by scores and rules), so other rules do not score again and one more scorer reruns no other one. The curated
set has tables of its own and shares the tars.

Inputs by name: ``data`` (shard set), ``encoder`` (encoder artifact of role condition, or a weight file).
"""

from __future__ import annotations

import functools
import importlib
import math
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gigagan_core import console
from gigagan_core.config.curate import (
    SCORERS,
    CurateSettings,
    LanguageRule,
    NearDuplicateRule,
    Rule,
    ScorerName,
    ScoreRule,
    ScoreSettings,
    UnwantedRule,
)
from gigagan_core.encoders.roles import CONDITION, require_role
from gigagan_core.errors import GigaganError
from gigagan_core.stages.base import Outcome, RunContext, StageSpec, StageWork, materialise
from gigagan_core.store.artifact import Artifact, ExternalFile, Input
from gigagan_core.store.fingerprint import sha256_file

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from gigagan_core.data.near_duplicates import NearDuplicates
    from gigagan_core.data.scoring import Scorer, ShardScores
    from gigagan_core.data.shards import Shard

SPEC = StageSpec("curate", kind="shard-set", module=__name__)
SCORER_MODULES: dict[ScorerName, str] = {
    "clip_similarity": "gigagan_core.data.scorers.clip_similarity",
    "aesthetic_v1": "gigagan_core.data.scorers.aesthetic",
    "aesthetic_v2": "gigagan_core.data.scorers.aesthetic",
    "watermark": "gigagan_core.data.scorers.watermark",
    "nsfw": "gigagan_core.data.scorers.nsfw",
    "language": "gigagan_core.data.scorers.language",
}
REJECTED_BY = "rejected_by"
"""Column: the rule that took a row's selection away, null where it has it or never had."""
REPORT_FILE = "data-report.html"


def run(settings: CurateSettings, inputs: dict[str, Input], context: RunContext) -> Artifact:
    """The curated shard set. Its rows have a column for each scorer, such as `clip_similarity_<encoder>`; the
    table's own scores stay.

    Raises GigaganError where an input or a weight file is missing or not the one it should be, the encoder is the
    judge, or the rules leave no row.
    """
    missing = [name for name in ("data", "encoder") if inputs.get(name) is None]
    if missing:
        raise GigaganError(f"curate needs {' and '.join(missing)}; give a shard set and a condition encoder")
    # Choosing training data by the judge would be training on the test.
    require_role(inputs["encoder"], CONDITION)
    scores: dict[str, Input] = {}
    for scorer in _wanted(settings):
        score_settings, weights = _scoring(scorer, settings, inputs["encoder"])
        scores[f"scores_{scorer}"] = materialise(
            StageSpec("score", kind="scores", module=SCORER_MODULES[scorer]),
            score_settings,
            {"data": inputs["data"], **weights},
            context,
            _score,
            # the one scorer that every run has goes without a name
            label="curate (scores)" if scorer == "clip_similarity" else f"curate ({scorer} scores)",
        )
    return materialise(SPEC, settings, {"data": inputs["data"], **scores}, context, _select)


def _wanted(settings: CurateSettings) -> list[ScorerName]:
    on = {
        "clip_similarity": True,
        "language": settings.language.language is not None,
        **{name: getattr(settings, name).weights is not None for name in ("aesthetic_v1", "aesthetic_v2")},
        **{name: getattr(settings, name).weights is not None for name in ("watermark", "nsfw")},
    }
    return [scorer for scorer in SCORERS if on[scorer]]


def _scoring(
    scorer: ScorerName, settings: CurateSettings, encoder: Input
) -> tuple[ScoreSettings, dict[str, Input]]:
    """A scorer's settings, and the files that its scores depend on."""
    files: dict[str, Input] = {}
    language = library = None
    if scorer == "clip_similarity":
        files["encoder"] = encoder
    elif scorer == "language":
        from gigagan_core.data.scorers.language import library as language_library

        language, library = settings.language.language, language_library()
    else:
        rule = getattr(settings, scorer)
        files["weights"] = _weight_file(rule.weights, rule.sha256, scorer)
        if scorer != "watermark":
            files["encoder"] = _clip_vit_l14(str(settings.clip_vit_l14))
    clip = files.get("encoder")
    return ScoreSettings(
        scorer=scorer,
        architecture=clip.uri.partition(":")[0] if isinstance(clip, ExternalFile) else None,
        language=language,
        library=library,
        batch_size=settings.batch_size,
        in_process_shards=settings.in_process_shards,
        cpus_per_task=settings.cpus_per_task,
    ), files


def _weight_file(place: str, expected: str | None, scorer: str) -> ExternalFile:
    path = Path(place).expanduser().absolute()
    if not path.is_file():
        raise GigaganError(
            f"{scorer}.weights {path} is not there; give the path of a file, nothing is downloaded"
        )
    found = sha256_file(path)
    if expected is not None and found != expected.lower():
        raise GigaganError(
            f"{scorer}.weights {path} has sha256 {found} and {scorer}.sha256 is {expected}; give the right file"
        )
    return ExternalFile(str(path), found)


def _clip_vit_l14(place: str) -> ExternalFile:
    architecture, colon, file = place.partition(":")
    path = Path(file).expanduser().absolute()
    if not colon or not path.is_file():
        raise GigaganError(
            f"clip_vit_l14 {place} is no ARCH:PATH of an existing file; give such as "
            "ViT-L-14-quickgelu:/weights/ViT-L-14.safetensors, nothing is downloaded"
        )
    return ExternalFile(f"{architecture}:{path}", sha256_file(path))


# ---- scores ----------------------------------------------------------------------------------------


def _score(work: StageWork) -> Outcome:
    """One parquet a shard; a run that was cut off goes on with the shards that have none."""
    import numpy as np

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


# ---- selection -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Limits:
    """A rule on one scorer's scores. low, high: the lowest and the highest score that stay; None: no bound."""

    scorer: str
    rule: Rule
    artifact: Artifact
    low: float | None
    high: float | None

    def reason(self, score: float) -> str | None:
        """Why a row leaves; NaN is no score."""
        if self.low is None and self.high is None:
            return None
        if math.isnan(score):
            return f"{self.scorer}_missing" if self.rule.missing == "drop" else None
        if self.low is not None and score < self.low:
            return f"{self.scorer}_too_low"
        return f"{self.scorer}_too_high" if self.high is not None and score > self.high else None


def _select(work: StageWork) -> Outcome:
    import pyarrow.parquet as pq

    from gigagan_core.data.shards import ATTRIBUTION_FILE, Shard, read_index, read_table, write_index

    data, settings = work.inputs["data"], work.settings
    work.run.log_dataset("data", data.uri, data.output_digest, data.manifest.get("counts"))
    shards = read_index(data)
    limits = [_limits(work, scorer) for scorer in SCORERS if f"scores_{scorer}" in work.inputs]
    rules = _RowRules(settings, limits, sum(shard.selected for shard in shards))
    curated, shown = [], []
    for number, shard in enumerate(shards):
        scores = {limit.scorer: _scores_of(limit.artifact, number) for limit in limits}
        table = _apply(read_table(shard), scores, limits, rules)
        parquet = work.output / f"{number:05d}.parquet"
        pq.write_table(table, parquet)
        selected = sum(table["selected"].to_pylist())
        curated.append(Shard(_share_tar(shard.tar, number, work), parquet, len(table), selected))
        # the place of a shared tar is named as it will be seen from the store
        shown.append(Shard(shard.tar, parquet, len(table), selected))
    rejected = dict(sorted(rules.rejected.items()))
    kept = rules.rows - sum(rejected.values())
    if not kept:
        listed = ", ".join(f"{reason}: {count}" for reason, count in rejected.items())
        raise GigaganError(f"the rules leave none of {rules.rows} rows ({listed}); loosen {_loosen(rules)}")
    write_index(work.output, curated)
    if (data.path / ATTRIBUTION_FILE).is_file():
        shutil.copyfile(data.path / ATTRIBUTION_FILE, work.output / ATTRIBUTION_FILE)
    carried = {name: data.notes[name] for name in ("licence", "attribution") if name in data.notes}
    _log_report(work, shown, carried)
    return Outcome(
        counts={"in": rules.rows, "out": kept, "rejected": rejected},
        summary=_summary(limits, rules, kept),
        notes={**carried, "columns": {limit.scorer: limit.artifact.notes["column"] for limit in limits}},
    )


def _summary(limits: list[_Limits], rules: _RowRules, kept: int) -> dict[str, float]:
    """The scores' own figures, the bounds that were applied, and rows that stayed unjudged."""
    figures: dict[str, float] = {}
    for limit in limits:
        figures |= limit.artifact.summary
        bounds = [bound for bound in (limit.low, limit.high) if bound is not None and math.isfinite(bound)]
        figures |= {f"{limit.scorer}_threshold": bound for bound in bounds}
    rows = {"rows_in": float(rules.rows), "rows_out": float(kept), "kept_share": kept / rules.rows}
    unjudged = {f"kept_without_{what}": float(count) for what, count in sorted(rules.unjudged.items())}
    return {**figures, **rows, **unjudged}


def _limits(work: StageWork, scorer: str) -> _Limits:
    """A scorer's rule with its bounds; a share that stays is a bound that the scores of all shards decide."""
    import numpy as np

    artifact, rule = work.inputs[f"scores_{scorer}"], getattr(work.settings, scorer)
    column = artifact.notes["column"]
    values = [_scores_of(artifact, number).columns[column] for number in range(len(artifact.notes["files"]))]
    scores = np.concatenate(values)
    present = np.sort(scores[np.isfinite(scores)])[::-1]
    low = rule.minimum if isinstance(rule, ScoreRule | LanguageRule) else None
    high = rule.maximum if isinstance(rule, UnwantedRule) else None
    if isinstance(rule, ScoreRule) and rule.keep_fraction is not None and len(present):
        low = float(present[math.ceil(rule.keep_fraction * len(present)) - 1])
    if rule.missing == "fail" and len(present) < len(scores):
        raise GigaganError(
            f"{len(scores) - len(present)} of {len(scores)} rows have no {scorer}; set {scorer}.missing to keep or "
            "drop, or ingest them again"
        )
    # A share of nothing: no score, so no bound, but rows without a score still meet the rule.
    if isinstance(rule, ScoreRule) and rule.keep_fraction is not None and low is None:
        low = -math.inf
    return _Limits(scorer, rule, artifact, low, high)


def _scores_of(artifact: Artifact, number: int) -> ShardScores:
    from gigagan_core.data.scoring import read_scores

    return read_scores(artifact.path / artifact.notes["files"][number])


class _RowRules:
    """Every rule, asked row by row in the order of the set. rows: asked so far. rejected: of them, by reason.

    unjudged: rows that stayed though a rule found nothing to judge, by what they lack.
    """

    def __init__(self, settings: CurateSettings, limits: list[_Limits], expected: int) -> None:
        from gigagan_core.data.caption_rules import CaptionCheck

        self.rows = 0
        self.rejected: Counter[str] = Counter()
        self.unjudged: Counter[str] = Counter()
        self._captions = CaptionCheck(settings.captions)
        self._limits = limits
        self._bounded = [lim.scorer for lim in limits if lim.low is not None or lim.high is not None]
        self._duplicates = settings.duplicates
        self._near = _near_duplicates(settings.duplicates, expected)

    def reason(self, caption: str | None, phash: str | None, scores: Mapping[str, float]) -> str | None:
        """Why a row leaves, None where it stays."""
        self.rows += 1
        reason = self._captions.reason(caption)
        reason = reason or next(filter(None, (lim.reason(scores[lim.scorer]) for lim in self._limits)), None)
        # Last: only a row that stays makes later ones duplicates.
        reason = reason or self._duplicate_reason(phash)
        if reason:
            self.rejected[reason] += 1
            return reason
        self.unjudged.update(scorer for scorer in self._bounded if math.isnan(scores[scorer]))
        if self._near is not None and phash is None:
            self.unjudged["phash"] += 1
        return None

    def _duplicate_reason(self, phash: str | None) -> str | None:
        if self._near is None:
            return None
        if phash is not None:
            return None if self._near.keep(phash) else "near_duplicate"
        if self._duplicates.missing == "fail":
            raise GigaganError(
                "a row has no perceptual hash (phash); set duplicates.missing to keep or drop, or ingest it again"
            )
        return "phash_missing" if self._duplicates.missing == "drop" else None


def _near_duplicates(rule: NearDuplicateRule, expected: int) -> NearDuplicates | None:
    from gigagan_core.data.near_duplicates import NearDuplicates

    return None if rule.max_distance is None else NearDuplicates(rule.max_distance, expected)


def _loosen(rules: _RowRules) -> str:
    """The setting whose rule took the most rows, for the sentence."""
    most = max(rules.rejected, key=lambda reason: rules.rejected[reason])
    if most.startswith("caption_"):
        return "captions"
    if most in ("near_duplicate", "phash_missing"):
        return "duplicates"
    return next(scorer for scorer in SCORERS if most.startswith(scorer))


def _apply(
    table: pa.Table, scores: Mapping[str, ShardScores], limits: list[_Limits], rules: _RowRules
) -> pa.Table:
    """The table with the scores' columns, `selected` and `rejected_by`."""
    import pyarrow as pa

    from gigagan_core.data.status import SUCCESS

    size, keys = len(table), table["key"].to_pylist()
    old = _column(table, REJECTED_BY)
    # Only rows that counted were scored: what left earlier stays out, with the reason it had.
    states = zip(table["status"].to_pylist(), table["selected"].to_pylist(), strict=True)
    counted = [row for row, (status, selected) in enumerate(states) if status == SUCCESS and selected]
    counted_keys = [keys[row] for row in counted]
    if any(one.keys != counted_keys for one in scores.values()):
        raise AssertionError("the scores are of another shard set than the tables")
    judged = {limit.scorer: scores[limit.scorer].columns[limit.artifact.notes["column"]] for limit in limits}
    captions, phashes = _column(table, "caption"), _column(table, "phash")
    selected, rejected_by = [False] * size, list(old)
    for place, row in enumerate(counted):
        values = {scorer: float(column[place]) for scorer, column in judged.items()}
        reason = rules.reason(captions[row], phashes[row], values)
        selected[row] = reason is None
        rejected_by[row] = reason or old[row]
    for field, column in _score_columns(table, scores, limits, counted):
        table = table.append_column(field, column)
    table = _with_column(table, "selected", pa.array(selected, pa.bool_()))
    return _with_column(table, REJECTED_BY, pa.array(rejected_by, pa.string()))


def _score_columns(
    table: pa.Table, scores: Mapping[str, ShardScores], limits: list[_Limits], counted: list[int]
) -> Iterator[tuple[pa.Field, pa.Array]]:
    import numpy as np
    import pyarrow as pa

    from gigagan_core.data.scoring import score_field

    for limit in limits:
        found = scores[limit.scorer]
        for name, column in found.columns.items():
            values = np.full(len(table), np.nan, np.float32)
            values[counted] = column
            # another encoder of the same name does not overwrite what a table has already
            free = name if name not in table.column_names else f"{name}_{limit.artifact.output_digest[:8]}"
            yield (
                score_field(free, found.metadata[name]),
                pa.array(values, pa.float32(), mask=np.isnan(values)),
            )


def _column(table: pa.Table, name: str) -> list[Any]:
    return table[name].to_pylist() if name in table.column_names else [None] * len(table)


def _with_column(table: pa.Table, name: str, column: pa.Array) -> pa.Table:
    if name in table.column_names:
        return table.set_column(table.column_names.index(name), name, column)
    return table.append_column(name, column)


def _log_report(work: StageWork, shards: list[Shard], notes: Mapping[str, Any]) -> None:
    """The set's page, into the records: in the artifact its bytes would be part of the output digest."""
    # By name, so that the page's source is no part of what decides the rows.
    report = importlib.import_module("gigagan_core.data.report")
    path = work.path / REPORT_FILE
    path.write_text(report.data_report(shards, title="Curated shard set", notes=notes), encoding="utf-8")
    work.run.log_artifact(path)


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
