"""How hard token endpoints are asked. The clock is the test's."""

import asyncio
from datetime import timedelta

import pytest

from oauth_pool_operator.errors import NotInCharge, ProviderHeld, TokenEndpointUnavailable
from oauth_pool_operator.oauth.throttle import JITTER, LONGEST_HOLD, Throttle
from tests.support.builders import NOW


class Requests:
    """Requests that take until `gate` opens."""

    def __init__(self, throttle: Throttle) -> None:
        self.throttle = throttle
        self.gate = asyncio.Event()
        self.under_way = self.most_at_once = self.done = 0

    async def make(self, provider: str = "a") -> None:
        async with self.throttle.turn(provider, "uid"):
            self.under_way += 1
            self.most_at_once = max(self.most_at_once, self.under_way)
            await self.gate.wait()
            self.under_way -= 1
            self.done += 1


async def turns() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_few_at_once_and_then_the_others() -> None:
    requests = Requests(Throttle(4, clock=lambda: NOW))
    tasks = [asyncio.create_task(requests.make()) for _ in range(20)]
    await turns()
    assert (requests.under_way, requests.throttle.waiting) == (4, 16)
    requests.gate.set()
    await asyncio.gather(*tasks)
    assert (requests.done, requests.most_at_once, requests.throttle.waiting) == (20, 4, 0)


async def test_a_slow_provider_holds_up_no_other() -> None:
    requests = Requests(Throttle(1, clock=lambda: NOW))
    tasks = [asyncio.create_task(requests.make(provider)) for provider in "aaab"]
    await turns()
    assert requests.under_way == 2
    requests.gate.set()
    await asyncio.gather(*tasks)


async def test_a_request_that_fails_gives_its_turn_back() -> None:
    throttle = Throttle(1, clock=lambda: NOW)
    for _ in range(3):
        with pytest.raises(ValueError):
            async with throttle.turn("a", "uid"):
                raise ValueError


async def test_a_provider_that_has_had_enough_gets_no_request_before_the_time_and_no_other_waits() -> None:
    now = NOW
    throttle = Throttle(4, clock=lambda: now)
    throttle.hold("a", NOW + timedelta(seconds=90))
    throttle.hold("a", NOW + timedelta(seconds=30))  # said to another account; the longer one counts
    waits = set()
    for number in range(20):
        with pytest.raises(ProviderHeld) as caught:
            async with throttle.turn("a", f"uid-{number}"):
                raise AssertionError
        assert caught.value.retry_after is not None
        waits.add(caught.value.retry_after)
        assert not caught.value.is_throttled  # or each would make the wait of all others longer
    assert len(waits) == 20
    assert timedelta(seconds=90) <= min(waits) <= max(waits) <= timedelta(seconds=90) + JITTER
    async with throttle.turn("b", "uid"):
        pass
    now = NOW + timedelta(seconds=90) + JITTER
    async with throttle.turn("a", "uid"):
        pass


async def test_whoever_waits_for_a_turn_when_the_provider_has_had_enough_does_not_ask() -> None:
    requests = Requests(Throttle(1, clock=lambda: NOW))
    tasks = [asyncio.create_task(requests.make()) for _ in range(2)]
    await turns()
    requests.throttle.hold("a", NOW + timedelta(seconds=5))
    requests.gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [type(None), ProviderHeld]


async def test_whoever_waits_for_a_turn_when_the_operator_ends_does_not_ask() -> None:
    requests = Requests(Throttle(1, clock=lambda: NOW))
    tasks = [asyncio.create_task(requests.make()) for _ in range(2)]
    await turns()
    requests.throttle.close()
    requests.gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [type(None), NotInCharge]


async def test_an_operator_that_does_not_lead_spends_nothing() -> None:
    throttle = Throttle(1, clock=lambda: NOW, may_spend=lambda: False)
    with pytest.raises(NotInCharge):
        async with throttle.turn("a", "uid"):
            raise AssertionError


@pytest.mark.parametrize(
    ("error", "is_throttled"),
    [
        pytest.param(TokenEndpointUnavailable("429", may_be_done=False, is_throttled=True), True, id="429"),
        pytest.param(
            TokenEndpointUnavailable("503", may_be_done=True, retry_after=timedelta(seconds=1)), True, id="Retry-After"
        ),
        pytest.param(TokenEndpointUnavailable("500", may_be_done=True), False, id="500"),
    ],
)
def test_what_is_the_provider_s_word_for_all_its_accounts(error: TokenEndpointUnavailable, is_throttled: bool) -> None:
    assert error.is_throttled is is_throttled


async def test_what_is_held_is_held_for_minutes_at_most_and_not_by_a_clock_that_was_wrong() -> None:
    now = NOW + timedelta(hours=6)
    throttle = Throttle(1, clock=lambda: now)
    throttle.hold("a", now + timedelta(days=1))
    assert throttle.holds() == {"a": now + LONGEST_HOLD}
    now = NOW
    assert throttle.holds() == {"a": None}
    async with throttle.turn("a", "uid"):
        pass


async def test_whoever_cannot_wait_does_not_and_somebody_can_end_the_wait_of_all() -> None:
    throttle = Throttle(1, clock=lambda: NOW)
    throttle.hold("a", NOW + timedelta(minutes=1))
    async with throttle.turn("a", "uid", is_last_call=True):
        pass
    throttle.release("a")
    async with throttle.turn("a", "another"):
        pass
