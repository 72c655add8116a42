"""A saved run as a picture. Run with the interpreter that has matplotlib: `python -m tests.bench.chart RUN.json CHART.png`."""

import json
import statistics
import sys
from pathlib import Path

import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot

Values = dict[str, dict[str, dict[str, list[float]]]]

PANELS = [
    ("json", "per_second", "JSON requests per second\n(more is better)"),
    ("body-1mb", "per_second", "1 MB requests per second\n(more is better)"),
    ("sse-1000", "cpu_us", "1,000 streams: CPU µs per event\n(less is better)"),
    ("tls-1000", "warm_cpu_us", "the same over TLS, warm: CPU µs per event\n(less is better)"),
    ("sse-1000", "first_byte_p99", "1,000 streams: first byte p99, ms\n(less is better)"),
    ("sse-1000", "rss_peak", "1,000 streams: peak RSS, MiB\n(less is better)"),
]
COLOURS = {
    "direct": "#9e9e9e",
    "nginx": "#4c9a5b",
    "litellm": "#c77f3a",
    "passthrough": "#7fa8d6",
    "pool": "#2f6db3",
    "clients": "#1b3f63",
}


def main(run: Path, picture: Path) -> None:
    values: Values = json.loads(run.read_text())["values"]
    figure, axes = pyplot.subplots(3, 2, figsize=(10, 8), layout="constrained")
    for axis, (case, name, title) in zip(axes.flat, PANELS, strict=True):
        _draw(
            axis, {variant: rounds[name] for variant, rounds in values.get(case, {}).items() if name in rounds}, title
        )
    figure.savefig(picture, dpi=110)


def _draw(axis: "pyplot.Axes", rounds: dict[str, list[float]], title: str) -> None:
    """A bar for each variant's median, with a line from the least to the greatest."""
    axis.set_title(title, fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)
    names = list(rounds)[::-1]
    medians = [statistics.median(rounds[name]) for name in names]
    ranges = [[m - min(rounds[n]), max(rounds[n]) - m] for n, m in zip(names, medians, strict=True)]
    bars = axis.barh(names, medians, xerr=list(zip(*ranges, strict=True)) or None,
                     color=[COLOURS[name] for name in names], error_kw={"elinewidth": 1})  # fmt: skip
    axis.bar_label(bars, [f"{m:,.0f}" if m >= 100 else f"{m:.1f}" for m in medians], padding=6, fontsize=9)
    axis.margins(x=0.2)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
