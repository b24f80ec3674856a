"""Which rows of a scored shard stay selected: captions, scores and duplicates, asked row by row."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gigagan_core.config.curate import CurateSettings, NearDuplicateRule, Rule
from gigagan_core.data.caption_rules import CaptionCheck
from gigagan_core.data.near_duplicates import NearDuplicates
from gigagan_core.data.scores import ShardScores, score_field
from gigagan_core.data.status import SUCCESS
from gigagan_core.errors import GigaganError

if TYPE_CHECKING:
    import pyarrow as pa

REJECTED_BY = "rejected_by"
"""Column: the rule that took a row's selection away, null where it has it or never had."""


@dataclass(frozen=True)
class Limits:
    """A rule on one scorer's scores.

    column: of its scores; digest: of the artifact that holds them. low, high: the lowest and the highest score that
    stay; None: no bound.
    """

    scorer: str
    rule: Rule
    column: str
    digest: str
    low: float | None
    high: float | None

    @property
    def bounded(self) -> bool:
        """Whether the rule can take a row at all."""
        return self.low is not None or self.high is not None

    def reason(self, score: float) -> str | None:
        """Why a row leaves; NaN is no score."""
        if not self.bounded:
            return None
        if math.isnan(score):
            return f"{self.scorer}_missing" if self.rule.missing == "drop" else None
        if self.low is not None and score < self.low:
            return f"{self.scorer}_too_low"
        return f"{self.scorer}_too_high" if self.high is not None and score > self.high else None


class RowRules:
    """Every rule, asked row by row in the order of the set. rows: asked so far. rejected: of them, by reason.

    unjudged: rows that stayed though a rule found nothing to judge, by what they lack. expected: rows of the set.
    """

    def __init__(self, settings: CurateSettings, limits: Sequence[Limits], expected: int) -> None:
        self.rows = 0
        self.rejected: Counter[str] = Counter()
        self.unjudged: Counter[str] = Counter()
        self._captions = CaptionCheck(settings.captions)
        self._limits = limits
        self._bounded = [limit.scorer for limit in limits if limit.bounded]
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
    return None if rule.max_distance is None else NearDuplicates(rule.max_distance, expected)


def select_rows(
    table: pa.Table, scores: Mapping[str, ShardScores], limits: Sequence[Limits], rules: RowRules
) -> pa.Table:
    """A shard's table with the scores' columns, `selected` and `rejected_by`.

    scores: by scorer, of the rows that count, in their order.
    """
    import pyarrow as pa

    size, keys = len(table), table["key"].to_pylist()
    old = _column(table, REJECTED_BY)
    # Only rows that counted were scored: what left earlier stays out, with the reason it had.
    states = zip(table["status"].to_pylist(), table["selected"].to_pylist(), strict=True)
    counted = [row for row, (status, selected) in enumerate(states) if status == SUCCESS and selected]
    counted_keys = [keys[row] for row in counted]
    if any(one.keys != counted_keys for one in scores.values()):
        raise AssertionError("the scores are of another shard set than the tables")
    judged = {limit.scorer: scores[limit.scorer].columns[limit.column] for limit in limits}
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
    table: pa.Table, scores: Mapping[str, ShardScores], limits: Sequence[Limits], counted: list[int]
) -> Iterator[tuple[pa.Field, pa.Array]]:
    import numpy as np
    import pyarrow as pa

    for limit in limits:
        found = scores[limit.scorer]
        for name, column in found.columns.items():
            values = np.full(len(table), np.nan, np.float32)
            values[counted] = column
            # another encoder of the same name does not overwrite what a table has already
            free = name if name not in table.column_names else f"{name}_{limit.digest[:8]}"
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
