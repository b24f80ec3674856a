"""The metadata filter: which rows of a table are worth asking for, each refusal with its reason."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gigagan_core.config.ingest import FilterSettings
from gigagan_core.errors import GigaganError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa


def filter_rows(
    rows: pa.Table, settings: FilterSettings, where: str
) -> tuple[list[str | None], dict[str, int]]:
    """What is wrong with each row of a canonical table, by the first rule that it breaks.

    Returns (reason or None for each row, {column: rows without a value} for the columns that rules look at).
    where: the table, for the sentence. Raises GigaganError where `settings.missing` is "fail" and a rule
    that is on finds no value.
    """
    import numpy as np
    import pyarrow.compute as pc

    reasons = np.full(len(rows), None, dtype=object)
    missing_counts: dict[str, int] = {}

    def refuse(mask: np.ndarray, reason: str) -> None:
        reasons[mask & np.equal(reasons, None)] = reason

    def numbers(name: str) -> np.ndarray:
        return rows[name].to_numpy().astype(np.float64)

    def threshold(values: np.ndarray, column: str, is_bad: np.ndarray, reason: str) -> None:
        absent = np.isnan(values)
        missing_counts[column] = int(absent.sum())
        if settings.missing == "fail" and absent.any():
            raise GigaganError(
                f"{where}: {int(absent.sum())} of {len(rows)} rows have no {column}, which a filter rule needs; "
                "set filter.missing to keep or drop, or turn the rule off"
            )
        if settings.missing == "drop":
            refuse(absent, f"no_{column}_in_table")
        refuse(is_bad & ~absent, reason)

    url, caption = rows["url"], rows["caption"]
    refuse(_mask(pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(pc.fill_null(url, ""))), 0)), "no_url")
    web = pc.match_substring_regex(pc.fill_null(url, ""), r"(?i)^\s*https?://")
    refuse(~_mask(web), "not_http")
    refuse(_mask(pc.is_null(caption)), "no_caption")
    length = pc.utf8_length(pc.utf8_trim_whitespace(pc.fill_null(caption, ""))).to_numpy()
    refuse(length < settings.min_caption_characters, "short_caption")
    if settings.max_caption_characters is not None:
        refuse(length > settings.max_caption_characters, "long_caption")
    sides = np.stack([numbers("width"), numbers("height")])
    with np.errstate(invalid="ignore"):
        if settings.min_side is not None:
            shorter = sides.min(axis=0)
            threshold(shorter, "size", shorter < settings.min_side, "small_in_table")
        if settings.max_aspect is not None:
            aspect = sides.max(axis=0) / sides.min(axis=0)
            threshold(aspect, "size", aspect > settings.max_aspect, "narrow_in_table")
        if settings.min_clip_similarity is not None:
            score = numbers("clip_similarity")
            bad = score < settings.min_clip_similarity
            threshold(score, "clip_similarity", bad, "low_clip_similarity_in_table")
        if settings.max_nsfw is not None:
            score = numbers("nsfw")
            threshold(score, "nsfw", score > settings.max_nsfw, "nsfw_in_table")
        if settings.max_watermark is not None:
            score = numbers("watermark")
            threshold(score, "watermark", score > settings.max_watermark, "watermark_in_table")
    refuse(_repeated(url, np.equal(reasons, None)), "duplicate_url")
    return reasons.tolist(), missing_counts


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


def _mask(values: pa.ChunkedArray) -> np.ndarray:
    return values.to_numpy().astype(bool)
