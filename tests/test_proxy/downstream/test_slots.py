"""At most so many at once, first come first served, and nothing lost when somebody leaves."""

import asyncio
import contextlib

from oauth_pool_proxy.downstream.slots import Slots


async def started(slots: Slots, order: list[int], number: int) -> asyncio.Task[None]:
    async def take() -> None:
        await slots.take()
        order.append(number)

    task = asyncio.create_task(take())
    await asyncio.sleep(0)
    return task


async def test_slots_go_to_whoever_has_waited_longest() -> None:
    slots, order = Slots(1), list[int]()
    assert slots.take_now() and not slots.take_now()
    tasks = [await started(slots, order, number) for number in range(3)]
    for task in tasks:
        assert not task.done()
        slots.give_back()
        await task
    assert order == [0, 1, 2]
    slots.give_back()
    assert slots.take_now()


async def test_whoever_leaves_the_queue_leaves_no_gap() -> None:
    slots, order = Slots(1), list[int]()
    slots.take_now()
    first, second = await started(slots, order, 1), await started(slots, order, 2)
    first.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await first
    assert slots.waiting == 1
    slots.give_back()
    await second
    assert order == [2]


async def test_a_slot_handed_over_to_somebody_who_leaves_in_that_moment_goes_on() -> None:
    slots, order = Slots(1), list[int]()
    slots.take_now()
    first, second = await started(slots, order, 1), await started(slots, order, 2)
    slots.give_back()  # first has it, and has not run yet
    first.cancel()
    await second
    assert order == [2]


async def test_somebody_who_left_and_was_passed_over_before_noticing_costs_nothing() -> None:
    slots, order = Slots(1), list[int]()
    slots.take_now()
    first, second = await started(slots, order, 1), await started(slots, order, 2)
    first.cancel()
    slots.give_back()
    await second
    with contextlib.suppress(asyncio.CancelledError):
        await first
    slots.give_back()
    assert slots.take_now()
