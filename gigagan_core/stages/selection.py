"""The selection of the curate stage: scores and rules -> a shard set with tables of its own that shares the tars.

It reads scores and never computes one: what computes them decides the artifacts of scores, and those decide this.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from gigagan_core.config.curate import SCORERS, LanguageRule, ScoreRule, UnwantedRule
from gigagan_core.errors import GigaganError
from gigagan_core.stages.base import Outcome, StageSpec, StageWork
from gigagan_core.stages.pages import log_data_page
from gigagan_core.store.artifact import Artifact

if TYPE_CHECKING:
    from gigagan_core.data.scores import ShardScores
    from gigagan_core.data.selection import Limits, RowRules

SPEC = StageSpec("curate", kind="shard-set", module=__name__)
PREFIX = "scores_"
"""Of an input's name: the scores of one scorer."""


def select(work: StageWork) -> Outcome:
    """`work.inputs`: "data", and `scores_<scorer>` for each scorer."""
    import pyarrow.parquet as pq

    from gigagan_core.data.selection import RowRules, select_rows
    from gigagan_core.data.shards import ATTRIBUTION_FILE, Shard, read_index, read_table, write_index

    data = work.inputs["data"]
    work.run.log_dataset("data", data.uri, data.output_digest, data.manifest.get("counts"))
    shards = read_index(data)
    artifacts = {name: work.inputs[PREFIX + name] for name in SCORERS if PREFIX + name in work.inputs}
    limits = [_limits(work, scorer, artifact) for scorer, artifact in artifacts.items()]
    rules = RowRules(work.settings, limits, sum(shard.selected for shard in shards))
    curated, shown = [], []
    for number, shard in enumerate(shards):
        scores = {scorer: _scores_of(artifact, number) for scorer, artifact in artifacts.items()}
        table = select_rows(read_table(shard), scores, limits, rules)
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
    log_data_page(work, shown, "Curated shard set", carried)
    return Outcome(
        counts={"in": rules.rows, "out": kept, "rejected": rejected},
        summary=_summary(artifacts, limits, rules, kept),
        notes={**carried, "columns": {limit.scorer: limit.column for limit in limits}},
    )


def _summary(
    artifacts: Mapping[str, Artifact], limits: list[Limits], rules: RowRules, kept: int
) -> dict[str, float]:
    """The scores' own figures, the bounds that were applied, and rows that stayed unjudged."""
    figures: dict[str, float] = {}
    for limit in limits:
        figures |= artifacts[limit.scorer].summary
        bounds = [bound for bound in (limit.low, limit.high) if bound is not None and math.isfinite(bound)]
        figures |= {f"{limit.scorer}_threshold": bound for bound in bounds}
    rows = {"rows_in": float(rules.rows), "rows_out": float(kept), "kept_share": kept / rules.rows}
    unjudged = {f"kept_without_{what}": float(count) for what, count in sorted(rules.unjudged.items())}
    return {**figures, **rows, **unjudged}


def _limits(work: StageWork, scorer: str, artifact: Artifact) -> Limits:
    """A scorer's rule with its bounds; a share that stays is a bound that the scores of all shards decide."""
    import numpy as np

    from gigagan_core.data.selection import Limits

    rule, column = getattr(work.settings, scorer), artifact.notes["column"]
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
    return Limits(scorer, rule, column, artifact.output_digest, low, high)


def _scores_of(artifact: Artifact, number: int) -> ShardScores:
    from gigagan_core.data.scores import read_scores

    return read_scores(artifact.path / artifact.notes["files"][number])


def _loosen(rules: RowRules) -> str:
    """The setting whose rule took the most rows, for the sentence."""
    most = max(rules.rejected, key=lambda reason: rules.rejected[reason])
    if most.startswith("caption_"):
        return "captions"
    if most in ("near_duplicate", "phash_missing"):
        return "duplicates"
    return next(scorer for scorer in SCORERS if most.startswith(scorer))


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
