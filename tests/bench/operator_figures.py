"""What is measured of a process and of the API server, and the bars for it."""

import re
from collections import Counter
from dataclasses import asdict, dataclass
from os import sysconf
from pathlib import Path
from typing import Any

# What an operator writes, but for the Lease, which is meant to be renewed all the time.
WRITES = ("POST", "PUT", "PATCH", "APPLY", "DELETE")
RESOURCES = ("configmaps", "oauthaccounts", "events")


@dataclass(frozen=True)
class Figure:
    """One measured value; `bar` is the most that it may be, None where it is only told."""

    name: str
    value: float
    unit: str
    bar: float | None = None

    @property
    def is_reached(self) -> bool:
        return self.bar is None or self.value <= self.bar

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"is_reached": self.is_reached}


def table(figures: list[Figure]) -> str:
    """One line a figure."""
    rows = [("figure", "value", "bar", "")]
    for figure in figures:
        bar = "" if figure.bar is None else f"{figure.bar:g}"
        verdict = "" if figure.bar is None else "reached" if figure.is_reached else "NOT REACHED"
        rows.append((figure.name, f"{figure.value:.4g} {figure.unit}".rstrip(), bar, verdict))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def cpu_seconds(pid: int) -> float:
    """User and system time of the whole process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / sysconf("SC_CLK_TCK")


def memory_mib(pid: int, kind: str = "VmRSS") -> float:
    """Resident memory now, or with `VmHWM` the most that it ever was."""
    found = re.search(rf"^{kind}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found.group(1)) / 1024


def writes(metrics: str) -> Counter[str]:
    """Writes of what an operator writes, from the API server's metrics: `verb resource/subresource` → requests."""
    counts: Counter[str] = Counter()
    for labels, value in re.findall(r"^apiserver_request_total\{(.*)\} (\S+)$", metrics, re.MULTILINE):
        label = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        if label["verb"] in WRITES and label["resource"] in RESOURCES:
            name = "/".join(filter(None, (label["resource"], label["subresource"])))
            counts[f"{label['verb']} {name}"] += int(float(value))
    return counts
