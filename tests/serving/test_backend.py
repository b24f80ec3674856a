"""Requests that a dying replica takes with it go to another one; what is behind the calls is a fake handle."""

from __future__ import annotations

import asyncio

import pytest
from ray.exceptions import ActorDiedError

from gigagan_core.errors import GigaganError
from gigagan_core.inference.recipes import Point
from gigagan_core.serving.backend import ReplicaBackend, ReplicasLost
from gigagan_core.serving.jobs import PictureJob
from gigagan_core.serving.replica import Refused

JOB = PictureJob(Point(prompt="a"))


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
    """Answers each call with the next of the outcomes."""

    def __init__(self, *outcomes):
        self.outcomes, self.responses = list(outcomes), []

    @property
    def pictures(self):
        return self

    def remote(self, jobs):
        assert jobs == [JOB]
        self.responses.append(Response(self.outcomes.pop(0)))
        return self.responses[-1]


def ask(handle: Handle, tries: int = 3):
    retries = []
    backend = ReplicaBackend(handle, {}, "app", tries, lambda: retries.append(1))
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
    error, retries = ask(Handle(Refused("the model has no layer 9")))
    assert isinstance(error, GigaganError)
    assert str(error) == "the model has no layer 9"
    assert retries == 0


def test_a_defect_is_not_tried_again() -> None:
    error, retries = ask(Handle(RuntimeError("a bug")))
    assert isinstance(error, RuntimeError)
    assert retries == 0


def test_a_request_that_is_given_up_is_cancelled_in_the_replica() -> None:
    async def give_up(handle: Handle) -> None:
        backend = ReplicaBackend(handle, {}, "app", 3)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await backend.pictures([JOB])

    handle = Handle(["made"])
    asyncio.run(give_up(handle))
    assert handle.responses[0].cancelled
