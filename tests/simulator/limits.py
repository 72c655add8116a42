"""How much of its limits an account has used, and the headers that say so.

The header names, the values and the three classes of 429 are those of the provider's unified limits: windows with a
status, a reset in epoch seconds and a utilization, and an aggregate that names the window which decides.
"""

import math
import threading
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from .clock import Clock
from .envelope import RATE_LIMIT_TEXT, ApiError
from .switches import Switches

_PREFIX = "anthropic-ratelimit-unified"
# seconds, and the name in `representative-claim`
_WINDOWS = {
    "5h": (5 * 3600.0, "five_hour"),
    "7d": (7 * 86_400.0, "seven_day"),
    # limits some models only, and is shown only once it was used up
    "7d_oi": (7 * 86_400.0, "seven_day_overage_included"),
}
WINDOWS = tuple(_WINDOWS)
_WARNING_AT = 0.9


@dataclass(frozen=True)
class Window:
    name: str
    resets_at: float
    utilization: float = 0.0

    @property
    def status(self) -> str:
        if self.utilization >= 1:
            return "rejected"
        return "allowed_warning" if self.utilization >= _WARNING_AT else "allowed"


class Limits:
    """The windows of every account. A window starts anew when its reset has passed. Thread-safe."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._windows: dict[str, dict[str, Window]] = {}

    def windows(self, subject: str) -> list[Window]:
        with self._lock:
            return list(self._current(subject).values())

    def set_utilization(self, subject: str, window: str, utilization: float, *, reset_in: float | None = None) -> None:
        """At 1 and above the window is exhausted until its reset. Raises ValueError for a window that is none."""
        if window not in _WINDOWS:
            raise ValueError(f"unknown window {window!r}; known are {', '.join(WINDOWS)}")
        with self._lock:
            windows = self._current(subject)
            old = windows.get(window) or self._fresh(window)
            resets_at = old.resets_at if reset_in is None else self._clock.now() + reset_in
            windows[window] = Window(window, resets_at, utilization)

    def use(self, subject: str, share: float) -> None:
        """One more message: it counts in the 5 h and the 7 d window."""
        if share == 0:
            return
        with self._lock:
            windows = self._current(subject)
            for name in ("5h", "7d"):
                windows[name] = replace(windows[name], utilization=windows[name].utilization + share)

    def recover(self, subject: str) -> None:
        """As if every window had been reset early, which happens."""
        with self._lock:
            self._windows.pop(subject, None)

    def _current(self, subject: str) -> dict[str, Window]:
        windows = self._windows.setdefault(subject, {name: self._fresh(name) for name in ("5h", "7d")})
        for name, window in list(windows.items()):
            if self._clock.now() >= window.resets_at:
                windows[name] = self._fresh(name)
        return windows

    def _fresh(self, name: str) -> Window:
        return Window(name, self._clock.now() + _WINDOWS[name][0])


def rejecting(windows: list[Window], model: str) -> list[Window]:
    """The exhausted windows that concern this model: `7d_oi` is there for the largest models only."""
    return [
        window
        for window in windows
        if window.status == "rejected" and (window.name != "7d_oi" or "opus" in model.lower())
    ]


def limit_headers(windows: list[Window], rejected: list[Window], switches: Switches) -> dict[str, str]:
    """The unified headers, or the part of them that the switch `limit_headers` leaves, and the optional extras."""
    shape = switches.limit_headers
    headers = _extras(windows, switches)
    if shape in ("all", "aggregate"):
        # the exhausted window that lasts longest decides, else the fullest one
        deciding = max(rejected, key=lambda window: window.resets_at, default=None)
        if deciding is None:
            deciding = max(
                (window for window in windows if window.name != "7d_oi"), key=lambda window: window.utilization
            )
        headers[f"{_PREFIX}-status"] = deciding.status
        headers[f"{_PREFIX}-reset"] = str(math.ceil(deciding.resets_at))
        headers[f"{_PREFIX}-representative-claim"] = _WINDOWS[deciding.name][1]
    if shape in ("all", "windows"):
        for window in windows:
            headers[f"{_PREFIX}-{window.name}-status"] = window.status
            headers[f"{_PREFIX}-{window.name}-reset"] = str(math.ceil(window.resets_at))
            headers[f"{_PREFIX}-{window.name}-utilization"] = f"{round(window.utilization, 4)}"
    return headers


def _extras(windows: list[Window], switches: Switches) -> dict[str, str]:
    """What else begins with the same prefix, and is no window of the account."""
    headers: dict[str, str] = {}
    if switches.fallback_percentage is not None:
        headers[f"{_PREFIX}-fallback-percentage"] = str(switches.fallback_percentage)
    if switches.overage_status is not None:
        headers[f"{_PREFIX}-overage-status"] = switches.overage_status
        headers[f"{_PREFIX}-overage-reset"] = str(math.ceil(max(window.resets_at for window in windows)))
    if switches.overage_status == "rejected":
        headers[f"{_PREFIX}-overage-disabled-reason"] = "out_of_credits"
    elif switches.overage_status is not None:
        headers[f"{_PREFIX}-overage-utilization"] = "0.25"
    return headers


def quota_error(windows: list[Window], rejected: list[Window], switches: Switches, now: float) -> ApiError:
    """The 429 of an exhausted account. `x-should-retry: true` comes even when the reset is days away."""
    headers = limit_headers(windows, rejected, switches)
    headers["x-should-retry"] = "true"
    if switches.limit_headers != "none":
        headers["retry-after"] = str(math.ceil(max(window.resets_at for window in rejected) - now))
    return ApiError(429, RATE_LIMIT_TEXT, headers=headers)


def per_minute_error(retry_after: int, now: float) -> ApiError:
    """The 429 of API organisations: no window, limits per minute with RFC 3339 resets."""
    reset = datetime.fromtimestamp(now + retry_after, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    headers = {"retry-after": str(retry_after), "x-should-retry": "true"}
    for name, limit in (("requests", 50), ("input-tokens", 30_000), ("output-tokens", 8_000), ("tokens", 38_000)):
        headers[f"anthropic-ratelimit-{name}-limit"] = str(limit)
        headers[f"anthropic-ratelimit-{name}-remaining"] = "0" if name == "requests" else str(limit // 2)
        headers[f"anthropic-ratelimit-{name}-reset"] = reset
    return ApiError(429, RATE_LIMIT_TEXT, headers=headers)
