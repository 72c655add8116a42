"""Memory and descriptors of some processes over time, and whether they grew."""

import statistics
import time
from collections.abc import Mapping

from .program import Report
from .proxy_process import descriptors, rss_mib

MOST_GROWTH_MIB = 5.0
MOST_MORE_DESCRIPTORS = 20
"""Connections come and go, by the dozen when the machine was busy for a moment. What leaks goes on and on."""


class Samples:
    """Take them regularly. The first third is warm-up; what is judged is the last tenth against the one after that."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self.began = time.monotonic()
        self._pids = pids
        self._taken: list[tuple[float, dict[str, tuple[float, int]]]] = []

    def take(self, passed: float) -> None:
        """`passed` in seconds."""
        self._taken.append((passed, {name: (rss_mib(pid), descriptors(pid)) for name, pid in self._pids.items()}))

    @property
    def latest(self) -> str:
        _, found = self._taken[-1]
        return ", ".join(f"{name} {rss:.1f} MiB {open_} descriptors" for name, (rss, open_) in found.items())

    def judge(self, *, grows: bool) -> Report:
        """Rows always; failures about growth only if `grows`."""
        report, third, tenth = Report(()), len(self._taken) // 3, max(len(self._taken) // 10, 1)
        warm, end = self._taken[third : third + tenth], self._taken[-tenth:]
        for name in self._pids:
            rss = [statistics.median(found[name][0] for _, found in part) for part in (warm, end)]
            opened = [statistics.median(found[name][1] for _, found in part) for part in (warm, end)]
            report.rows.append((f"RSS of {name}, MiB", f"{rss[0]:.1f}", f"{rss[1]:.1f}", f"+{MOST_GROWTH_MIB:g}"))
            report.rows.append(
                (f"descriptors of {name}", *(f"{number:g}" for number in opened), f"+{MOST_MORE_DESCRIPTORS}")
            )
            if grows and rss[1] - rss[0] > MOST_GROWTH_MIB:
                report.failures.append(f"RSS of {name} grew from {rss[0]:.1f} to {rss[1]:.1f} MiB")
            if opened[1] - opened[0] > MOST_MORE_DESCRIPTORS:
                report.failures.append(f"open descriptors of {name} grew from {opened[0]} to {opened[1]}")
        return report
