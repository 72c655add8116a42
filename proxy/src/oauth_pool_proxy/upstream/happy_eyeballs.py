"""Connects to whichever of several addresses answers first (RFC 8305)."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Protocol, TypeVar

ATTEMPT_DELAY = 0.25
"""Seconds before the next address is tried in parallel (RFC 8305 5)."""


class Attempt(Protocol):
    def abort(self) -> None: ...


Connected = TypeVar("Connected", bound=Attempt)


async def first_connected(
    addresses: Sequence[str],
    connect: Callable[[str], Coroutine[None, None, Connected]],
    avoid: Callable[[str], None],
) -> Connected:
    """The first connection made. The other attempts are cancelled. If all fail, raises the last one's `OSError`.

    `avoid` is called with each address that failed, or was overtaken by one tried after it.
    """
    if len(addresses) == 1:
        return await connect(addresses[0])
    untried = list(reversed(addresses))
    attempts: dict[asyncio.Task[Connected], str] = {}  # in the order they were started
    try:
        while True:
            if untried:
                address = untried.pop()
                attempts[asyncio.create_task(connect(address))] = address
            delay = ATTEMPT_DELAY if untried else None
            done, _ = await asyncio.wait(attempts, timeout=delay, return_when=asyncio.FIRST_COMPLETED)
            for attempt in [attempt for attempt in attempts if attempt in done]:
                if attempt.exception() is None:
                    _avoid_earlier(attempts, attempt, avoid)
                    del attempts[attempt]
                    return attempt.result()
                avoid(attempts.pop(attempt))
                if not attempts and not untried:
                    return attempt.result()  # raises
    finally:
        for attempt in attempts:
            _give_up(attempt)


def _avoid_earlier(
    attempts: dict[asyncio.Task[Connected], str], winner: asyncio.Task[Connected], avoid: Callable[[str], None]
) -> None:
    for attempt, address in attempts.items():
        if attempt is winner:
            return
        avoid(address)


def _give_up(attempt: asyncio.Task[Connected]) -> None:
    if not attempt.done():
        attempt.cancel()
    elif not attempt.cancelled() and attempt.exception() is None:
        attempt.result().abort()
