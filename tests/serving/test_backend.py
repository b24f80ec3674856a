"""Requests that a dying replica takes with it go to another one; what is behind the calls is a fake handle."""

from __future__ import annotations

import asyncio
import pickle
from dataclasses import replace

import pytest
from ray.exceptions import ActorDiedError

from gigagan_core.errors import GigaganError
from gigagan_core.inference.generate import NotFinite
from gigagan_core.inference.recipes import Point
from gigagan_core.serving.backend import ReplicaBackend, ReplicasLost
from gigagan_core.serving.batches import BatchRules
from gigagan_core.serving.jobs import PictureJob
from gigagan_core.serving.replica import Refused

JOB = PictureJob(Point(prompt="a"))
RULES = BatchRules(size=4, tries=3)


class Response:
    def __init__(self, outcome):
        self.outcome, self.cancelled = outcome, False

    def __await__(self):
        yield from asyncio.sleep(0.01).__await__()
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome

    def cancel(self) -> None:
        self.cancelled = True


class Handle:
    """Answers each call with the next of the outcomes, or with what it makes of the jobs."""

    def __init__(self, *outcomes, make=None):
        self.outcomes, self.make, self.asked, self.responses = list(outcomes), make, [], []

    @property
    def pictures(self):
        return self

    def remote(self, jobs):
        self.asked.append([job.what.prompt for job in jobs])
        self.responses.append(Response(self.make(jobs) if self.make else self.outcomes.pop(0)))
        return self.responses[-1]


def ask(handle: Handle, tries: int = 3):
    retries = []
    backend = ReplicaBackend(handle, {}, "app", replace(RULES, tries=tries), lambda: retries.append(1))
    try:
        return asyncio.run(backend.pictures([JOB])), len(retries)
    except Exception as error:
        return error, len(retries)


def test_a_request_of_a_dead_replica_is_made_by_another() -> None:
    assert ask(Handle(ActorDiedError(), ActorDiedError(), ["made"])) == (["made"], 2)


def test_a_request_that_kills_every_replica_is_given_up() -> None:
    error, retries = ask(Handle(*[ActorDiedError()] * 5))
    assert isinstance(error, ReplicasLost)
    assert retries == 3


def test_a_refusal_is_its_sentence_and_is_not_tried_again() -> None:
    error, retries = ask(Handle([Refused(GigaganError("the model has no layer 9"))]))
    assert isinstance(error, GigaganError)
    assert str(error) == "the model has no layer 9"
    assert retries == 0


def test_a_failure_of_the_model_is_told_from_a_wrong_request_on_its_way_from_the_replica() -> None:
    refused = pickle.loads(pickle.dumps(Refused(NotFinite("1 of 1 images are not finite"))))
    error, retries = ask(Handle([refused]))
    assert type(error) is NotFinite
    assert str(error) == "1 of 1 images are not finite"
    assert retries == 0


def test_a_defect_is_not_tried_again() -> None:
    error, retries = ask(Handle(RuntimeError("a bug")))
    assert isinstance(error, RuntimeError)
    assert retries == 0


def test_a_request_that_is_given_up_is_cancelled_in_the_replica() -> None:
    async def give_up(handle: Handle) -> None:
        backend = ReplicaBackend(handle, {}, "app", RULES)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.005):
                await backend.pictures([JOB])
        await asyncio.sleep(0)

    handle = Handle(["made"])
    asyncio.run(give_up(handle))
    assert handle.responses[0].cancelled


def test_a_request_that_kills_replicas_does_not_take_others_along() -> None:
    def make(jobs):
        return ActorDiedError() if deadly in jobs else [f"made {job.what.prompt}" for job in jobs]

    deadly = PictureJob(Point(prompt="deadly"))
    others = [PictureJob(Point(prompt=name)) for name in ("b", "c")]

    async def together():
        backend = ReplicaBackend(handle, {}, "app", RULES)
        asked = [[others[0]], [deadly], [others[1]]]
        return await asyncio.gather(*(backend.pictures(jobs) for jobs in asked), return_exceptions=True)

    handle = Handle(make=make)
    first, lost, last = asyncio.run(together())
    assert (first, last) == (["made b"], ["made c"])
    assert isinstance(lost, ReplicasLost)
    assert handle.asked == [["b", "deadly", "c"], ["b"], ["deadly"], ["c"], ["deadly"]]


def test_others_are_answered_before_what_kills_replicas_has_had_all_its_tries() -> None:
    def make(jobs):
        return ActorDiedError() if any(job.what.prompt == "deadly" for job in jobs) else ["made"] * len(jobs)

    async def order():
        async def ask(prompt):
            await asyncio.gather(backend.pictures([PictureJob(Point(prompt=prompt))]), return_exceptions=True)
            ended.append(prompt)

        backend = ReplicaBackend(handle, {}, "app", replace(RULES, tries=4))
        await asyncio.gather(*(ask(prompt) for prompt in ("b", "deadly", "c")))

    handle, ended = Handle(make=make), []
    asyncio.run(order())
    assert ended == ["b", "c", "deadly"]
    assert handle.asked[1:] == [["b"], ["deadly"], ["c"], ["deadly"], ["deadly"]]


def test_a_defect_of_one_request_leaves_the_others_alone() -> None:
    def make(jobs):
        return RuntimeError("a bug") if bad in jobs else ["made"] * len(jobs)

    bad = PictureJob(Point(prompt="bad"))

    async def together():
        backend = ReplicaBackend(handle, {}, "app", RULES)
        return await asyncio.gather(
            *(backend.pictures(jobs) for jobs in ([JOB], [bad], [JOB])), return_exceptions=True
        )

    handle = Handle(make=make)
    first, failed, last = asyncio.run(together())
    assert (first, last) == (["made"], ["made"])
    assert str(failed) == "a bug"
    assert handle.asked == [["a", "bad", "a"], ["a"], ["bad"], ["a"]]
