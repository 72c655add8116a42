"""The panels of a dashboard with their answers, as one picture in the dashboard's layout.

Run with the interpreter that has matplotlib, as `picture.py` does: `python -m tests.test_monitoring.drawing ANSWERS PICTURE`.
"""

import json
import math
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator
from PIL import Image

Panel = dict[str, Any]

DOTS_PER_INCH = 100
COLUMN, ROW = 0.58, 0.3
"""Inches that a unit of the dashboard's grid is wide and high."""
GRID_COLUMNS = 24
COLOURS = {"green": "#56a64b", "yellow": "#e0b400", "orange": "#ff780a", "red": "#e02f44", "text": "#24292e"}
LINES = ["#3274d9", "#56a64b", "#e0b400", "#a352cc", "#ff780a", "#e02f44", "#37872d", "#8ab8ff", "#8f3bb8", "#c4162a"]
NAMES_IN_LEGEND = 9


def main(answers: Path, picture: Path) -> None:
    document = json.loads(answers.read_text())
    panels: list[Panel] = document["panels"]
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels) + 2
    figure = pyplot.figure(figsize=(GRID_COLUMNS * COLUMN, height * ROW), dpi=DOTS_PER_INCH, facecolor="#f4f5f5")
    pyplot.rcParams.update({"font.size": 8, "axes.titlesize": 8.5, "axes.prop_cycle": pyplot.cycler(color=LINES)})
    figure.text(0.01, 1 - 0.6 / height, document["title"], fontsize=13, weight="bold", va="top")
    seconds = max(point[0] for panel in panels for line in panel["lines"] for point in line["points"][1:])
    for panel in panels:
        _draw(figure, panel, height, seconds)
    figure.savefig(picture)
    # a quarter of the size; there are few colours in it
    Image.open(picture).convert("RGB").quantize(96, dither=Image.Dither.NONE).save(picture, optimize=True)


def _draw(figure: Figure, panel: Panel, height: float, seconds: float) -> None:
    place = panel["gridPos"]
    left, width = place["x"] / GRID_COLUMNS, place["w"] / GRID_COLUMNS
    top, tall = 1 - (place["y"] + 2) / height, place["h"] / height
    if panel["type"] == "row":
        figure.text(left + 0.01, top - tall * 0.75, f"▾ {panel['title']}", fontsize=10, weight="bold")
        return
    card = figure.add_axes((left + 0.003, top - tall + 0.12 / height, width - 0.006, tall - 0.24 / height))
    card.set(xticks=[], yticks=[], facecolor="white")
    for spine in card.spines.values():
        spine.set_color("#d8dbde")
    card.text(0.02 * 8 / place["w"], 1 - 0.45 / place["h"], panel["title"], weight="bold", va="top",
              transform=card.transAxes)  # fmt: skip
    if panel["type"] == "stat":
        _stat(card, panel)
    elif panel["type"] == "table":
        _table(card, panel)
    else:
        sides, below, above = 0.62 / (place["w"] * COLUMN), 0.62 / (place["h"] * ROW), 0.4 / (place["h"] * ROW)
        right = sides * (1 if panel["fieldConfig"]["overrides"] else 0.5)
        axes = card.inset_axes((sides, below, 1 - sides - right, 1 - below - above))
        axes.set_xlim(0, seconds)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=7, colors="#464c54", length=2)
        (_states if panel["type"] == "state-timeline" else _graph)(axes, panel)


def _stat(axes: "pyplot.Axes", panel: Panel) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    values = [value for line in panel["lines"] for _, value in line["points"] if not math.isnan(value)]
    colour = _threshold(defaults, values[-1]) if values else "text"
    is_filled = panel["options"]["colorMode"] == "background"
    if is_filled:
        axes.set_facecolor(COLOURS[colour])
        axes.texts[0].set_color("white")
    text = _unit(defaults["unit"], values[-1]) if values else defaults["noValue"]
    axes.text(0.5, 0.4, text, fontsize=20, weight="bold", ha="center", va="center", transform=axes.transAxes,
              color="white" if is_filled else COLOURS[colour])  # fmt: skip


def _table(axes: "pyplot.Axes", panel: Panel) -> None:
    columns = {"account_id": "Account"}
    units: dict[str, str] = {}
    for override in panel["fieldConfig"]["overrides"]:
        found = {one["id"]: one["value"] for one in override["properties"]}
        columns[override["matcher"]["options"]] = found["displayName"]
        units[override["matcher"]["options"]] = found.get("unit", "short")
    rows: dict[str, dict[str, float]] = {}
    for line in panel["lines"]:
        cells = rows.setdefault(line["labels"]["account_id"], {})
        cells[f"Value #{line['reference']}"] = line["points"][0][1]
    by = panel["options"]["sortBy"][0]
    key = next(name for name, shown in columns.items() if shown == by["displayName"])
    names = sorted(rows, key=lambda name: rows[name].get(key, -1), reverse=by["desc"])
    text = [
        [name, *(_unit(units[c], rows[name][c]) if c in rows[name] else "-" for c in columns if c != "account_id")]
        for name in names
    ]
    box = (0.01, 0.84 - 0.13 * (len(text) + 1), 0.98, 0.13 * (len(text) + 1))
    table = axes.table(text, colLabels=list(columns.values()), cellLoc="left", bbox=box)
    table.auto_set_font_size(False)
    for (row, column), cell in table.get_celld().items():
        cell.set(edgecolor="#e4e7e7", linewidth=0.5)
        cell.set_text_props(fontsize=8.5, weight="bold" if row == 0 else "normal")
        unit = units.get(list(columns)[column], "")
        if row and unit == "percentunit" and (used := rows[names[row - 1]].get(list(columns)[column])) is not None:
            cell.set_facecolor({True: "#fde2e2", False: "#e3f2e1"}[used >= 0.8])


def _states(axes: "pyplot.Axes", panel: Panel) -> None:
    meanings = panel["fieldConfig"]["defaults"]["mappings"][0]["options"]
    lines = sorted(panel["lines"], key=lambda line: line["name"], reverse=True)
    for height, line in enumerate(lines):
        for (begin, value), (end, _) in zip(line["points"], line["points"][1:], strict=False):
            colour = COLOURS[meanings[f"{value:.0f}"]["color"]]
            axes.broken_barh([(begin, end - begin + 0.1)], (height - 0.42, 0.84), facecolors=colour)
    axes.set_yticks(range(len(lines)), [line["name"] for line in lines])
    axes.xaxis.set_major_formatter(FuncFormatter(_clock))
    handles = [pyplot.Rectangle((0, 0), 1, 1, color=COLOURS[one["color"]]) for one in meanings.values()]
    _legend(axes, handles, [one["text"] for one in meanings.values()])


def _graph(axes: "pyplot.Axes", panel: Panel) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    custom = defaults["custom"]
    right = {
        override["matcher"]["options"]: next(one["value"] for one in override["properties"] if one["id"] == "unit")
        for override in panel["fieldConfig"]["overrides"]
    }
    other = axes.twinx() if right else None
    if other is not None:
        other.set_facecolor("none")
    lines = [line for line in panel["lines"] if any(not math.isnan(value) for _, value in line["points"])]
    if custom.get("stacking", {}).get("mode") == "normal":
        instants = sorted({instant for line in lines for instant, _ in line["points"]})
        values = [[max(dict(line["points"]).get(at, 0), 0) for at in instants] for line in lines]
        drawn = axes.stackplot(instants, values, alpha=0.55) if lines else []
    else:
        drawn = []
        for number, line in enumerate(lines):
            on = other if other is not None and line["reference"] in right else axes
            drawn += on.plot(*zip(*line["points"], strict=True), color=LINES[number % len(LINES)], linewidth=1.2,
                             linestyle="--" if on is other else "-")  # fmt: skip
    for on, unit in ((axes, defaults["unit"]), (other, next(iter(right.values()), ""))):
        if on is not None:
            is_hours = unit == "s" and on.get_ylim()[1] > 2 * 3600
            on.yaxis.set_major_locator(MultipleLocator(2 * 3600) if is_hours else MaxNLocator(4))
            on.yaxis.set_major_formatter(FuncFormatter(lambda value, _, unit=unit: _unit(unit, value)))
            on.tick_params(labelsize=7, colors="#464c54", length=2)
            on.spines[["top", "right"]].set_visible(False)
    if defaults.get("min") == 0:
        axes.set_ylim(0, max(axes.get_ylim()[1], 0.001))
    for step in defaults.get("thresholds", {}).get("steps", []) if "thresholdsStyle" in custom else []:
        if step["value"] is not None and step["color"] == "red" and step["value"] <= axes.get_ylim()[1] * 1.5:
            axes.axhline(step["value"], color=COLOURS["red"], linewidth=0.8)
    axes.grid(axis="y", color="#e4e7e7", linewidth=0.5)
    axes.xaxis.set_major_formatter(FuncFormatter(_clock))
    _legend(axes, drawn, [line["name"] for line in lines])


def _legend(axes: "pyplot.Axes", handles: list[Any], names: list[str]) -> None:
    shown = min(len(names), NAMES_IN_LEGEND)
    width = axes.get_window_extent().width / 5  # characters
    columns = max(1, min(shown, int(width / (max(map(len, names[:shown]), default=1) + 7))))
    axes.legend(handles[:shown], names[:shown], loc="upper left", bbox_to_anchor=(-0.06, -0.1), ncols=columns,
                fontsize=7, frameon=False, handlelength=1, columnspacing=1, borderpad=0.2, labelspacing=0.2)  # fmt: skip


def _threshold(defaults: Panel, value: float) -> str:
    steps = defaults["thresholds"]["steps"]
    return str([step["color"] for step in steps if step["value"] is None or value >= step["value"]][-1])


def _clock(seconds: float, _: object) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


def _unit(unit: str, value: float) -> str:
    """As Grafana writes it, or nearly."""
    if unit == "percentunit":
        return f"{value:.0%}" if value >= 0.1 or value == 0 else f"{value:.1%}"
    if unit in ("s", "dtdurations"):
        return _span(value)
    if unit == "bytes":
        return f"{value / 1024:.1f} KiB" if value < 1 << 20 else f"{value / (1 << 20):.0f} MiB"
    return f"{value:.3g}" if value < 1000 else f"{value / 1000:.3g} K"


def _span(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms" if seconds else "0 s"
    for length, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= length:
            return f"{seconds / length:.3g} {name}"
    return f"{seconds:.3g} s"


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
