"""Tells the operator what this proxy learnt about an account: one entry of `status.reports`, under its own field manager.

Reporting never delays a request. One task sends, and pauses after failures. For each account only the latest report counts. If
too many accounts wait, new reports are dropped: this proxy knows the limit either way.

A report has a reason if the account was benched, once per transition. When the account works again, the entry loses its reason,
or goes away if it says nothing else. That keeps `kubectl get -o yaml` true; the operator does not need it, since it goes by
`untilTime` and `tokenGeneration`. A healthy account is reported without a reason when the status of a window changes, and, at
most once a minute, when the use of its windows has changed. These reports fill the 5H and 7D columns.
"""

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import msgspec

from oauth_pool_proxy.observe.instants import LATEST, rfc3339
from oauth_pool_proxy.pool.account import Account, Reason, State
from oauth_pool_proxy.pool.backoff import Backoff
from oauth_pool_proxy.pool.kube_api import KubeApi, KubeApiError
from oauth_pool_proxy.pool.limits import Window
from oauth_pool_proxy.upstream.headers import Headers

log = logging.getLogger(__name__)

Windows = tuple[Window, ...]

MOST_WAITING = 1000
UTILIZATION_SECONDS = 60.0
LEAST_SECONDS_FOR_A_RATE = 10.0


@dataclass(frozen=True, slots=True)
class _Apply:
    """What this reporter's list for one account should be: one entry, or none."""

    name: str
    uid: str
    entries: list[dict[str, object]]


@dataclass(frozen=True, slots=True)
class _Said:
    """What was last reported about an account, or found not worth reporting."""

    at: float
    windows: Windows
    statuses: Headers
    requests: int
    """How many requests the account had been sent by then."""
    is_benched: bool = False

    @property
    def percents(self) -> list[tuple[str, str | None, float]]:
        return [(window.name, window.status, round(window.utilization or 0, 2)) for window in self.windows]


class StatusReporter:
    def __init__(self, api: KubeApi, reporter: str, backoff: Backoff | None = None) -> None:
        self._api, self._reporter = api, reporter
        self._backoff = backoff or Backoff()
        self._waiting: dict[str, _Apply] = {}
        # Weak keys: an account that has left is forgotten with its last request.
        self._said: WeakKeyDictionary[Account, _Said] = WeakKeyDictionary()
        self._expired: WeakKeyDictionary[Account, int] = WeakKeyDictionary()
        self._news = asyncio.Event()

    def benched(
        self, account: Account, reason: Reason, until: float | None, generation: int, windows: Windows, now: float
    ) -> None:
        """Report that the account has just been benched, and why."""
        entry = self._entry(account, reason, until, generation, windows, now)
        self._said[account] = _said(account, windows, now, is_benched=True)
        self._put(account, [entry])

    def expired(self, account: Account, now: float) -> None:
        """Report that the account's access token has expired without a newer one. The operator may not know."""
        if account.token and self._expired.get(account) != account.token.generation:
            self._expired[account] = account.token.generation
            self.benched(account, Reason.UNAUTHORIZED, None, account.token.generation, (), now)

    def works(self, account: Account, generation: int, now: float) -> None:
        """Called for every good answer. Reports only what is new."""
        said = self._said.get(account)
        if said and said.is_benched:
            if account.state(now) is not State.AVAILABLE:
                return  # this request was sent before the account was benched
        elif said and now - said.at < UTILIZATION_SECONDS and said.statuses == _statuses(account.limits):
            return
        windows = account.windows
        entries = [self._entry(account, None, None, generation, windows, now)] if windows else []
        before, self._said[account] = said, _said(account, windows, now)
        if before is None and not windows:
            return
        if before is None or before.is_benched or before.percents != self._said[account].percents:
            self._put(account, entries)

    def _entry(
        self,
        account: Account,
        reason: Reason | None,
        until: float | None,
        generation: int,
        windows: Windows,
        now: float,
    ) -> dict[str, object]:
        said = self._said.get(account)
        rate = None
        if said and now - said.at >= LEAST_SECONDS_FOR_A_RATE:
            rate = round((account.requests - said.requests) * 60 / (now - said.at))
        return _without_nulls(
            {
                "reporter": self._reporter,
                "observedTime": rfc3339(now),
                "reason": reason.value if reason else None,
                "untilTime": None if until is None else rfc3339(min(until, LATEST)),
                "tokenGeneration": generation,
                "requestsPerMinute": rate,
                "windows": [_window(window) for window in windows],
            }
        )

    async def flush(self, timeout: float) -> None:
        """Send the waiting reports, for up to `timeout` seconds: the process is about to end."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while self._waiting:
                    with suppress(KubeApiError):  # a refused report does not hold up the others
                        await self._send(self._waiting.pop(next(iter(self._waiting))))

    async def run(self) -> None:
        """Send reports as they come, forever."""
        while True:
            await self._news.wait()
            self._news.clear()
            while self._waiting:
                apply = self._waiting.pop(next(iter(self._waiting)))
                try:
                    await self._send(apply)
                    self._backoff.reset()
                except asyncio.CancelledError:
                    self._waiting.setdefault(apply.uid, apply)  # for `flush`: it may not have arrived
                    raise
                except KubeApiError as error:
                    if self._is_final(apply, error):
                        continue
                    self._waiting.setdefault(apply.uid, apply)  # unless a later one has come
                    await asyncio.sleep(self._backoff.next())

    def _put(self, account: Account, entries: list[dict[str, object]]) -> None:
        if account.uid not in self._waiting and len(self._waiting) >= MOST_WAITING:
            log.warning("report dropped: too many are waiting", extra={"fields": {"account": account.name}})
            return
        self._waiting[account.uid] = _Apply(account.name, account.uid, entries)
        self._news.set()

    async def _send(self, apply: _Apply) -> None:
        """Use server-side apply. The list is keyed by reporter, so this proxy owns only its own entry."""
        path = f"/apis/oauthpool.dev/v1alpha1/namespaces/{self._api.namespace}/oauthaccounts/{apply.name}/status"
        params = {"fieldManager": f"oauth-pool-proxy-{self._reporter}"[:128], "force": "true"}
        body = {
            "apiVersion": "oauthpool.dev/v1alpha1",
            "kind": "OAuthAccount",
            "metadata": {"name": apply.name, "uid": apply.uid},
            "status": {"reports": apply.entries},
        }
        content = msgspec.json.encode(body)
        async with self._api.request("PATCH", path, params, content, "application/apply-patch+yaml") as response:
            await response.whole()

    def _is_final(self, apply: _Apply, error: KubeApiError) -> bool:
        """Whether the same request would be refused again. Not after a 401 (the token is read anew) or a 429."""
        fields = {"account": apply.name, "error": str(error)}
        if error.status is not None and 400 <= error.status < 500 and error.status not in (401, 408, 429):
            log.warning("report refused", extra={"fields": fields})
            return True
        log.debug("report failed, trying again", extra={"fields": fields})
        return False


def _said(account: Account, windows: Windows, now: float, *, is_benched: bool = False) -> _Said:
    return _Said(now, windows, _statuses(account.limits), account.requests, is_benched)


def _statuses(limits: Headers) -> Headers:
    return [header for header in limits if header[0].endswith(b"-status")]


def _window(window: Window) -> dict[str, object]:
    return _without_nulls(
        {
            "name": window.name,
            "utilization": window.utilization,
            "status": window.status,
            "resetTime": _instant(window.resets_at),
        }
    )


def _without_nulls(fields: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in fields.items() if value is not None}


def _instant(instant: float | None) -> str | None:
    try:
        return None if instant is None else rfc3339(instant)
    except (ValueError, OverflowError, OSError):
        return None  # the upstream may write any number
