"""The metadata filter: which rows of a table are worth asking for, each refusal with its reason."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from gigagan_core.config.ingest import FilterSettings
from gigagan_core.data.hosts import hosts_of, is_private_literal
from gigagan_core.data.schemas import SCORE_FAMILIES
from gigagan_core.errors import GigaganError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

LOW_IS_BAD = frozenset({"clip_similarity", "aesthetic"})
"""The families of scores with a lowest value; the others have a highest one."""


def filter_rows(
    rows: pa.Table,
    settings: FilterSettings,
    where: str,
    allow_private: bool = False,
    asked_before: Collection[str] = (),
) -> tuple[list[str | None], dict[str, int]]:
    """What is wrong with each row of a canonical table, by the first rule that it breaks.

    where: the table, for the sentence. allow_private: whether a URL may name a private address. asked_before:
    URLs that an earlier part of the table asks for. Returns (reason or None for each row, {rule: rows without a
    value} for the rules that are on). Raises GigaganError where `settings.missing` is "fail" and a rule that is on
    finds no value.
    """
    settings = settings.resolved()
    checks = _Checks(rows, settings.missing, where)
    _check_url(checks, allow_private)
    _check_caption(checks, settings)
    _check_size(checks, settings)
    _check_scores(checks, settings)
    checks.refuse(_is_in(rows["url"], asked_before), "duplicate_url")
    checks.refuse(_repeated(rows["url"], checks.standing()), "duplicate_url")
    return checks.reasons.tolist(), checks.missing


class _Checks:
    """reasons: object [N], the first reason of each row or None. missing: {rule: rows without a value}."""

    def __init__(self, rows: pa.Table, policy: str, where: str):
        import numpy as np

        self.rows = rows
        self.reasons = np.full(len(rows), None, dtype=object)
        self.missing: dict[str, int] = {}
        self._policy, self._where = policy, where

    def standing(self) -> np.ndarray:
        """bool [N]: rows that no rule has refused."""
        import numpy as np

        return np.equal(self.reasons, None)

    def refuse(self, mask: np.ndarray, reason: str) -> None:
        self.reasons[mask & self.standing()] = reason

    def need(self, absent: np.ndarray, rule: str) -> None:
        """What becomes of rows that have no value for a rule."""
        count = int(absent.sum())
        self.missing[rule] = count
        if self._policy == "fail" and count:
            raise GigaganError(
                f"{self._where}: {count} of {len(self.rows)} rows have no {rule}, which a filter rule needs; "
                "set filter.missing to keep or drop, or turn the rule off"
            )
        if self._policy == "drop":
            self.refuse(absent, f"no_{rule}_in_table")

    def numbers(self, column: str) -> np.ndarray:
        """float64 [N], NaN where there is no value."""
        import numpy as np

        return self.rows[column].to_numpy().astype(np.float64)


def _check_url(checks: _Checks, allow_private: bool) -> None:
    import numpy as np
    import pyarrow.compute as pc

    url = pc.fill_null(checks.rows["url"].combine_chunks(), "")
    checks.refuse(_mask(pc.equal(pc.utf8_trim_whitespace(url), "")), "no_url")
    checks.refuse(~_mask(are_http(url)), "not_http")
    if not allow_private:
        hosts = pc.fill_null(hosts_of(url), "").dictionary_encode()
        private = np.array([is_private_literal(host) for host in hosts.dictionary.to_pylist()], dtype=bool)
        if private.any():
            checks.refuse(private[hosts.indices.to_numpy()], "private_address")


def are_http(urls: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """bool: whether each URL (string) is one of http or https; null where it is null."""
    import pyarrow.compute as pc

    return pc.match_substring_regex(urls, r"(?i)^\s*https?://")


def _check_caption(checks: _Checks, settings: FilterSettings) -> None:
    import pyarrow.compute as pc

    caption = checks.rows["caption"]
    checks.refuse(_mask(pc.is_null(caption)), "no_caption")
    text = pc.utf8_trim_whitespace(pc.fill_null(caption, ""))
    length = pc.utf8_length(text).to_numpy()
    checks.refuse(length < settings.min_caption_characters, "short_caption")
    if settings.max_caption_characters is not None:
        checks.refuse(length > settings.max_caption_characters, "long_caption")
    if settings.min_caption_words is not None:
        words = pc.count_substring_regex(text, r"\S+").to_numpy()
        checks.refuse(words < settings.min_caption_words, "caption_of_few_words")


def _check_size(checks: _Checks, settings: FilterSettings) -> None:
    import numpy as np

    if settings.min_side is None and settings.max_aspect is None:
        return
    sides = np.stack([checks.numbers("width"), checks.numbers("height")])
    shorter, longer = sides.min(axis=0), sides.max(axis=0)
    checks.need(np.isnan(shorter), "size")
    if settings.min_side is not None:
        checks.refuse(shorter < settings.min_side, "small_in_table")
    if settings.max_aspect is not None:
        checks.refuse(longer > settings.max_aspect * shorter, "narrow_in_table")


def _check_scores(checks: _Checks, settings: FilterSettings) -> None:
    """Each family by the models that have a threshold; comparing with NaN refuses nothing."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    for family, columns in SCORE_FAMILIES.items():
        low = family in LOW_IS_BAD
        bounds = {column: getattr(settings, f"{'min' if low else 'max'}_{column}") for column in columns}
        scores = {column: checks.numbers(column) for column in columns if bounds[column] is not None}
        if scores:
            checks.need(np.all([np.isnan(score) for score in scores.values()], axis=0), family)
        for column, score in scores.items():
            bad = score < bounds[column] if low else score > bounds[column]
            checks.refuse(bad, f"{'low' if low else 'high'}_{column}_in_table")
    if settings.refused_nsfw_tags:
        tags = checks.rows["nsfw_tag"]
        checks.need(_mask(pc.is_null(tags)), "nsfw_tag")
        refused = pa.array(settings.refused_nsfw_tags, pa.string())
        checks.refuse(_mask(pc.is_in(tags, value_set=refused)), "nsfw_tag_in_table")


def _is_in(values: pa.ChunkedArray, wanted: Collection[str]) -> np.ndarray:
    import pyarrow as pa
    import pyarrow.compute as pc

    return _mask(pc.is_in(values, value_set=pa.array(list(wanted), pa.string()), skip_nulls=True))


def _repeated(urls: pa.ChunkedArray, candidates: np.ndarray) -> np.ndarray:
    """True where an earlier candidate row has the same URL."""
    import numpy as np

    codes = urls.combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False)
    repeated = np.zeros(len(codes), dtype=bool)
    positions = np.flatnonzero(candidates)
    _, first = np.unique(codes[positions], return_index=True)
    later = np.ones(len(positions), dtype=bool)
    later[first] = False
    repeated[positions[later]] = True
    return repeated


def _mask(values: pa.Array | pa.ChunkedArray) -> np.ndarray:
    return values.to_numpy(zero_copy_only=False).astype(bool)
