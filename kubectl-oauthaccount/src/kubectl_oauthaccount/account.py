"""An OAuthAccount as people see it: turns an API object into what is shown. Pure; the clock is passed in.

It requires nothing of the object: a plugin that is older than the cluster still shows what it understands.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from kubectl_oauthaccount import conditions as c
from kubectl_oauthaccount.instants import instant

NEW = "New"  # the operator has not looked at it yet
# A proxy tells its rate once a minute while it has requests: an older figure is of a proxy that is idle or gone.
RATE_IS_FRESH = timedelta(minutes=3)


@dataclass(frozen=True)
class Window:
    """One quota window as the upstream's headers describe it; `utilization` is a fraction and may exceed 1."""

    name: str
    utilization: float | None = None
    status: str | None = None
    reset_time: datetime | None = None


@dataclass(frozen=True)
class Login:
    """The login that is open: what the person opens, and how the page's answer comes back."""

    session_id: str
    url: str
    user_code: str | None  # only with a device code, where there is nothing to hand over
    expires: datetime | None

    @property
    def needs_code(self) -> bool:
        return self.user_code is None


class AccountView:
    """One object as last seen."""

    def __init__(self, body: dict[str, Any]) -> None:
        self._metadata: dict[str, Any] = body.get("metadata") or {}
        self.spec: dict[str, Any] = body.get("spec") or {}
        self.status: dict[str, Any] = body.get("status") or {}

    def __repr__(self) -> str:
        return f"<AccountView {self.name}>"  # a pasted code may be in the annotations

    @property
    def name(self) -> str:
        return str(self._metadata.get("name", ""))

    @property
    def namespace(self) -> str:
        return str(self._metadata.get("namespace", ""))

    @property
    def resource_version(self) -> str:
        return str(self._metadata.get("resourceVersion", ""))

    @property
    def created(self) -> datetime | None:
        return instant(self._metadata.get("creationTimestamp"))

    @property
    def annotations(self) -> dict[str, str]:
        return dict(self._metadata.get("annotations") or {})

    @property
    def labels(self) -> dict[str, str]:
        return dict(self._metadata.get("labels") or {})

    @property
    def field_managers(self) -> set[str]:
        return {str(entry.get("manager")) for entry in self._metadata.get("managedFields") or ()}

    @property
    def grant(self) -> str:
        return str(self.spec.get("grant", ""))

    @property
    def is_suspended(self) -> bool:
        return bool(self.spec.get("suspend", False))

    @property
    def conditions(self) -> list[dict[str, Any]]:
        return list(self.status.get("conditions") or ())

    def condition(self, kind: str) -> dict[str, Any]:
        return c.find(self.conditions, kind) or {}

    def is_true(self, kind: str) -> bool:
        return bool(self.condition(kind).get("status") == "True")

    @property
    def status_word(self) -> str:
        """The word that `kubectl get` shows as STATUS."""
        return str(self.condition(c.READY).get("reason") or NEW)

    @property
    def message(self) -> str:
        """What a person should know about it now; empty while all is well."""
        for kind in (c.STALLED, c.RECONCILING):
            if self.is_true(kind):
                return str(self.condition(kind).get("message", ""))
        return "" if self.is_true(c.READY) else str(self.condition(c.READY).get("message", ""))

    @property
    def windows(self) -> list[Window]:
        return windows_in(self.status.get("quota"))

    @property
    def cooldown_until(self) -> datetime | None:
        return instant((self.status.get("cooldown") or {}).get("untilTime"))

    @property
    def quota_seen(self) -> datetime | None:
        """When a proxy last told of the quota: the windows are as old as that."""
        return instant((self.status.get("quota") or {}).get("observedTime"))

    def resets(self, now: datetime) -> datetime | None:
        """When the cooldown ends; without one, when the next quota window resets."""
        if self.cooldown_until is not None:
            return self.cooldown_until
        return min((w.reset_time for w in self.windows if w.reset_time and w.reset_time > now), default=None)

    @property
    def token_expires(self) -> datetime | None:
        return instant(self._token.get("expirationTime"))

    @property
    def token_generation(self) -> int:
        return int(self._token.get("generation", 0))

    @property
    def _token(self) -> dict[str, Any]:
        return self.status.get("token") or {}

    @property
    def reports(self) -> list[dict[str, Any]]:
        return list(self.status.get("reports") or ())

    def requests_per_minute(self, now: datetime) -> int | None:
        """What all proxies send with it; None when none of them says."""
        rates = [
            (instant(report.get("observedTime")), int(report["requestsPerMinute"]))
            for report in self.reports
            if "requestsPerMinute" in report
        ]
        if not rates:
            return None
        return sum(rate for observed, rate in rates if observed is not None and now - observed <= RATE_IS_FRESH)

    @property
    def login(self) -> Login | None:
        """The login that is open, if its URL is there yet."""
        raw = self.status.get("login") or {}
        url = raw.get("authorizationURL") or raw.get("verificationURIComplete") or raw.get("verificationURI")
        if not url:
            return None
        expires = instant(raw.get("expirationTime"))
        return Login(str(raw.get("sessionID", "")), str(url), raw.get("userCode"), expires)


def windows_in(holder: dict[str, Any] | None) -> list[Window]:
    """The quota windows of `status.quota` or of a report; one without a name is left out."""
    found = []
    for raw in (holder or {}).get("windows") or ():
        window = _window(raw)
        if window is not None:
            found.append(window)
    return found


def _window(raw: Any) -> Window | None:
    if not isinstance(raw, dict) or not isinstance(raw.get("name"), str):
        return None
    used, status = raw.get("utilization"), raw.get("status")
    return Window(
        raw["name"],
        utilization=used if isinstance(used, int | float) else None,
        status=status if isinstance(status, str) else None,
        reset_time=instant(raw.get("resetTime")),
    )


def count_by_status(accounts: Sequence[AccountView]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for account in accounts:
        counts[account.status_word] = counts.get(account.status_word, 0) + 1
    return counts
