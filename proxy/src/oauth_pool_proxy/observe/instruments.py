"""Counters and histograms for one event loop: plain numbers, turned into metrics at scrape time.

prometheus_client's own take a lock for every number. For the twenty numbers of a request, that costs more than handling all its
headers. A family with many series is collected in parts, so rendering it blocks nothing (`exposition.py`).
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate, islice
from typing import TypeVar

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
"""Seconds."""
PART = 200
"""Samples that are collected and rendered at a time: about a millisecond."""

M = TypeVar("M", bound=Metric)
R = TypeVar("R")


def in_parts(family: Callable[[], M], rows: Iterable[R], add: Callable[[M, R], None], samples: int = 1) -> Iterator[M]:
    """A family in parts of `PART` samples. Each row has `samples` of them. A family without rows still yields one part."""
    iterator = iter(rows)
    part = list(islice(iterator, max(1, PART // samples)))
    while True:
        metric = family()
        for row in part:
            add(metric, row)
        yield metric
        part = list(islice(iterator, max(1, PART // samples)))
        if not part:
            return


class Counter(Collector):
    def __init__(self, name: str, text: str, *labels: str) -> None:
        self._family = (name, text, labels)
        self._totals: dict[tuple[str, ...], float] = {}

    def add(self, labels: tuple[str, ...], amount: float = 1) -> None:
        self._totals[labels] = self._totals.get(labels, 0) + amount

    def describe(self) -> Iterable[Metric]:
        return [self._metric()]

    def collect(self) -> Iterator[Metric]:
        totals = list(self._totals.items())  # more may be added between two parts
        return in_parts(self._metric, totals, lambda metric, row: metric.add_metric(*row))

    def _metric(self) -> CounterMetricFamily:
        name, text, labels = self._family
        return CounterMetricFamily(name, text, labels=labels)


class Counters(Collector):
    """Several counters that differ in their last label and are always increased together."""

    def __init__(self, name: str, text: str, kinds: tuple[str, ...], *labels: str) -> None:
        self._family = (name, text, labels)
        self._kinds = kinds
        self._totals: dict[tuple[str, ...], list[float]] = {}

    def add(self, labels: tuple[str, ...], amounts: tuple[float, ...]) -> None:
        """`labels` omit the last one. `amounts` has one amount per kind."""
        totals = self._totals.get(labels)
        if totals is None:
            totals = self._totals[labels] = [0.0] * len(self._kinds)
        for number, amount in enumerate(amounts):
            totals[number] += amount

    def describe(self) -> Iterable[Metric]:
        return [self._metric()]

    def collect(self) -> Iterator[Metric]:
        return in_parts(self._metric, list(self._totals.items()), self._add, samples=len(self._kinds))

    def _add(self, metric: CounterMetricFamily, row: tuple[tuple[str, ...], list[float]]) -> None:
        for kind, total in zip(self._kinds, row[1], strict=True):
            metric.add_metric([*row[0], kind], total)

    def _metric(self) -> CounterMetricFamily:
        name, text, labels = self._family
        return CounterMetricFamily(name, text, labels=labels)


class Series:
    """A histogram's numbers for one set of labels."""

    def __init__(self, buckets: int) -> None:
        self.counts = [0] * buckets
        self.sum = 0.0


class Histogram(Collector):
    def __init__(self, name: str, text: str, buckets: Sequence[float], *labels: str) -> None:
        self._family = (name, text, labels)
        self._bounds = tuple(buckets)
        self._names = [*(str(float(bound)) for bound in self._bounds), "+Inf"]
        self._series: dict[tuple[str, ...], Series] = {}

    def observe(self, value: float, labels: tuple[str, ...] = ()) -> None:
        self.add(self._series.get(labels) or self.series(labels), value)

    def series(self, labels: tuple[str, ...]) -> Series:
        """For `add`, when the same labels recur. The series is exposed even without observations."""
        return self._series.setdefault(labels, Series(len(self._bounds) + 1))

    def add(self, series: Series, value: float) -> None:
        series.counts[bisect_left(self._bounds, value)] += 1
        series.sum += value

    def describe(self) -> Iterable[Metric]:
        return [self._metric()]

    def collect(self) -> Iterator[Metric]:
        series = list(self._series.items())
        return in_parts(self._metric, series, self._add, samples=len(self._names) + 2)

    def _add(self, metric: HistogramMetricFamily, row: tuple[tuple[str, ...], Series]) -> None:
        labels, series = row
        metric.add_metric(labels, list(zip(self._names, accumulate(series.counts), strict=True)), series.sum)

    def _metric(self) -> HistogramMetricFamily:
        name, text, labels = self._family
        return HistogramMetricFamily(name, text, labels=labels)
