"""What must hold at every instant, and at the end. Each check yields what is wrong, in words that hold no secret."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import httpx2

from tests.simulator.recorder import Outcome

from .evidence import DEAD, NOTHING, Seen, Token
from .provider import Provider

# A token that lives at least this long is one that was issued after the strike.
LONG_LIFE = timedelta(minutes=10)


@dataclass(eq=False)
class Account:
    """One account, what is expected of it, and all that happened to it."""

    name: str
    subject: str
    uid: str = ""
    has_grace: bool = False
    logins: int = 0
    reported: int = 0  # the generation that was last reported as refused
    reported_at: float = 0.0
    presented_at_least: int = 0  # no refresh token older than this one may be presented any more
    unsaved: set[int] = field(default_factory=set)  # refresh tokens whose successor was not on the disk at a kill
    highest: dict[str, Token] = field(default_factory=dict)
    history: deque[str] = field(default_factory=lambda: deque(maxlen=300))

    def note(self, text: str) -> None:
        self.history.append(f"{datetime.now(UTC):%H:%M:%S.%f} {text}")

    def asks_for_refresh(self, seen: Seen) -> bool:
        """A report stands that says that the stored access token was refused."""
        return seen.state is not None and seen.state.generation <= self.reported


def is_settled(account: Account, seen: Seen) -> bool:
    """Nothing more is going to happen by itself: all places agree on a fresh token, or that a login is needed."""
    if seen.state is None or seen.is_open:
        return False
    if seen.login_required in DEAD:
        is_over = seen.index_word in ("Disabled", "LoginRequired") and seen.access is None
        return is_over or (seen.index_word == seen.ready == "Available" and seen.state == seen.access == seen.index)
    return (
        not seen.is_dead  # else it is about to be said
        and (seen.ready, seen.index_word, seen.login_required) == ("Available", "Available", "")
        and seen.state == seen.access == seen.index == seen.status
        and not account.asks_for_refresh(seen)
        and seen.expires is not None
        and seen.expires > datetime.now(UTC) + LONG_LIFE
    )


def at_any_time(account: Account, seen: Seen) -> Iterator[str]:
    """State before access file before index, state before status; nothing is ever older than it was."""
    yield from seen.damage
    state = seen.state or NOTHING
    places = {"state": state, "access": seen.access, "index": seen.index, "status": seen.status}
    for place in ("access", "index", "status"):
        yield from _behind(place, places[place], "state", state)
    yield from _behind("index", seen.index, "access", seen.access)
    for place, token in places.items():
        yield from _forwards(account, place, token)


def _behind(place: str, token: Token | None, upstream: str, limit: Token | None) -> Iterator[str]:
    """What is written later names the same token, or one of before. An access file that is not there is behind nobody."""
    if token is None or limit is None:
        return
    if token.generation and not token.number:
        yield f"{place} holds a token that the provider never issued to this account"
    elif token.generation > limit.generation:
        yield f"{place} is at {token}, but {upstream} only at {limit}"
    elif token.generation == limit.generation and token.number != limit.number:
        yield f"{place} and {upstream} call two tokens by one generation: {token}, {limit}"


def _forwards(account: Account, place: str, token: Token | None) -> Iterator[str]:
    """Neither the generation nor the token goes back, and one generation is one token."""
    before = account.highest.get(place, NOTHING)
    if token is None:
        return
    if token.generation < before.generation or token.number < before.number:
        yield f"{place} went back from {before} to {token}"
    elif token.generation == before.generation and token.number != before.number:
        yield f"{place} replaced {before} by {token} without a new generation"
    account.highest[place] = token


def requests_in_order(account: Account, provider: Provider, since: float) -> Iterator[str]:
    for refresh in provider.refreshes(account.subject, since):
        if refresh.sent < account.presented_at_least:
            yield f"#{refresh.sent} was presented after #{account.presented_at_least} had been stored"


async def at_the_end(
    account: Account, seen: Seen, provider: Provider, since: float, client: httpx2.AsyncClient
) -> list[str]:
    """The account works with the newest token there is; or it needs a login, and that was unavoidable."""
    wrong = [] if provider.families(account.subject) == account.logins else ["a login was exchanged twice"]
    issue = provider.access_token(seen.access_token)
    if issue is not None and issue.family != account.logins:
        wrong.append(f"the access token is one of login {issue.family}, not of the last one, {account.logins}")
    latest = provider.latest(account.subject)
    if seen.login_required in DEAD:
        return [*wrong, *_was_unavoidable(account, seen, provider, since, latest)]
    assert seen.state is not None
    if seen.state.number != latest:
        wrong.append(f"state holds #{seen.state.number}, but the provider has issued #{latest}")
    if not await provider.accepts(seen.access_token, client):
        wrong.append("the provider does not accept the access token")
    return wrong


def _was_unavoidable(account: Account, seen: Seen, provider: Provider, since: float, latest: int) -> Iterator[str]:
    """Only an answer that nobody could keep, from a server that does not repeat it, may cost a login."""
    assert seen.state is not None
    if account.has_grace:
        yield f"{seen.login_required}, although the provider would have answered the same refresh token again"
    if seen.login_required != "RefreshOutcomeUnknown":
        yield f"the reason is {seen.login_required}, not RefreshOutcomeUnknown"
    number = seen.state.number
    if latest == number:
        yield f"{seen.login_required}, but #{number}, which is stored, is good"
    first = next((refresh for refresh in provider.refreshes(account.subject, since) if refresh.sent == number), None)
    was_kept_from_us = first is not None and first.outcome is not Outcome.COMPLETE
    if latest != number and not was_kept_from_us and number not in account.unsaved:
        yield f"#{number + 1} was answered and no kill came between, but it is not stored"
