"""What every cluster's jobs have in common, on a cluster of threads: attach, submit, follow, give up."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from tiny_stage import TinySettings, run

from gigagan_core import console
from gigagan_core.backends import run_stage
from gigagan_core.backends.remote import JobState, RemoteBackend, Unreachable, stop_jobs
from gigagan_core.backends.request import Request, progress_line
from gigagan_core.config.backend import BackendSettings, HeldSettings, PriceSettings
from gigagan_core.errors import GigaganError
from gigagan_core.stages.base import RunContext, StageCall
from gigagan_core.store.store import open_store
from gigagan_core.tracking.process import Terminated, sigterm_raises


class Threads:
    """A cluster whose jobs are threads of this process."""

    name, store, patience = "threads", None, 0.3

    def __init__(self) -> None:
        self.states: dict[str, JobState] = {}
        self.submitted: list[str] = []
        self.stopped: list[str] = []
        self.silent = 0

    def held(self, stage: str) -> HeldSettings:
        return HeldSettings(cpus=4, gpus=2)

    def state(self, job: str) -> JobState | None:
        if self.silent:
            self.silent -= 1
            raise Unreachable("refused")
        return self.states.get(job)

    def submit(self, job: str, request: Request, store: str) -> bool:
        if job in self.states:
            return False
        self.submitted.append(job)
        self.states[job] = JobState("running")
        threading.Thread(target=self._work, args=(job, store), daemon=True).start()
        return True

    def _work(self, job: str, store: str) -> None:
        try:
            run_stage.run(open_store(store), job)
        except Exception as error:
            self.states[job] = JobState("failed", f"exit code 1, {type(error).__name__}")
        else:
            self.states[job] = JobState("succeeded")

    def follow(self, job: str, tell: Callable[[str], None], done: threading.Event) -> None:
        progress = progress_line("fetching", 0.5, {"success": "90%"})
        for line in (
            "starting",
            progress,
            "gigagan-progress nonsense",
            "ValueError: the reason",
            "cleaning up",
        ):
            tell(line)

    def stop(self, job: str) -> bool:
        self.stopped.append(job)
        self.states[job] = JobState("stopped")
        return True

    def of(self, asker: str) -> list[str]:
        return [
            job for job, state in self.states.items() if job.startswith(f"{asker}-") and not state.is_over
        ]


@pytest.fixture
def jobs() -> Threads:
    return Threads()


def backend(
    jobs: Threads, cancelled: Callable[[], bool] = lambda: True, asker: str | None = "pf-1"
) -> RemoteBackend:
    return RemoteBackend(jobs, BackendSettings(), asker, cancelled)


def call(**settings: Any) -> StageCall:
    return StageCall(run, TinySettings(**settings), {}, {"label": "tiny one"})


def test_a_job_makes_what_the_store_lacks_and_what_it_has_needs_none(
    jobs: Threads, context: RunContext
) -> None:
    context.prices = PriceSettings(gpu_hour=2.0)
    artifact = backend(jobs).run(call(), context)
    assert (artifact.path / "word.txt").read_text() == "well"
    (job,) = jobs.submitted
    assert job.startswith("pf-1-tiny-stage-")
    assert artifact.manifest["origin"]["job"] == job
    assert artifact.manifest["usage"]["currency"] == "USD"
    again = backend(jobs).run(call(), context)
    assert again == artifact
    assert jobs.submitted == [job]
    assert [(line.label, line.cached) for line in context.history] == [
        ("tiny one", False),
        ("tiny one", True),
    ]


def test_the_same_asker_attaches_to_a_running_job(jobs: Threads, context: RunContext) -> None:
    first = threading.Thread(target=backend(jobs).run, args=(call(seconds=1.0), context))
    first.start()
    while not jobs.submitted:
        time.sleep(0.01)
    artifact = backend(jobs).run(call(seconds=1.0), context)
    first.join()
    assert len(jobs.submitted) == 1
    assert artifact.kind == "shard-set"


def test_a_job_that_was_being_stopped_is_followed_by_another(jobs: Threads, context: RunContext) -> None:
    """Given up and given again at once: the cluster says for a moment that the first one runs."""
    with pytest.raises(GigaganError):
        backend(jobs).run(call(end="crash"), context)
    (first,) = jobs.submitted
    # of the same request, as it stands on the cluster while it ends
    jobs.states[first] = JobState("running")

    def end() -> None:
        time.sleep(0.3)
        jobs.states[first] = JobState("stopped")

    threading.Thread(target=end).start()
    with pytest.raises(GigaganError, match=f"{first}-2 .*failed"):
        backend(jobs).run(call(end="crash"), context)
    assert jobs.submitted == [first, f"{first}-2"]


def test_a_job_that_somebody_stops_later_is_not_started_again(
    jobs: Threads, context: RunContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gigagan_core.backends.remote.STOPPING_SECONDS", 0.0)
    with pytest.raises(GigaganError):
        backend(jobs).run(call(end="crash"), context)
    (first,) = jobs.submitted
    jobs.states[first] = JobState("running")
    threading.Timer(0.3, lambda: jobs.states.update({first: JobState("stopped")})).start()
    with pytest.raises(GigaganError, match="stopped; its last lines"):
        backend(jobs).run(call(end="crash"), context)
    assert jobs.submitted == [first]


def test_a_failure_is_the_jobs_own_sentence(jobs: Threads, context: RunContext) -> None:
    with pytest.raises(
        GigaganError, match=r"the word 'well' is bad; choose another \(job pf-1-tiny-stage-\w+ on threads\)"
    ):
        backend(jobs).run(call(end="badly"), context)


def test_a_job_that_dies_without_a_word_is_told_by_its_last_lines_and_tried_anew(
    jobs: Threads, context: RunContext
) -> None:
    with pytest.raises(GigaganError) as raised:
        backend(jobs).run(call(end="crash"), context)
    said = str(raised.value)
    assert "failed: exit code 1" in said
    assert "ValueError: the reason" in said
    assert "\n" not in said
    with pytest.raises(GigaganError):
        backend(jobs).run(call(end="crash"), context)
    assert jobs.submitted == [jobs.submitted[0], f"{jobs.submitted[0]}-2"]


def test_force_works_once_for_one_asker_and_a_retry_takes_the_result(
    jobs: Threads, context: RunContext
) -> None:
    first = backend(jobs).run(call(), context)
    context.force = True
    forced = backend(jobs).run(call(), context)
    assert (first.attempt, forced.attempt) == (1, 2)
    assert backend(jobs).run(call(), context).attempt == 2
    assert len(jobs.submitted) == 2


def test_force_from_the_command_line_works_each_time_it_is_given(jobs: Threads, context: RunContext) -> None:
    backend(jobs, asker=None).run(call(), context)
    context.force = True
    forced = [backend(jobs, asker=None).run(call(), context).attempt for _ in range(2)]
    assert forced == [2, 3]
    plain, first, second = jobs.submitted
    assert plain.startswith("cli-tiny-stage-")
    assert second == f"{first}-2"


def test_a_forced_job_that_runs_is_attached_to_from_the_command_line_too(
    jobs: Threads, context: RunContext
) -> None:
    context.force = True
    first = threading.Thread(target=backend(jobs, asker=None).run, args=(call(seconds=1.0), context))
    first.start()
    while not jobs.submitted:
        time.sleep(0.01)
    backend(jobs, asker=None).run(call(seconds=1.0), context)
    first.join()
    assert len(jobs.submitted) == 1


class Removing(Threads):
    """A cluster that still has a job of every name, which was told to go."""

    tries = 0

    def submit(self, job: str, request: Request, store: str) -> bool:
        self.tries += 1
        return self.tries > 3 and super().submit(job, request, store)


def test_a_job_whose_name_is_not_free_yet_is_submitted_again(context: RunContext) -> None:
    jobs = Removing()
    heard: list[str] = []
    with console.heard_by(heard.append):
        assert backend(jobs).run(call(), context).attempt == 1
    (job,) = jobs.submitted
    assert [line for line in heard if "is being removed" in line] == [
        f"tiny-stage: an earlier {job} is being removed; waiting until it is gone"
    ]


def test_a_job_that_never_goes_is_one_sentence(context: RunContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gigagan_core.backends.remote.GOING_SECONDS", 0.1)
    jobs = Removing()
    jobs.tries = -1_000_000
    with pytest.raises(GigaganError, match=r"threads has been removing an earlier pf-1-tiny-stage-\w+ for"):
        backend(jobs).run(call(), context)


def test_lines_and_progress_of_a_job_are_heard_here(jobs: Threads, context: RunContext) -> None:
    heard: list[str] = []
    told: list[Any] = []
    context.on_progress = lambda *progress: told.append((threading.current_thread(), *progress))
    with console.heard_by(heard.append):
        backend(jobs).run(call(), context)
    assert heard.index("starting") < heard.index("ValueError: the reason")
    assert [line for line in heard if "gigagan-progress" in line] == ["gigagan-progress nonsense"]
    assert told == [(threading.main_thread(), "fetching", 0.5, {"success": "90%"})]


def test_a_cluster_that_is_away_for_a_moment_costs_nothing(jobs: Threads, context: RunContext) -> None:
    jobs.silent = 3
    assert backend(jobs).run(call(), context).attempt == 1
    jobs.silent = 10_000
    with pytest.raises(GigaganError, match="the same command attaches to it"):
        backend(jobs).run(call(word="other"), context)


def test_a_job_that_its_cluster_forgot_is_one_sentence(jobs: Threads, context: RunContext) -> None:
    def forget() -> None:
        while not jobs.submitted:
            time.sleep(0.01)
        jobs.states.clear()

    threading.Thread(target=forget).start()
    with pytest.raises(GigaganError, match="finished work is kept"):
        backend(jobs).run(call(seconds=0.8), context)


@pytest.mark.parametrize(
    ("number", "cancelled", "stops"),
    [
        (signal.SIGINT, False, True),
        (signal.SIGTERM, True, True),
        (signal.SIGTERM, False, False),
    ],
)
def test_a_job_stops_where_the_work_is_given_up_and_goes_on_where_the_machine_goes_away(
    jobs: Threads, context: RunContext, number: int, cancelled: bool, stops: bool
) -> None:
    def interrupt() -> None:
        while not jobs.submitted:
            time.sleep(0.01)
        time.sleep(0.1)
        os.kill(os.getpid(), number)

    def run_it() -> None:
        with sigterm_raises():
            threading.Thread(target=interrupt).start()
            backend(jobs, lambda: cancelled).run(call(seconds=1.0), context)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises((KeyboardInterrupt, Terminated)):
        run_it()
    signal.signal(signal.SIGTERM, before)
    assert jobs.stopped == (jobs.submitted if stops else [])


def test_all_jobs_of_a_cancelled_asker_stop_and_no_other_ones(jobs: Threads) -> None:
    jobs.states = {
        "pf-1-tiny-a": JobState("running"),
        "pf-1-tiny-b": JobState("succeeded"),
        "pf-12-tiny-c": JobState("running"),
    }
    assert stop_jobs(jobs, "pf-1") == ["pf-1-tiny-a"]
    assert jobs.stopped == ["pf-1-tiny-a"]


def test_other_code_on_the_cluster_is_refused(
    jobs: Threads, context: RunContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_stage, "code_digest", lambda module: ("other", {"gigagan_core.text": "other"}))
    with pytest.raises(GigaganError, match=r"\(gigagan_core\.text\); build the image of the same commit"):
        backend(jobs).run(call(), context)
