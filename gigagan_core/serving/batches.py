"""Pictures of many requests on their way to the replicas, collected into batches."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from gigagan_core.serving.jobs import PictureJob

_MOST_WAITS = 10
"""Waits for others that one batch may add up, however steadily they come."""

_SHARE = 0.25
"""Of what the last batch of several took: so long the next one waits."""


class _Place(NamedTuple):
    """A picture in the queue, and where its answer is awaited. The answer is cancelled with its request."""

    job: PictureJob
    answer: asyncio.Future


@dataclass(frozen=True)
class BatchRules:
    """size: pictures of a batch. at_once: batches under way.

    wait_seconds: a batch goes when nobody has come for so long, or for a quarter of what the last one of several took;
    0: at once.
    """

    size: int
    wait_seconds: float = 0.0
    at_once: int = 1


class Batches:
    """Whoever comes while the replicas are busy goes with the next batch.

    A batch is one call. `serve.batch` makes them in the replicas, where each picture has been a call of its own, which
    costs more than a small picture does.
    """

    def __init__(
        self, send: Callable[[list[PictureJob]], Awaitable[Sequence[Any]]], rules: BatchRules
    ) -> None:
        """send: gives an answer, or an exception, for each job of a batch."""
        self._send, self._rules = send, rules
        self._queue: deque[_Place] = deque()
        self._came = asyncio.Event()
        self._took = 0.0  # seconds of the last batch, if it was of several
        self._lanes: set[asyncio.Task] = set()

    async def answers(self, jobs: Sequence[PictureJob]) -> list[Any]:
        """The answer to each job. Raises what `send` has raised or given for one of them."""
        loop = asyncio.get_running_loop()
        places = [_Place(job, loop.create_future()) for job in jobs]
        self._queue.extend(places)
        self._came.set()
        if len(self._lanes) < self._rules.at_once:
            lane = loop.create_task(self._run())
            self._lanes.add(lane)
            lane.add_done_callback(self._lanes.discard)
        return await asyncio.gather(*(place.answer for place in places))

    async def _run(self) -> None:
        """One batch after another, until nobody waits."""
        while self._queue:
            await self._collect()
            batch = [self._queue.popleft() for _ in range(min(len(self._queue), self._rules.size))]
            # Some have been given up while they waited.
            batch = [place for place in batch if not place.answer.done()]
            if batch:
                await self._answer(batch)

    async def _collect(self) -> None:
        """Until a batch is full, or nobody has come for the wait.

        Clients that were answered together come back one by one. Had the first of them a batch of its own at once, all
        the others would wait for that; so after a batch of several the wait is a part of what that one took.
        """
        loop = asyncio.get_running_loop()
        wait = max(self._rules.wait_seconds, _SHARE * self._took)
        latest = loop.time() + max(_MOST_WAITS * self._rules.wait_seconds, self._took)
        while len(self._queue) < self._rules.size and loop.time() < latest:
            self._came.clear()
            try:
                async with asyncio.timeout(wait):
                    await self._came.wait()
            except TimeoutError:
                return

    async def _answer(self, batch: list[_Place]) -> None:
        started = time.monotonic()
        sent = asyncio.ensure_future(self._send([place.job for place in batch]))

        def given_up(_answer: asyncio.Future) -> None:
            if all(place.answer.cancelled() for place in batch):
                sent.cancel()

        for place in batch:
            place.answer.add_done_callback(given_up)
        try:
            answers = await sent
        except asyncio.CancelledError:
            return
        except Exception as error:  # whatever it is, it is theirs who wait
            answers = [error] * len(batch)
        self._took = time.monotonic() - started if len(batch) > 1 and self._rules.wait_seconds else 0.0
        for place, answer in zip(batch, answers, strict=True):
            if place.answer.done():
                continue
            if isinstance(answer, Exception):
                place.answer.set_exception(answer)
            else:
                place.answer.set_result(answer)
