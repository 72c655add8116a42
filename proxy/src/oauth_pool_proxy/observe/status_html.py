"""The look of the status page: cards in, HTML out. Pure, and the same file in proxy and operator.

One document without scripts, pictures or anything from elsewhere; the policy that it is sent with allows nothing else.
Whatever is shown is escaped here. It is read-only: there is nothing on it to press but a link that stops its reloading.
"""

from base64 import b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from hashlib import sha256
from html import escape

RELOAD_SECONDS = 10
MOST_CARDS = 100
"""More is no page that anybody reads. The most urgent come first, and what is left out is counted."""


class Tone(StrEnum):
    """How urgent an account is; the order is that of the page."""

    ACT = "act"
    WAIT = "wait"
    WELL = "well"
    OFF = "off"


_ORDER = {tone: number for number, tone in enumerate(Tone)}
_WORDS = {Tone.ACT: "needs a person", Tone.WAIT: "recovers by itself", Tone.WELL: "in use", Tone.OFF: "switched off"}


@dataclass(frozen=True, slots=True)
class Bar:
    """A quota window: how much of it is used (1 is all), and when it begins anew (Unix time)."""

    name: str
    used: float | None
    resets_at: float | None = None


@dataclass(frozen=True, slots=True)
class Card:
    """One account. `facts` are pairs of a word and a text; `advice` says what to do, `command` with what."""

    name: str
    status: str
    tone: Tone
    bars: Sequence[Bar] = ()
    facts: Sequence[tuple[str, str]] = ()
    advice: str = ""
    command: str = ""


def page(
    title: str, seen_by: str, figures: Iterable[tuple[str, str]], cards: Sequence[Card], now: float, *, reloads: bool
) -> bytes:
    """The whole document."""
    ordered = sorted(cards, key=lambda card: (_ORDER[card.tone], card.name))
    shown = "".join(_card(card, now) for card in ordered[:MOST_CARDS])
    left_out = f"<p>{len(cards) - MOST_CARDS} more are not shown.</p>" if len(cards) > MOST_CARDS else ""
    listed = f'<ul class="cards">{shown}</ul>{left_out}' if cards else "<p>No account is known.</p>"
    terms = "".join(f"<div><dt>{escape(term)}</dt><dd>{escape(text)}</dd></div>" for term, text in figures)
    reload = f'<meta http-equiv="refresh" content="{RELOAD_SECONDS}">' if reloads else ""
    other = '<a href="?reload=no">stop reloading</a>' if reloads else '<a href="/">reload automatically</a>'
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"{reload}<title>{escape(_summary(cards))}: {escape(title)}</title><style>{STYLE}</style></head><body>"
        f"<header><h1>{escape(title)}</h1><p>{escape(_summary(cards))}</p><dl>{terms}</dl></header>"
        f'<main aria-label="Accounts">{listed}</main>'
        f"<footer><p>{escape(seen_by)}, at {_clock(now)}. {other}</p></footer></body></html>"
    ).encode()


def _summary(cards: Sequence[Card]) -> str:
    counts = [(tone, sum(card.tone is tone for card in cards)) for tone in (Tone.WELL, Tone.WAIT, Tone.ACT, Tone.OFF)]
    some = [f"{count} {_plural(tone, count)}" for tone, count in counts if count]
    return f"{len(cards)} account{'' if len(cards) == 1 else 's'}" + (f" ({', '.join(some)})" if some else "")


def _plural(tone: Tone, count: int) -> str:
    words = _WORDS[tone]
    return (
        words if count == 1 else words.replace("needs", "need").replace("comes", "come").replace("itself", "themselves")
    )


def _card(card: Card, now: float) -> str:
    facts = "".join(f"<div><dt>{escape(term)}</dt><dd>{escape(text)}</dd></div>" for term, text in card.facts)
    advice = f"<p>{escape(card.advice)}</p>" if card.advice else ""
    command = f"<p><code>{escape(card.command)}</code></p>" if card.command else ""
    return (
        f'<li class="{card.tone.value}"><h2>{escape(card.name)}</h2>'
        f'<p class="status">{escape(card.status)} <span>{_WORDS[card.tone]}</span></p>'
        f"{''.join(_bar(bar, now) for bar in card.bars)}"
        f"{f'<dl>{facts}</dl>' if facts else ''}{advice}{command}</li>"
    )


def _bar(bar: Bar, now: float) -> str:
    """Drawn by attributes, which need no leave to set styles; its name says in words what it shows."""
    used = "?" if bar.used is None else f"{bar.used:.0%}"
    resets = f"resets {when(bar.resets_at, now)}" if bar.resets_at and bar.resets_at > now else ""
    level = "none" if bar.used is None else "full" if bar.used >= 1 else "high" if bar.used >= 0.75 else "low"
    width = 100 * min(max(bar.used or 0.0, 0.0), 1.0)
    in_words = "use unknown" if bar.used is None else f"{used} used"
    name = escape(", ".join(filter(None, (f"{bar.name} window", in_words, resets))))
    return (
        f'<div class="bar"><span aria-hidden="true">{escape(bar.name)}</span>'
        f'<svg role="img" aria-label="{name}" viewBox="0 0 100 8" preserveAspectRatio="none">'
        f'<rect width="100" height="8" class="track"/><rect width="{width:.1f}" height="8" class="{level}"/></svg>'
        f'<span aria-hidden="true">{used}</span><span aria-hidden="true">{escape(resets)}</span></div>'
    )


def when(instant: float, now: float) -> str:
    """`in 2h 10m`, `5m ago`: two units at most."""
    seconds = abs(round(instant - now))
    if seconds < 1:
        return "now"
    days, hours, minutes = seconds // 86400, seconds // 3600 % 24, seconds // 60 % 60
    units = [(days, "d"), (hours, "h"), (minutes, "m"), (seconds % 60, "s")]
    first = next(number for number, (count, _) in enumerate(units) if count)
    span = " ".join(f"{count}{unit}" for count, unit in units[first : first + 2] if count)
    return f"in {span}" if instant > now else f"{span} ago"


def _clock(now: float) -> str:
    return f"{datetime.fromtimestamp(now, UTC):%Y-%m-%d %H:%M:%S} UTC"


STYLE = """
:root{color-scheme:light dark;--page:#f6f7f9;--card:#fff;--text:#1c2430;--soft:#55606e;--line:#d5dae1;--track:#e3e7ec;
--act:#b3261e;--wait:#8a5300;--well:#1b6e3c;--off:#5b6470;--low:#2f7d4f;--high:#b26a00;--full:#c0392b}
@media (prefers-color-scheme:dark){:root{--page:#12161c;--card:#1b212a;--text:#e6eaf0;--soft:#a3adba;--line:#333d4a;
--track:#303946;--act:#ff9b93;--wait:#f0b65a;--well:#7ed49d;--off:#a3adba;--low:#58b37d;--high:#e0a13c;--full:#f0746a}}
*{box-sizing:border-box}body{margin:0 auto;padding:1rem;max-width:80rem;background:var(--page);color:var(--text);
font:1rem/1.45 system-ui,sans-serif;overflow-wrap:anywhere}h1{font-size:1.4rem;margin:0}h2{font-size:1.05rem;margin:0}
p{margin:.4rem 0}dl{display:flex;flex-wrap:wrap;gap:.2rem 1.5rem;margin:.5rem 0}dl div{display:flex;gap:.4rem}
dt{color:var(--soft)}dd{margin:0;font-variant-numeric:tabular-nums}
.cards{list-style:none;margin:1rem 0;padding:0;display:grid;gap:.8rem;
grid-template-columns:repeat(auto-fill,minmax(min(100%,20rem),1fr))}
li{background:var(--card);border:1px solid var(--line);border-left:.4rem solid var(--tone);border-radius:.4rem;padding:.8rem}
.act{--tone:var(--act)}.wait{--tone:var(--wait)}.well{--tone:var(--well)}.off{--tone:var(--off)}
.status{color:var(--tone);font-weight:600}.status span{color:var(--soft);font-weight:400}
.bar{display:grid;grid-template-columns:2.6rem 1fr 3.2rem;gap:.1rem .5rem;align-items:center;
font-variant-numeric:tabular-nums;margin:.3rem 0}.bar span:nth-of-type(2){text-align:right}
.bar span:nth-of-type(3){grid-column:2/-1;color:var(--soft);font-size:.85rem}
svg{width:100%;height:.6rem;border-radius:.3rem;display:block}.track{fill:var(--track)}.none{fill:none}
.low{fill:var(--low)}.high{fill:var(--high)}.full{fill:var(--full)}
code{display:inline-block;background:var(--track);border-radius:.2rem;padding:.2rem .4rem;font-size:.9rem}a{color:inherit}
footer{color:var(--soft);font-size:.9rem}
""".replace("\n", "")

HEADERS = {
    "content-type": "text/html; charset=utf-8",
    "content-security-policy": "default-src 'none'; style-src "
    f"'sha256-{b64encode(sha256(STYLE.encode()).digest()).decode()}'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
