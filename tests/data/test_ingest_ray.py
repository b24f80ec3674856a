"""Ingest in Ray tasks: as in one process, and as if no worker had died."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import psutil
import pytest

from gigagan_core.config.ingest import IngestSettings
from gigagan_core.data.openmoji import PublishedSet
from gigagan_core.data.site import OpenMojiSite
from gigagan_core.stages import ingest
from gigagan_core.stages.base import RunContext
from gigagan_core.stages.ray_session import RaySession
from gigagan_core.store.artifact import Artifact
from gigagan_core.store.store import open_store
from gigagan_core.tracking.null import NullTracker

from .helpers import fates, rows_of, run_ingest

MakeSettings = Callable[..., IngestSettings]
ROWS = 54
FEW, MANY = range(3), range(3, 23)


@pytest.fixture(scope="module")
def ray_session() -> Iterator[RaySession]:
    """One for all seeds: it takes longer to start than a run lasts."""
    session = RaySession()
    yield session
    session.close()


@pytest.fixture(scope="module")
def undisturbed(
    published: PublishedSet, ingest_settings: MakeSettings, tmp_path_factory: pytest.TempPathFactory
) -> Artifact:
    return run_ingest(published.train, ingest_settings(), tmp_path_factory.mktemp("undisturbed"))


class Killer:
    """A thread that sends SIGKILL to Ray workers that fetch, at moments that the seed chooses.

    A moment is a number of requests that the site has had since the last one, and a little time. The third time the
    same partition's worker dies is the last that Ray forgives, so there are three moments at most.
    """

    def __init__(self, seed: int, site: OpenMojiSite) -> None:
        random = Random(seed)
        self.killed: list[int] = []
        self._moments = [(random.randrange(ROWS - 10), 0.3 * random.random()) for _ in range(1 + seed % 3)]
        self._random, self._site = random, site
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Killer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        for requests, seconds in self._moments:
            enough = len(self._site.requests()) + requests
            while len(self._site.requests()) < enough and not self._stop.wait(0.01):
                pass
            time.sleep(seconds)
            self._kill_one()

    def _kill_one(self) -> None:
        while not self._stop.wait(0.01):
            # Ray gives a worker the task's name as its title for as long as it works.
            busy = [child.pid for child in psutil.Process().children(recursive=True) if _fetches(child)]
            if busy:
                self.killed.append(self._random.choice(busy))
                os.kill(self.killed[-1], signal.SIGKILL)
                return


def _fetches(process: psutil.Process) -> bool:
    try:
        return process.cmdline()[:1] != [] and process.cmdline()[0].startswith("ray::download")
    except psutil.Error:  # it has ended since
        return False


@pytest.mark.parametrize("seed", [*FEW, *(pytest.param(seed, marks=pytest.mark.slow) for seed in MANY)])
def test_workers_killed_at_any_moment_cost_nothing_but_time(
    seed: int,
    ray_session: RaySession,
    undisturbed: Artifact,
    published: PublishedSet,
    ingest_settings: MakeSettings,
    site: OpenMojiSite,
    tmp_path: Path,
) -> None:
    context = RunContext(open_store(str(tmp_path)), NullTracker(), ray_session=ray_session)
    settings = ingest_settings(ray_tasks=True, partitions_in_flight=2)
    ray_session.ray()
    with Killer(seed, site) as killer:
        artifact = ingest.run(settings, {"metadata": published.train}, context)
    assert killer.killed, "a run that nothing disturbed shows nothing"
    assert fates(artifact) == fates(undisturbed)
    assert len(rows_of(artifact)) == len(fates(artifact)) == ROWS, "no row twice"
    assert artifact.manifest["counts"] == undisturbed.manifest["counts"]
    assert list((tmp_path / "_work").glob("*/")) == []
