"""The page of a shard set, into the record of the stage that makes it.

What a page shows decides no rows, so this module and what it imports are no part of any fingerprint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gigagan_core.data.shards import Shard
from gigagan_core.stages.base import StageWork

REPORT_FILE = "data-report.html"


def log_data_page(work: StageWork, shards: Sequence[Shard], title: str, notes: Mapping[str, Any]) -> None:
    """`data_report` of these shards, as a file of the stage's run: in the artifact it would be part of the digest."""
    from gigagan_core.data.report import data_report

    path = work.path / REPORT_FILE
    path.write_text(data_report(shards, title=title, notes=notes), encoding="utf-8")
    work.run.log_artifact(path)
