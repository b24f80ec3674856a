"""Partitions, each an artifact of its own: found in the store, or fetched in a Ray task and committed.

A thread for each partition in flight waits for its task, so the store's leases and commits stay in this
process; tasks write into the leased folder, which every node of a Ray cluster must see.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

from gigagan_core import console
from gigagan_core.config.ingest import IngestSettings, PartitionSettings
from gigagan_core.data.download import (
    PartitionJob,
    PartitionResult,
    download_partition,
    download_task,
    read_progress,
)
from gigagan_core.errors import GigaganError
from gigagan_core.stages.base import Outcome, RunContext, StageSpec, StageWork, materialise
from gigagan_core.stages.forget import remembered
from gigagan_core.store.artifact import Artifact, ExternalTable
from gigagan_core.store.fingerprint import code_digest
from gigagan_core.tracking.null import NullTracker

SPEC = StageSpec("download", kind="partition", module="gigagan_core.data.download")
POLL_SECONDS = 0.5
TELL_SECONDS = 5.0
SITE_CONCURRENCY = 8


@dataclass(frozen=True)
class Partition:
    """Rows of one table; number: its place among all partitions of the run."""

    number: int
    table: ExternalTable
    start: int
    rows: int


def cut(tables: list[ExternalTable], rows_per_partition: int) -> list[Partition]:
    """The partitions of some tables, in their order."""
    pieces = [
        (table, start, min(rows_per_partition, table.rows - start))
        for table in tables
        for start in range(0, table.rows, rows_per_partition)
    ]
    return [Partition(number, *piece) for number, piece in enumerate(pieces)]


@dataclass
class Fetching:
    """What `fetch_partitions` found and did. results: by partition; fresh: those that were not there."""

    artifacts: list[Artifact] = field(default_factory=list)
    results: list[PartitionResult] = field(default_factory=list)
    fresh: list[bool] = field(default_factory=list)
    seconds: float = 0.0


def fetch_partitions(partitions: list[Partition], work: StageWork) -> Fetching:
    """Every partition's artifact, in order; at most `settings.partitions_in_flight` are fetched at a time.

    When one fails, those in flight are stopped and its error is raised; finished ones stay in the store.
    """
    started = time.monotonic()
    total = sum(partition.rows for partition in partitions)
    with (
        _Shared(work) as shared,
        console.progress("fetching", total=total, unit="URLs") as bar,
        ThreadPoolExecutor(work.settings.partitions_in_flight) as threads,
    ):
        board = _Board(len(partitions))
        futures = [threads.submit(_one, partition, shared, board) for partition in partitions]
        try:
            waiting, told = set(futures), time.monotonic()
            while waiting:
                # Not after each one: of a thousand cached partitions, looking at the others would take the time.
                done, waiting = wait(waiting, timeout=POLL_SECONDS, return_when=FIRST_EXCEPTION)
                bar.set(board.done, **board.shown())
                told = _tell(work, board, total, told)
                for future in done:
                    future.result()
        except BaseException:
            shared.stopping.set()
            for future in futures:
                future.cancel()
            raise
    artifacts = [future.result() for future in futures]
    return Fetching(artifacts, board.results, board.fresh, time.monotonic() - started)


def _tell(work: StageWork, board: _Board, total: int, told: float) -> float:
    """Live counts for the records, every few seconds; returns when they were last told."""
    now = time.monotonic()
    if now - told < TELL_SECONDS:
        return told
    work.context.on_progress(f"{work.label}: fetching", board.done / max(total, 1), board.shown())
    work.run.log_metrics(board.metrics(now - board.started), step=board.done)
    return now


class _Board:
    """Counts of all partitions, written by their threads and read by the bar."""

    def __init__(self, partitions: int):
        self.results = [PartitionResult() for _ in range(partitions)]
        self.fresh = [False] * partitions
        self.started = time.monotonic()

    @property
    def done(self) -> int:
        return sum(result.done for result in self.results)

    def shown(self) -> dict[str, Any]:
        """Figures for the end of the line: the share that came in, and the commonest reasons."""
        failed = sum((result.failed for result in self.results), Counter())
        success = sum(result.success for result in self.results)
        asked = success + failed.total()
        share = {"success": f"{success / asked:.1%}"} if asked else {}
        return {**share, **dict(failed.most_common(3))}

    def metrics(self, seconds: float) -> dict[str, float]:
        """For the record, by URLs done: images kept, URLs a second, failures by reason."""
        failed = sum((result.failed for result in self.results), Counter())
        return {
            "fetch/success": float(sum(result.success for result in self.results)),
            "fetch/urls_per_second": self.done / max(seconds, 1e-9),
            **{f"fetch/failed/{reason}": float(count) for reason, count in failed.items()},
        }


class _Shared:
    """What the partitions share: Ray and the embedded site, each started when the first one needs it."""

    def __init__(self, work: StageWork):
        self.settings: IngestSettings = work.settings
        self.stopping = threading.Event()
        self._work = work
        self._lock = threading.Lock()
        self._stack = contextlib.ExitStack()
        self._site: Any = None
        self._site_is_elsewhere: bool | None = None
        self.block_list = work.inputs.get("block_list")
        self.forgotten = remembered(work.store)
        self.code = code_digest(SPEC.module)
        # One record for the whole ingest run: a thousand partitions would be a thousand runs.
        self.context: RunContext = dataclasses.replace(work.context, tracker=NullTracker(), history=[])

    def __enter__(self) -> _Shared:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def ray(self) -> Any:
        """The ray module, for a partition's thread."""
        return self._work.ray()

    def in_this_process(self) -> bool:
        """Whether partitions are fetched here, not in Ray tasks.

        The embedded site listens on loopback: tasks on other machines would ask themselves for its pictures.
        """
        if not self.settings.ray_tasks:
            return True
        if self.settings.site is None:
            return False
        with self._lock:
            if self._site_is_elsewhere is None:
                self._site_is_elsewhere = tasks_may_leave(self.ray())
                if self._site_is_elsewhere:
                    console.note("the embedded site serves this machine alone: its pictures are fetched here")
        return self._site_is_elsewhere

    def fetching(self) -> dict[str, Any]:
        """Changes to the fetch settings: the embedded site's address and pace, where it is wanted."""
        fetch = self.settings.fetch
        if self.settings.site is None:
            return {}
        with self._lock:
            if self._site is None:
                from gigagan_core.data.site import OpenMojiSite

                self._site = self._stack.enter_context(OpenMojiSite(faults=self.settings.site_faults))
        return {
            "hosts": {**fetch.hosts, **self._site.hosts},
            # It renders on request: what is asked for beyond its pace only waits, towards its time-out.
            "concurrency": min(fetch.concurrency, SITE_CONCURRENCY),
        }


def tasks_may_leave(ray: Any) -> bool:
    """Whether Ray may run a task on another machine than this driver's, now or when the cluster has grown.

    ray: the module, connected.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    here = ray.get_runtime_context().get_node_id()
    (own,) = {node["NodeManagerAddress"] for node in nodes if node["NodeID"] == here}
    places = {node["NodeManagerAddress"] for node in nodes if node["Resources"].get("CPU")}
    # No place at all: a standing cluster whose workers come when they are asked for.
    return places != {own}


class _Stopped(Exception):
    """This partition is given up because another one failed."""


def _one(partition: Partition, shared: _Shared, board: _Board) -> Artifact:
    """The artifact of one partition."""
    if shared.stopping.is_set():
        raise _Stopped
    settings = PartitionSettings.of(shared.settings, partition.start, partition.rows)

    def produce(work: StageWork) -> Outcome:
        board.fresh[partition.number] = True
        fetch = settings.fetch.model_copy(update=shared.fetching())
        job = PartitionJob(
            partition.table.uri,
            partition.table.sha256,
            settings.model_copy(update={"fetch": fetch}),
            shared.settings.block_list,
            shared.forgotten,
        )
        for result in _download(job, work, shared):
            board.results[partition.number] = result
        _check_budget(job, result, settings)
        return Outcome(
            counts={
                "in": result.rows,
                "out": result.success,
                "rejected": dict(sorted((result.filtered + result.failed).items())),
            },
            notes={"result": result.as_json()},
        )

    label = f"download {partition.number:05d}"
    inputs = {"table": partition.table, "block_list": shared.block_list}
    artifact = materialise(
        SPEC, settings, inputs, shared.context, produce, label=label, quiet=True, code=shared.code
    )
    board.results[partition.number] = PartitionResult.from_json(artifact.notes["result"])
    return artifact


def _download(job: PartitionJob, work: StageWork, shared: _Shared) -> Iterator[PartitionResult]:
    """Counts so far, and at last the result."""
    if shared.in_this_process():

        def look_up(result: PartitionResult) -> None:
            if shared.stopping.is_set():
                raise _Stopped

        yield download_partition(job, work.path, work.output, look_up)
        return
    ray = shared.ray()
    # Ray starts the task again, on another worker, when its worker dies.
    task = ray.remote(num_cpus=shared.settings.cpus_per_partition, max_retries=3)(download_task)
    running = task.options(name=f"download {job.name}").remote(job, str(work.path), str(work.output))
    while not ray.wait([running], timeout=POLL_SECONDS)[0]:
        if shared.stopping.is_set():
            ray.cancel(running, force=True)
            raise _Stopped
        if (so_far := read_progress(work.path)) is not None:
            yield so_far
    try:
        yield PartitionResult.from_json(ray.get(running))
    except ray.exceptions.WorkerCrashedError as error:
        raise GigaganError(
            f"the worker that fetched {job.name} died four times over ({error}); look for a lack of memory, "
            "lower fetch.concurrency or partitions_in_flight, and give the same command again"
        ) from None


def _check_budget(job: PartitionJob, result: PartitionResult, settings: PartitionSettings) -> None:
    """An outage must not be committed as if the pictures were gone for good."""
    if result.failed_share > settings.fetch.max_failed_share:
        reasons = ", ".join(f"{reason} {count}" for reason, count in result.failed.most_common())
        raise GigaganError(
            f"{job.name}: {result.failed_share:.0%} of {result.success + result.failed.total()} URLs failed, more than "
            f"fetch.max_failed_share={settings.fetch.max_failed_share:g} allows ({reasons}); mend the network or raise "
            "the budget, and give the same command again: finished partitions are kept"
        )
