"""Pictures of many requests on their way to the replicas, collected into batches."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gigagan_core.serving.jobs import PictureJob

_MOST_WAITS = 10
"""Waits for others that one batch may add up, however steadily they come."""

_SHARE = 0.5
"""Of what the last batch of several took: so long the next one waits."""

_LONGEST_SHARE = 1.0
"""Seconds: who was answered is back by then, however long the batch took, with its replica's replacement included."""


class BatchLost(Exception):
    """What made a batch died of it, or of something else. One of its jobs may be the reason."""


@dataclass(eq=False)
class _Place:
    """A picture in the queue, and where its answer is awaited. The answer is cancelled with its request.

    lost: batches that it was lost with.
    """

    job: PictureJob
    answer: asyncio.Future
    lost: int = 0


@dataclass(frozen=True)
class BatchRules:
    """size: pictures of a batch. at_once: batches under way. tries: batches that may be lost with one job.

    wait_seconds: a batch goes when nobody has come for so long, or for half of what the last one of several took,
    if that has just ended; 0: at once.
    """

    size: int
    wait_seconds: float = 0.0
    at_once: int = 1
    tries: int = 1


class Batches:
    """Whoever comes while the replicas are busy goes with the next batch.

    A job whose batch was lost is made alone from then on: first where it stands, and if it is lost again, after all
    that wait, so that what kills the replicas keeps nobody waiting for more than one of them.

    A batch is one call. `serve.batch` makes them in the replicas, where each picture has been a call of its own, which
    costs more than a small picture does.
    """

    def __init__(
        self, send: Callable[[list[PictureJob]], Awaitable[Sequence[Any]]], rules: BatchRules
    ) -> None:
        """send: gives an answer, or an exception, for each job of a batch; BatchLost: they may be sent again."""
        self._send, self._rules = send, rules
        self._queue: deque[_Place] = deque()
        self._came = asyncio.Event()
        self._share = 0.0  # of the last batch's seconds, if it was of several
        self._ended = 0.0  # when that was
        self._lanes: set[asyncio.Task] = set()
        self._under_way = 0

    async def answers(self, jobs: Sequence[PictureJob]) -> list[Any]:
        """The answer to each job. Raises what `send` has raised or given for one of them; the others are given up."""
        loop = asyncio.get_running_loop()
        places = [_Place(job, loop.create_future()) for job in jobs]
        self._queue.extend(places)
        self._came.set()
        if len(self._lanes) < self._rules.at_once:
            self._lanes.add(loop.create_task(self._run()))
        try:
            return await asyncio.gather(*(place.answer for place in places))
        finally:
            for place in places:
                place.answer.cancel()

    async def _run(self) -> None:
        """One batch after another, until nobody waits."""
        try:
            while self._queue:
                if not self._queue[0].lost:
                    await self._collect()
                if batch := self._next():
                    await self._answer(batch)
        finally:
            # At once: who comes before a callback would have run must find that nobody takes the queue's places.
            self._lanes.discard(asyncio.current_task())

    def _next(self) -> list[_Place]:
        """The places of the next batch, without those that were given up while they waited."""
        batch: list[_Place] = []
        # What several replicas wait for is shared among them.
        idle = max(1, self._rules.at_once - self._under_way)
        size = min(self._rules.size, -(-len(self._queue) // idle))
        while self._queue and len(batch) < size:
            if batch and self._queue[0].lost:
                break
            place = self._queue.popleft()
            if place.answer.done():
                continue
            batch.append(place)
            if place.lost:
                break
        return batch

    async def _collect(self) -> None:
        """Until a batch is full, or nobody has come for the wait.

        Clients that were answered together come back one by one. Had the first of them a batch of its own at once, all
        the others would wait for that; so after a batch of several the wait is a part of what that one took.
        """
        loop = asyncio.get_running_loop()
        back = self._share if loop.time() - self._ended <= self._share else 0.0
        wait = max(self._rules.wait_seconds, back)
        latest = loop.time() + max(_MOST_WAITS * self._rules.wait_seconds, back / _SHARE)
        while len(self._queue) < self._rules.size and loop.time() < latest:
            self._came.clear()
            try:
                async with asyncio.timeout(wait):
                    await self._came.wait()
            except TimeoutError:
                return

    async def _answer(self, batch: list[_Place]) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        sent = asyncio.ensure_future(self._send([place.job for place in batch]))

        def given_up(_answer: asyncio.Future) -> None:
            if all(place.answer.cancelled() for place in batch):
                sent.cancel()

        for place in batch:
            place.answer.add_done_callback(given_up)
        self._under_way += 1
        try:
            # Not `await sent`: a call that was cancelled is told from the end of this task.
            await asyncio.wait([sent])
        finally:
            self._under_way -= 1
        self._note_seconds(len(batch), loop.time() - started)
        self._give(batch, _answers(sent, len(batch)))

    def _note_seconds(self, count: int, seconds: float) -> None:
        """Of a batch of `count` that has just ended."""
        several = count > 1 and self._rules.wait_seconds
        self._share = min(_SHARE * seconds, _LONGEST_SHARE) if several else 0.0
        self._ended = asyncio.get_running_loop().time()

    def _give(self, batch: list[_Place], answers: Sequence[Any]) -> None:
        """Answer those who still wait, or let them wait for another batch."""
        again = []
        for place, answer in zip(batch, answers, strict=True):
            place.lost += isinstance(answer, BatchLost)
            if place.answer.done():
                continue
            if isinstance(answer, BatchLost) and place.lost < self._rules.tries:
                again.append(place)
            elif isinstance(answer, BaseException):
                place.answer.set_exception(answer)
            else:
                place.answer.set_result(answer)
        self._queue.extendleft(place for place in reversed(again) if place.lost == 1)
        self._queue.extend(place for place in again if place.lost > 1)


def _answers(sent: asyncio.Future, count: int) -> Sequence[Any]:
    """An answer or an exception for each job, whatever became of the call: nobody waits for ever."""
    if sent.cancelled():
        return [RuntimeError("the call of a batch was cancelled, not by who had asked for it")] * count
    if error := sent.exception():
        return [error] * count
    answers = sent.result()
    if len(answers) != count:
        return [RuntimeError(f"{count} jobs were sent, and {len(answers)} answers came back")] * count
    return answers
