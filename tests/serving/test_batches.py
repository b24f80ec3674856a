"""How pictures of many requests come together; what makes them is a function of the test."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from gigagan_core.serving.batches import Batches, BatchLost, BatchRules

MAKING_SECONDS = 0.1


class Maker:
    """Doubles even numbers, and remembers its batches; each takes it some seconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.batches: list[list[Any]] = []
        self.under_way = self.most_under_way = 0

    async def __call__(self, jobs: list[Any]) -> list[Any]:
        self.batches.append(jobs)
        self.under_way += 1
        self.most_under_way = max(self.under_way, self.most_under_way)
        try:
            await asyncio.sleep(self.seconds)
        finally:
            self.under_way -= 1
        return [ValueError("odd") if job % 2 else 2 * job for job in jobs]


def made(
    rules: BatchRules, work: Callable[[Batches], Coroutine], seconds: float = MAKING_SECONDS
) -> tuple[Any, Maker]:
    """What `work` gives, and what has made it."""

    async def run() -> Any:
        return await work(Batches(maker, rules))

    maker = Maker(seconds)
    return asyncio.run(run()), maker


def test_each_request_gets_its_own_answers_in_its_order() -> None:
    def work(batches: Batches) -> Coroutine:
        return asyncio.gather(batches.answers([4, 2]), batches.answers([]), batches.answers([8]))

    async def gathered(batches: Batches) -> list:
        return await work(batches)

    answers, maker = made(BatchRules(size=8), gathered)
    assert answers == [[8, 4], [], [16]]
    assert maker.batches == [[4, 2, 8]]


def test_who_comes_while_one_is_made_goes_with_the_next() -> None:
    async def work(batches: Batches) -> None:
        first = asyncio.create_task(batches.answers([2]))
        await asyncio.sleep(MAKING_SECONDS / 4)
        await asyncio.gather(first, *(batches.answers([number]) for number in (4, 6, 8)))

    assert made(BatchRules(size=8), work)[1].batches == [[2], [4, 6, 8]]


def test_a_batch_waits_for_those_who_keep_coming() -> None:
    async def work(batches: Batches) -> None:
        asked = []
        for number in range(0, 12, 2):
            asked.append(asyncio.create_task(batches.answers([number])))
            await asyncio.sleep(0.02)
        await asyncio.gather(*asked)

    assert made(BatchRules(size=8, wait_seconds=0.06), work)[1].batches == [[0, 2, 4, 6, 8, 10]]


def test_a_full_batch_does_not_wait() -> None:
    async def work(batches: Batches) -> None:
        async with asyncio.timeout(5):
            await batches.answers([2, 4])

    assert made(BatchRules(size=2, wait_seconds=60.0), work)[1].batches == [[2, 4]]


def test_nobody_waits_for_ever_while_others_keep_coming() -> None:
    async def work(batches: Batches) -> int:
        first = asyncio.create_task(batches.answers([0]))
        asked = []
        while not first.done():
            asked.append(asyncio.create_task(batches.answers([2])))
            await asyncio.sleep(0.005)
        await asyncio.gather(*asked)
        return len(asked)

    count, maker = made(BatchRules(size=10_000, wait_seconds=0.02), work)
    # Ten waits and the making are 0.3 s: as many as came in that time, on a machine however slow.
    assert len(maker.batches[0]) < count
    assert sum(map(len, maker.batches)) == count + 1


def test_after_a_batch_of_several_the_next_waits_for_their_return() -> None:
    async def work(batches: Batches) -> None:
        async def twice(number: int, back_after: float) -> None:
            await batches.answers([number])
            await asyncio.sleep(back_after)
            await batches.answers([number])

        # All are back within a tenth of what the batch took, the last one long after the wait of a lonely request.
        await asyncio.gather(*(twice(number, number * MAKING_SECONDS / 40) for number in (0, 2, 4)))

    assert made(BatchRules(size=8, wait_seconds=0.001), work)[1].batches == [[0, 2, 4], [0, 2, 4]]


def test_one_who_asks_alone_does_not_wait_for_others() -> None:
    async def work(batches: Batches) -> float:
        loop = asyncio.get_running_loop()
        await batches.answers([2])
        before = loop.time()
        await batches._collect()
        return loop.time() - before

    assert made(BatchRules(size=8, wait_seconds=0.001), work, seconds=1.0)[0] < 0.2


@pytest.mark.parametrize("at_once", [1, 3])
def test_as_many_batches_are_under_way_as_may(at_once: int) -> None:
    async def work(batches: Batches) -> None:
        await asyncio.gather(*(batches.answers([2]) for _ in range(8)))

    maker = made(BatchRules(size=1, at_once=at_once), work)[1]
    assert len(maker.batches) == 8
    assert maker.most_under_way == at_once


def test_what_waits_is_shared_among_idle_replicas() -> None:
    async def work(batches: Batches) -> None:
        await asyncio.gather(*(batches.answers([number]) for number in range(0, 20, 2)))

    maker = made(BatchRules(size=32, at_once=2), work)[1]
    assert sorted(map(len, maker.batches)) == [5, 5]
    assert maker.most_under_way == 2


def test_one_that_fails_leaves_the_others_alone() -> None:
    async def work(batches: Batches) -> list:
        return await asyncio.gather(batches.answers([2]), batches.answers([3]), return_exceptions=True)

    (good, bad), maker = made(BatchRules(size=8), work)
    assert good == [4]
    assert isinstance(bad, ValueError)
    assert maker.batches == [[2, 3]]


def test_a_batch_that_fails_fails_for_all_of_it_and_the_next_is_made() -> None:
    async def broken(_jobs: list[Any]) -> list[Any]:
        calls.append(1)
        raise RuntimeError("a bug")

    async def work() -> list:
        batches = Batches(broken, BatchRules(size=8))
        asked = [batches.answers([number]) for number in (2, 4)]
        return [
            *await asyncio.gather(*asked, return_exceptions=True),
            *await asyncio.gather(batches.answers([6]), return_exceptions=True),
        ]

    calls: list[int] = []
    assert [str(error) for error in asyncio.run(work())] == ["a bug"] * 3
    assert len(calls) == 2


def test_who_gives_up_while_waiting_is_not_made() -> None:
    async def work(batches: Batches) -> list:
        first = asyncio.create_task(batches.answers([2]))
        await asyncio.sleep(MAKING_SECONDS / 4)
        late = asyncio.create_task(batches.answers([4]))
        last = asyncio.create_task(batches.answers([6]))
        await asyncio.sleep(MAKING_SECONDS / 4)
        late.cancel()
        return await asyncio.gather(first, last)

    answers, maker = made(BatchRules(size=8), work)
    assert answers == [[4], [12]]
    assert maker.batches == [[2], [6]]


def test_a_batch_that_all_have_given_up_is_ended() -> None:
    async def work(batches: Batches) -> int:
        asked = [asyncio.create_task(batches.answers([number])) for number in (2, 4)]
        await asyncio.sleep(MAKING_SECONDS / 4)
        asked[0].cancel()
        await asyncio.sleep(0)
        still = maker_of(batches).under_way
        asked[1].cancel()
        await asyncio.sleep(MAKING_SECONDS / 4)
        return still - maker_of(batches).under_way

    def maker_of(batches: Batches) -> Maker:
        return batches._send

    ended, maker = made(BatchRules(size=8), work)
    assert ended == 1
    assert maker.batches == [[2, 4]]


@pytest.mark.parametrize("steps", range(10))
def test_who_comes_in_the_moment_when_the_last_batch_is_answered_is_not_forgotten(steps: int) -> None:
    async def doubled(jobs: list[Any]) -> list[Any]:
        return [2 * job for job in jobs]

    async def work() -> list:
        batches = Batches(doubled, BatchRules(size=8))
        first = asyncio.create_task(batches.answers([2]))
        for _ in range(steps):
            await asyncio.sleep(0)
        async with asyncio.timeout(5):
            second = await batches.answers([4])
            return [*await first, *second]

    assert asyncio.run(work()) == [4, 8]


def test_the_wait_for_those_who_return_ends_when_they_would_be_back() -> None:
    async def work(batches: Batches) -> float:
        loop = asyncio.get_running_loop()
        await batches.answers([2, 4])
        await asyncio.sleep(0.6)  # beyond half a second, what they would have needed
        before = loop.time()
        await batches._collect()
        return loop.time() - before

    assert made(BatchRules(size=8, wait_seconds=0.001), work, seconds=1.0)[0] < 0.2


def test_a_batch_that_took_long_makes_nobody_wait_long() -> None:
    async def work() -> float:
        loop = asyncio.get_running_loop()
        batches = Batches(Maker(0), BatchRules(size=8, wait_seconds=0.001))
        await batches.answers([2, 4])
        batches._note_seconds(2, 40.0)  # such as a replica's replacement takes
        before = loop.time()
        await batches._collect()
        return loop.time() - before

    assert asyncio.run(work()) < 3.0


@pytest.mark.parametrize("answers", [None, []])
def test_a_call_that_ends_without_the_answers_fails_for_all_of_it_and_the_next_is_made(answers: Any) -> None:
    async def odd(jobs: list[Any]) -> list[Any]:
        if len(calls) == 0:
            calls.append(1)
            if answers is None:
                raise asyncio.CancelledError
            return answers
        return jobs

    async def work() -> list:
        batches = Batches(odd, BatchRules(size=8))
        asked = [batches.answers([number]) for number in (2, 4)]
        async with asyncio.timeout(5):
            first = await asyncio.gather(*asked, return_exceptions=True)
            return [*first, *await batches.answers([6])]

    calls: list[int] = []
    one, other, last = asyncio.run(work())
    assert isinstance(one, RuntimeError)
    assert isinstance(other, RuntimeError)
    assert last == 6


def test_a_request_that_fails_is_not_made_further() -> None:
    async def work(batches: Batches) -> float:
        loop = asyncio.get_running_loop()
        before = loop.time()
        with pytest.raises(ValueError, match="odd"):
            await batches.answers([1, 2, 4, 6, 8, 10])
        await batches.answers([12])
        return loop.time() - before

    # When the first batch has failed the next is under way: that is ended, and the one after it never begun.
    seconds, maker = made(BatchRules(size=2), work, seconds=0.4)
    assert maker.batches == [[1, 2], [4, 6], [12]]
    assert seconds < 1.1


def test_a_request_of_many_that_is_given_up_half_way_leaves_its_place_to_others() -> None:
    async def work(batches: Batches) -> list:
        many = asyncio.create_task(batches.answers([2] * 6))
        await asyncio.sleep(MAKING_SECONDS / 4)
        others = [asyncio.create_task(batches.answers([number])) for number in (4, 6)]
        await asyncio.sleep(MAKING_SECONDS / 4)
        many.cancel()
        return await asyncio.gather(*others)

    answers, maker = made(BatchRules(size=2), work)
    assert answers == [[8], [12]]
    assert maker.batches == [[2, 2], [4, 6]]


class Mortal(Maker):
    """Is lost with whatever batch holds a 13."""

    async def __call__(self, jobs: list[Any]) -> list[Any]:
        answers = await super().__call__(jobs)
        if 13 in jobs:
            raise BatchLost("died of 13")
        return answers


@pytest.mark.parametrize("tries", [1, 2, 4])
def test_what_is_lost_again_alone_is_tried_after_all_others(tries: int) -> None:
    async def work() -> list[Any]:
        async def ask(number: int) -> None:
            try:
                order.extend(await batches.answers([number]))
            except BatchLost:
                order.append("lost")

        batches = Batches(maker, BatchRules(size=3, tries=tries))
        await asyncio.gather(*(ask(number) for number in (2, 13, 4, 6, 8)))
        return order

    order: list[Any] = []
    maker = Mortal(0.01)
    asyncio.run(work())
    batches = {
        1: [[2, 13, 4], [6, 8]],
        2: [[2, 13, 4], [2], [13], [4], [6, 8]],
        4: [[2, 13, 4], [2], [13], [4], [6, 8], [13], [13]],
    }
    assert maker.batches == batches[tries]
    orders = {1: ["lost"] * 3 + [12, 16], 2: [4, "lost", 8, 12, 16], 4: [4, 8, 12, 16, "lost"]}
    assert order == orders[tries]


def test_what_was_lost_does_not_wait_for_others() -> None:
    async def work() -> None:
        batches = Batches(maker, BatchRules(size=3, wait_seconds=2.0, tries=2))
        async with asyncio.timeout(1.5):
            await asyncio.gather(
                *(batches.answers([number]) for number in (2, 13, 4)), return_exceptions=True
            )

    maker = Mortal(0.01)
    asyncio.run(work())
    assert maker.batches == [[2, 13, 4], [2], [13], [4]]
