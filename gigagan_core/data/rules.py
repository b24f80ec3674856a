"""Rules on what was fetched or imported: captions, pictures, duplicates over all partitions.

They only read parquet, so other rules fetch nothing again. A row keeps the first reason it meets; rows out
and all rejected rows are together the rows in.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gigagan_core.config.ingest import ImportSettings, IngestSettings
from gigagan_core.data.marks import Marks
from gigagan_core.data.status import SUCCESS
from gigagan_core.errors import GigaganError

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass
class Rules:
    """Applied to one partition after the other, in a fixed order: the first of equal pictures stays.

    counts: rows by status, over all partitions so far.
    """

    settings: IngestSettings | ImportSettings
    counts: Counter[str] = field(default_factory=Counter)
    _seen: Marks = field(default_factory=Marks)

    def apply(self, rows: pa.Table) -> pa.Table:
        """The rows of a partition with `status` and `selected` as the rules leave them."""
        import pyarrow as pa

        statuses = [self._status(row) for row in _rows(rows)]
        self.counts.update(statuses)
        selected = [status == SUCCESS for status in statuses]
        return rows.set_column(
            rows.column_names.index("status"), "status", pa.array(statuses, pa.string())
        ).set_column(rows.column_names.index("selected"), "selected", pa.array(selected, pa.bool_()))

    def outcome(self) -> dict[str, Any]:
        """Counts in the form of a stage: in, out, rejected by reason."""
        rejected = {reason: count for reason, count in sorted(self.counts.items()) if reason != SUCCESS}
        return {"in": self.counts.total(), "out": self.counts[SUCCESS], "rejected": rejected}

    def require_rows(self, what: str) -> None:
        """Raise GigaganError where no row is left. what: they came from, for the sentence."""
        counts = self.outcome()
        if not counts["in"]:
            raise GigaganError(f"there is no row in {what}; name another place")
        if not counts["out"]:
            reasons = ", ".join(f"{reason} {count}" for reason, count in counts["rejected"].items())
            raise GigaganError(
                f"none of {counts['in']} rows is left ({reasons}); see which rule is too strict for {what} and set "
                "it with --set"
            )

    def _status(self, row: dict[str, Any]) -> str:
        if row["status"] != SUCCESS:
            return row["status"]
        return (
            self._caption_reason(row) or self._picture_reason(row) or self._duplicate_reason(row) or SUCCESS
        )

    def _caption_reason(self, row: dict[str, Any]) -> str | None:
        rules = self.settings.rules
        words = len((row["caption"] or "").split())
        if words < rules.min_caption_words:
            return "caption_too_few_words"
        if rules.max_caption_words is not None and words > rules.max_caption_words:
            return "caption_too_many_words"
        return None

    def _picture_reason(self, row: dict[str, Any]) -> str | None:
        sides = (row["original_width"], row["original_height"])
        if min(sides) < self.settings.min_side:
            return "picture_too_small"
        limit = self.settings.rules.max_aspect
        if limit is not None and max(sides) > limit * min(sides):
            return "picture_too_narrow"
        return None

    def _duplicate_reason(self, row: dict[str, Any]) -> str | None:
        rules = self.settings.rules
        marks: dict[str, Any] = {}
        if rules.duplicate_urls:
            marks["duplicate_url"] = row["url"]
        if rules.duplicate_bytes:
            marks["duplicate_bytes"] = row["sha256"]
        if rules.duplicate_pictures != "off":
            caption = row["caption"] if rules.duplicate_pictures == "with-caption" else None
            # Its own picture's hash, and the one that the table knows the original by.
            if row["phash"] is not None:
                marks["duplicate_picture"] = (row["phash"], caption)
            if row["image_phash"] is not None:
                marks["duplicate_picture_in_table"] = (row["source"], row["image_phash"], caption)
        # A picture that was imported has no URL, and shares that with no other.
        sums = {reason: _short_sum(reason, mark) for reason, mark in marks.items() if mark is not None}
        for reason, mark in sums.items():
            if mark in self._seen:
                return reason
        # Only a row that stays makes later ones duplicates.
        self._seen.update(sums.values())
        return None


def _short_sum(reason: str, mark: Any) -> int:
    """64 bits of a mark: millions of URLs and captions would fill the memory. Of a hundred million marks, one in
    4,000 runs takes two for equal that are not."""
    return int.from_bytes(hashlib.blake2b(repr((reason, mark)).encode(), digest_size=8).digest())


def _rows(rows: pa.Table) -> list[dict[str, Any]]:
    needed = ["url", "caption", "status", "original_width", "original_height"]
    needed += ["sha256", "phash", "image_phash", "source"]
    return rows.select(needed).to_pylist()
