"""Ingest in Ray tasks: as in one process, and as if no worker had died."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq

from gigagan_core.config.ingest import IngestSettings
from gigagan_core.data.openmoji import PublishedSet
from gigagan_core.data.site import OpenMojiSite
from gigagan_core.stages import ingest
from gigagan_core.stages.base import RunContext

MakeSettings = Callable[..., IngestSettings]


def kill_first_worker(store: Path, killed: list[int], gone: threading.Event) -> None:
    """SIGKILL the first process that reports progress on a partition."""
    while not killed and not gone.is_set():
        for progress in store.glob("_work/*/progress.json"):
            # Only while it works: its result may be there already.
            pid = json.loads(progress.read_text())["pid"]
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)
            break
        time.sleep(0.02)


def test_a_killed_worker_costs_nothing_but_time(
    published: PublishedSet, ingest_settings: MakeSettings, site: OpenMojiSite, tmp_path: Path
) -> None:
    killed, gone = [], threading.Event()
    store = tmp_path / "store"
    killer = threading.Thread(target=kill_first_worker, args=(store, killed, gone))
    killer.start()
    try:
        with RunContext.open(str(store)) as context:
            artifact = ingest.run(ingest_settings(ray_tasks=True), {"metadata": published.train}, context)
    finally:
        gone.set()
        killer.join()
    assert len(killed) == 1
    rows = [
        row for path in sorted(artifact.path.glob("*.parquet")) for row in pq.read_table(path).to_pylist()
    ]
    lost = {row["url"] for row in rows if row["status"] != "success"}
    assert lost == {row["url"] for row in rows if site.faults.fault(row["url"], 9) is not None}
    counts = artifact.manifest["counts"]
    assert counts["in"] == len({row["key"] for row in rows}) == 54
    assert counts["out"] == 54 - len(lost)
