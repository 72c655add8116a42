"""How single things look: a status word, the use of a window, an instant in the future, an age. Pure."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.segment import Segment
from rich.style import Style
from rich.text import Text

from kubectl_oauthaccount import conditions as c
from kubectl_oauthaccount.account import NEW

NOTHING = "-"

# In the order in which a person should look: what needs one, what passes by itself, what works, what is off.
_STYLES = {
    c.DISABLED: "bold red",
    c.BILLING: "bold red",
    c.FORBIDDEN: "bold red",
    c.LOGIN_REQUIRED: "bold magenta",
    c.COOLING_DOWN: "yellow",
    c.REFRESHING: "cyan",
    NEW: "cyan",
    c.AVAILABLE: "green",
    c.SUSPENDED: "dim",
}
_ORDER = list(_STYLES)


def status_style(word: str) -> str:
    return _STYLES.get(word, "bold red")  # the rest are reasons of Stalled


def urgency(word: str) -> int:
    """For sorting: the lower, the sooner a person should look."""
    return _ORDER.index(word) + 1 if word in _STYLES else 0


def status_text(word: str) -> Text:
    return Text(word, status_style(word))


def span(duration: timedelta) -> str:
    """A duration in at most two units, as kubectl writes ages: 45s, 4m10s, 42m, 3h12m, 2d5h, 12d."""
    seconds = max(0, int(duration.total_seconds()))
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if seconds < 60:
        return f"{seconds}s"
    if minutes < 10:
        return f"{minutes}m{seconds % 60}s" if seconds % 60 else f"{minutes}m"
    if hours < 1:
        return f"{minutes}m"
    if days < 1:
        return f"{hours}h{minutes % 60}m" if minutes % 60 else f"{hours}h"
    if days < 10:
        return f"{days}d{hours % 24}h" if hours % 24 else f"{days}d"
    return f"{days}d"


def countdown(until: datetime | None, now: datetime, over: str) -> str:
    """How long until then; `over` when that is past."""
    if until is None:
        return NOTHING
    return span(until - now) if until > now else over


def age(since: datetime | None, now: datetime) -> str:
    return NOTHING if since is None else span(now - since)


def clock(instant: datetime | None) -> str:
    """An instant, to the second, in UTC."""
    return NOTHING if instant is None else instant.strftime("%Y-%m-%d %H:%M:%SZ")


@dataclass(frozen=True)
class Gauge:
    """The use of a quota window: a bar of `width` cells and the percentage; without a measurement, a dash."""

    used: float | None
    width: int

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self.used is None:
            yield Segment(NOTHING)
            return
        style = "red" if self.used >= 1 else "yellow" if self.used >= 0.75 else "green"
        full, empty = ("#", ".") if options.ascii_only else ("█", "░")
        cells = min(self.width, round(self.used * self.width))
        if self.width:
            yield Segment(full * cells, Style.parse(style))
            yield Segment(empty * (self.width - cells), Style.parse("dim"))
        yield Segment(f"{self._percent:>5}", Style.parse(style))

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        width = 1 if self.used is None else self.width + 5
        return Measurement(width, width)

    @property
    def _percent(self) -> str:
        return f"{min(self.used or 0, 9.99):.0%}"
