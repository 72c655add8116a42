"""The figures as tables, for a terminal or as Markdown."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.bench.bars import bars
from tests.bench.cases import CASES
from tests.bench.figures import Results

Rows = list[list[str]]
"""A table; its first row and its first column are titles."""


@dataclass(frozen=True)
class Line:
    title: str
    cell: Callable[[Results, str, str], str]
    """Given case and variant. Empty for what was not measured."""


def plain(title: str, figure: str, digits: int = 0) -> Line:
    """The median, and the least and the greatest of all rounds."""
    return Line(title, lambda results, case, variant: _cell(results.rounds(case, variant, figure), digits))


def of(base: str, figure: str, what: str) -> Line:
    def cell(results: Results, case: str, variant: str) -> str:
        ratio = results.ratio(case, variant, figure, base)
        return "" if ratio is None else (f"{ratio:.2f}" if ratio >= 0.1 else f"{ratio:.2g}")

    return Line(f"{what}, of {base}", cell)


def over_direct(title: str, figure: str) -> Line:
    return Line(title, lambda results, case, variant: _cell(results.over(case, variant, figure, "direct"), 2))


FAILED = plain("failed", "failed")
RSS = [plain(f"RSS {when} MiB", f"rss_{when}") for when in ("idle", "peak", "after")]
REQUESTS = [
    FAILED,
    plain("req/s", "per_second"),
    of("pool-other", "per_second", "req/s"),
    of("pool-other", "cpu_us", "CPU"),
    of("nginx", "per_second", "req/s"),
    of("direct", "per_second", "req/s"),
    plain("CPU µs/req", "cpu_us"),
    plain("CPU %", "busy"),
    plain("p50 ms", "duration_p50", 2),
    plain("p99 ms", "duration_p99", 2),
    *RSS,
]


def _stream_lines(phase: str = "", title: str = "") -> list[Line]:
    return [
        plain(f"{title}CPU µs/event", f"{phase}cpu_us", 1),
        of("nginx", f"{phase}cpu_us", f"{title}CPU"),
        of("pool-other", f"{phase}cpu_us", f"{title}CPU"),
        of("pool-other", f"{phase}first_byte_p50", f"{title}first byte p50"),
        plain(f"{title}first byte p50 ms", f"{phase}first_byte_p50", 1),
        plain(f"{title}first byte p99 ms", f"{phase}first_byte_p99", 1),
        plain(f"{title}delay p50 ms", f"{phase}delay_p50", 2),
        plain(f"{title}delay p99 ms", f"{phase}delay_p99", 2),
    ]


STREAMS = [FAILED, plain("events/s", "per_second"), *_stream_lines(), plain("CPU %", "busy"), *RSS]

LINES = {
    "json": REQUESTS,
    "json-1000": REQUESTS,
    "handshakes": [
        FAILED,
        plain("CPU µs/handshake", "handshake_cpu_us"),
        of("nginx", "handshake_cpu_us", "CPU of a handshake"),
        of("pool-other", "handshake_cpu_us", "CPU of a handshake"),
        plain("kept: CPU µs/req", "kept_cpu_us"),
        plain("new: req/s", "new_per_second"),
        plain("new: p99 ms", "new_duration_p99", 2),
        *RSS,
    ],
    "latency": [
        FAILED,
        plain("p50 ms", "duration_p50", 2),
        plain("p99 ms", "duration_p99", 2),
        over_direct("p50 over direct", "duration_p50"),
        over_direct("p99 over direct", "duration_p99"),
        plain("CPU µs/req", "cpu_us"),
    ],
    "sse-200": STREAMS,
    "sse-1000": STREAMS,
    "body-1mb": REQUESTS,
    "tls-1000": [
        FAILED,
        *_stream_lines("cold_", "cold: "),
        *_stream_lines("warm_", "warm: "),
        plain("JSON req/s", "json_per_second"),
        of("nginx", "json_per_second", "JSON req/s"),
        *RSS,
    ],
    "after-storm": [
        FAILED,
        plain("req/s before", "before_per_second"),
        plain("req/s after", "after_per_second"),
        plain("after / before", "after_of_before", 2),
        *RSS,
    ],
    "uploads": [
        FAILED,
        plain("s for all", "uploads_seconds", 1),
        plain("delay p99 ms", "delay_p99", 1),
        plain("delay max ms", "delay_max", 1),
        *RSS,
    ],
    "slow-reader": [
        FAILED,
        plain("1 client MiB", "one_cost", 1),
        plain("100 clients MiB", "many_cost", 1),
        *RSS,
    ],
    "idle": [plain("RSS MiB", "rss_idle", 1), plain("seconds to ready", "ready_seconds", 2)],
}


def case_table(case: str, results: Results, *, markdown: bool = False) -> str:
    variants = results.variants(case)
    rows = [[line.title, *(line.cell(results, case, variant) for variant in variants)] for line in LINES[case]]
    rows = [["", *variants], *(row for row in rows if any(row[1:]))]
    title = f"{case}: {CASES[case].title}"
    return f"**{title}**\n\n{_markdown(rows)}" if markdown else f"{title}\n{_text(rows)}"


def bar_table(results: Results, *, markdown: bool = False) -> str:
    words = {True: "reached", False: "NOT REACHED", None: "not measured"}
    rows = [["case", "pool mode, everything on", "bar", "measured", ""]]
    for bar in bars():
        value = bar.value(results)
        limit = f"{'≥' if bar.is_at_least else '≤'} {bar.limit:g}"
        rows.append(
            [bar.case, bar.what, limit, "" if value is None else f"{value:.2f}", words[bar.is_reached(results)]]
        )
    return _markdown(rows) if markdown else _text(rows)


def _cell(values: Sequence[float], digits: int) -> str:
    if not values:
        return ""
    median, least, most = (f"{v:,.{digits}f}" for v in (statistics.median(values), min(values), max(values)))
    return median if least == most else f"{median} ({least} to {most})"


def _text(rows: Rows) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    return "\n".join("  ".join(line).rstrip() for line in lines)


def _markdown(rows: Rows) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])
