"""What each client of the proxies has used, from the text of their metrics. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from rich.table import Table
from rich.text import Text

from kubectl_oauthaccount.display import NOTHING

_SAMPLE = re.compile(r"(\w+)\{(.*)\} (\S+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
REFUSED = frozenset(("401", "403", "429"))


@dataclass
class Usage:
    """Sums over the proxies, since each began."""

    requests: float = 0
    refused: float = 0
    """Answered with 401, 403 or 429, by whomever."""
    failed: float = 0
    """Answered with 5xx."""
    input: float = 0
    """Tokens, those of caches included."""
    output: float = 0
    waited: float = 0
    """Seconds in line."""

    @property
    def tokens(self) -> float:
        return self.input + self.output

    def __iadd__(self, other: Usage) -> Self:
        for one in fields(self):
            setattr(self, one.name, getattr(self, one.name) + getattr(other, one.name))
        return self


def usage_of(texts: Iterable[str]) -> dict[str, Usage]:
    """By client; none where the proxies do not know their clients."""
    found: dict[str, Usage] = {}
    for text in texts:
        for line in text.splitlines():
            if sample := _SAMPLE.fullmatch(line):
                labels = dict(_LABEL.findall(sample[2]))
                if client := labels.get("client"):
                    found.setdefault(client, Usage())
                    found[client] += _counted(sample[1], labels, float(sample[3]))
    return found


def _counted(metric: str, labels: Mapping[str, str], value: float) -> Usage:
    if metric == "proxy_client_requests_total":
        status = labels.get("status", "")
        return Usage(
            requests=value, refused=value if status in REFUSED else 0, failed=value if status.startswith("5") else 0
        )
    if metric == "pool_tokens_total":
        return Usage(output=value) if labels.get("type") == "output" else Usage(input=value)
    return Usage(waited=value) if metric == "proxy_client_queue_wait_seconds_sum" else Usage()


def by_use(usage: Mapping[str, Usage]) -> list[tuple[str, Usage]]:
    """Whoever has used most comes first."""
    return sorted(usage.items(), key=lambda one: (-one[1].tokens, -one[1].requests, one[0]))


def usage_table(usage: Mapping[str, Usage]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("CLIENT", no_wrap=True)
    for name in ("SHARE", "INPUT", "OUTPUT", "REQUESTS", "REFUSED", "FAILED", "IN LINE"):
        table.add_column(name, justify="right", no_wrap=True)
    share_of, whole = _shares(usage)
    for client, used in by_use(usage):
        table.add_row(
            Text(client),
            f"{100 * share_of(used) / whole:.0f}%" if whole else NOTHING,
            *(_short(number) for number in (used.input, used.output, used.requests, used.refused, used.failed)),
            f"{used.waited:.0f}s" if used.waited else NOTHING,
        )
    return table


def usage_rows(usage: Mapping[str, Usage]) -> list[dict[str, Any]]:
    """The same, for a program."""
    share_of, whole = _shares(usage)
    return [
        {
            "client": client,
            "share": round(share_of(used) / whole, 4) if whole else None,
            "inputTokens": int(used.input),
            "outputTokens": int(used.output),
            "requests": int(used.requests),
            "refused": int(used.refused),
            "failed": int(used.failed),
            "secondsInLine": round(used.waited, 3),
        }
        for client, used in by_use(usage)
    ]


def _shares(usage: Mapping[str, Usage]) -> tuple[Any, float]:
    """Of tokens; of requests where no tokens are counted, as in passthrough mode."""
    tokens = sum(used.tokens for used in usage.values())
    if tokens:
        return (lambda used: used.tokens), tokens
    return (lambda used: used.requests), sum(used.requests for used in usage.values())


def _short(number: float) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= 10 * size:
            return f"{number / size:.0f}{unit}"
    return f"{number:.0f}"
