"""Whose turn it is in line."""

import asyncio
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oauth_pool_proxy.downstream.admission import READ_AHEAD, Admission, WeightedSemaphore
from oauth_pool_proxy.downstream.line import ANYBODY, Line, Place, Turn
from oauth_pool_proxy.errors import Overloaded
from tests.test_proxy.downstream.test_admission import Anybody

MANY, ONE = Turn("many"), Turn("one")


def place(turn: Turn, loop: asyncio.AbstractEventLoop, amount: int = 1) -> Place:
    return Place(amount, turn, loop.create_future())


def order(*turns: Turn) -> list[str]:
    """Of clients that joined in this order, in which they go."""
    loop = asyncio.new_event_loop()
    line = Line()
    for turn in turns:
        line.append(place(turn, loop))
    went = [line.popleft().turn.client for _ in turns]
    assert not line and line.first is None
    loop.close()
    return went


def test_clients_take_turns() -> None:
    a, b, c = Turn("a"), Turn("b"), Turn("c")
    assert "".join(order(a, a, a, b, b, c)) == "abcaba"


def test_who_has_one_request_waits_for_one_of_the_other_s_five_hundred() -> None:
    assert order(*[MANY] * 500, ONE).index("one") == 1


def test_a_higher_priority_goes_first() -> None:
    assert "".join(order(Turn("a"), Turn("b"), Turn("c", 1), Turn("c", 1), Turn("d", -1))) == "ccabd"


def test_of_one_client_it_is_the_plain_line() -> None:
    loop = asyncio.new_event_loop()
    line, places = Line(), [place(ANYBODY, loop) for _ in range(5)]
    for one in places:
        line.append(one)
    assert line.remove(places[2]) and not line.remove(places[2])
    assert [line.popleft() for _ in range(4)] == [places[0], places[1], places[3], places[4]]
    loop.close()


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2), st.sampled_from(["join", "join", "go", "leave"]))))
def test_nobody_is_lost_and_nobody_waits_for_more_than_a_round(steps: list[tuple[str, int, str]]) -> None:
    loop = asyncio.new_event_loop()
    line, waiting = Line(), list[Place]()
    passed: Counter[int] = Counter()
    for client, priority, step in steps:
        if step == "join":
            waiting.append(place(Turn(client, priority), loop))
            line.append(waiting[-1])
        elif step == "leave" and waiting:
            assert line.remove(waiting.pop(priority % len(waiting)))
        elif waiting:
            gone = line.popleft()
            waiting.remove(gone)
            assert all(gone.turn.priority >= one.turn.priority for one in waiting)
            ahead = [one for one in waiting if one.turn.priority == gone.turn.priority]
            # Of one client, whoever came first; and while others wait, each of theirs is passed once by each client at most.
            assert all(one.turn != gone.turn or one is not gone for one in ahead)
            for one in {one.turn: one for one in reversed(ahead)}.values():
                if one.turn != gone.turn:
                    passed[id(one)] += 1
                    assert passed[id(one)] <= 3
        assert len(line) == len(waiting)
    loop.close()


async def entered(admission: Admission, turn: Turn, went: list[str]) -> None:
    await admission.enter(Anybody(), turn)
    went.append(turn.client)
    admission.leave()


async def test_a_burst_of_one_client_does_not_keep_another_waiting() -> None:
    admission, went = Admission(1, 10, 1000, lambda *_: None), list[str]()
    await admission.enter(Anybody(), MANY)
    async with asyncio.TaskGroup() as group:
        for _ in range(500):
            group.create_task(entered(admission, MANY, went))
        await asyncio.sleep(0)
        group.create_task(entered(admission, ONE, went))
        await asyncio.sleep(0)
        assert admission.waiting == 501
        admission.leave()
    assert went.index("one") <= 1 and len(went) == 501


async def test_who_fills_the_line_gives_up_a_place_to_a_client_that_has_none() -> None:
    admission, went = Admission(1, 10, 3, lambda *_: None), list[str]()
    await admission.enter(Anybody(), MANY)
    burst = [asyncio.create_task(entered(admission, MANY, went)) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await admission.enter(Anybody(), MANY)
    one = asyncio.create_task(entered(admission, ONE, went))
    await asyncio.sleep(0)
    assert admission.waiting == 3
    with pytest.raises(Overloaded):  # two of them have two and one: nobody has to give way
        await admission.enter(Anybody(), ONE)
    admission.leave()
    ends = await asyncio.gather(*burst, one, return_exceptions=True)
    assert [type(end) for end in ends] == [type(None), type(None), Overloaded, type(None)]
    assert went == ["many", "one", "many"] and admission.slots.free == 1


async def test_room_for_bodies_goes_round_as_well() -> None:
    size = 4 * READ_AHEAD
    admission, went = Admission(10, size, 100, lambda *_: None), list[str]()
    room = await admission.room(size, Anybody(), MANY)

    async def upload(turn: Turn) -> None:
        share = await admission.room(size, Anybody(), turn)
        went.append(turn.client)
        share.give_back()

    async with asyncio.TaskGroup() as group:
        for turn in (MANY, MANY, MANY, ONE):
            group.create_task(upload(turn))
        await asyncio.sleep(0)
        room.give_back()
    assert went == ["many", "one", "many", "many"]


async def test_who_is_sent_away_and_leaves_in_the_same_moment_takes_nothing_along() -> None:
    semaphore = WeightedSemaphore(1)
    semaphore.take_now(1)
    waiting = asyncio.create_task(semaphore.take(1, MANY))
    await asyncio.sleep(0)
    (last, _) = semaphore.line.last_of_longest()
    assert last
    semaphore.send_away(last, Overloaded(""))
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled() or isinstance(waiting.exception(), Overloaded)
    semaphore.give_back(1)
    assert (semaphore.free, semaphore.waiting) == (1, 0)
