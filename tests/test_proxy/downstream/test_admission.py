"""At most so much at once, first come first served, and nothing lost when somebody leaves."""

import asyncio
import contextlib
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from oauth_pool_proxy.downstream.admission import READ_AHEAD, Admission, Share, WeightedSemaphore
from oauth_pool_proxy.errors import Overloaded


async def started(semaphore: WeightedSemaphore, order: list[int], number: int, amount: int = 1) -> asyncio.Task[None]:
    async def take() -> None:
        await semaphore.take(amount)
        order.append(number)

    task = asyncio.create_task(take())
    await asyncio.sleep(0)
    return task


async def left(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_slots_go_to_whoever_has_waited_longest() -> None:
    slots, order = WeightedSemaphore(1), list[int]()
    assert slots.take_now(1) and not slots.take_now(1)
    tasks = [await started(slots, order, number) for number in range(3)]
    for task in tasks:
        assert not task.done()
        slots.give_back(1)
        await task
    assert order == [0, 1, 2]
    slots.give_back(1)
    assert slots.take_now(1)


async def test_whoever_leaves_the_line_leaves_no_gap() -> None:
    slots, order = WeightedSemaphore(1), list[int]()
    slots.take_now(1)
    first, second = await started(slots, order, 1), await started(slots, order, 2)
    await left(first)
    assert slots.waiting == 1
    slots.give_back(1)
    await second
    assert order == [2]


async def test_a_slot_handed_over_to_somebody_who_leaves_in_that_moment_goes_on() -> None:
    slots, order = WeightedSemaphore(1), list[int]()
    slots.take_now(1)
    first, second = await started(slots, order, 1), await started(slots, order, 2)
    slots.give_back(1)  # first has it, and has not run yet
    first.cancel()
    await second
    assert order == [2]


async def test_somebody_who_left_and_was_passed_over_before_noticing_costs_nothing() -> None:
    slots, order = WeightedSemaphore(1), list[int]()
    slots.take_now(1)
    first, second = await started(slots, order, 1), await started(slots, order, 2)
    first.cancel()
    slots.give_back(1)
    await second
    await left(first)
    slots.give_back(1)
    assert slots.take_now(1)


async def test_a_small_share_does_not_overtake_a_large_one() -> None:
    memory, order = WeightedSemaphore(10), list[int]()
    assert memory.take_now(8)
    large, small = await started(memory, order, 1, 10), await started(memory, order, 2, 1)
    assert not memory.take_now(1)
    memory.give_back(8)
    await large
    assert not small.done()
    memory.give_back(10)
    await small
    assert order == [1, 2]


async def test_when_a_large_share_is_not_wanted_any_more_the_small_ones_behind_it_go_on() -> None:
    memory, order = WeightedSemaphore(10), list[int]()
    memory.take_now(8)
    large, small = await started(memory, order, 1, 10), await started(memory, order, 2, 1)
    await left(large)
    await small
    assert (order, memory.free) == ([2], 1)


async def test_what_is_there_already_is_counted_and_does_not_wait() -> None:
    memory, order = WeightedSemaphore(10), list[int]()
    memory.take_anyway(12)
    waiting = await started(memory, order, 1, 1)
    memory.give_back(2)
    await asyncio.sleep(0)
    assert not waiting.done()
    memory.give_back(1)
    await waiting


def test_a_share_is_given_back_once() -> None:
    memory = WeightedSemaphore(10)
    memory.take_now(10)
    share = Share(memory, 10)
    share.shrink_to(4)
    assert memory.free == 6
    share.shrink_to(5)  # it does not grow
    share.give_back()
    share.give_back()
    assert memory.free == 10


class Anybody:
    @contextmanager
    def watched(self) -> Iterator[None]:
        yield


async def test_the_lines_are_bounded_together_and_whoever_need_not_wait_is_let_in() -> None:
    waits: list[float] = []
    admission = Admission(1, 10 * READ_AHEAD, 2, lambda seconds, _: waits.append(seconds))
    await admission.enter(Anybody())
    room = await admission.room(10 * READ_AHEAD, Anybody())
    entering = asyncio.create_task(admission.enter(Anybody()))
    waiting = asyncio.create_task(admission.room(2 * READ_AHEAD, Anybody()))
    await asyncio.sleep(0)
    assert admission.waiting == 2
    with pytest.raises(Overloaded):
        await admission.enter(Anybody())
    with pytest.raises(Overloaded):
        await admission.room(2 * READ_AHEAD, Anybody())
    await admission.room(READ_AHEAD, Anybody())
    room.give_back()
    admission.leave()
    await entering
    await waiting
    assert len(waits) == 2
