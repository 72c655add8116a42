"""Counters and histograms for one event loop: plain numbers, made into metrics when somebody scrapes.

Those of prometheus_client take a lock for every number, which for the twenty numbers of a request costs more than all
of its headers do.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector


class CounterTally(Collector):
    def __init__(self, name: str, text: str, *labels: str) -> None:
        self._family = (name, text, labels)
        self._totals: dict[tuple[str, ...], float] = {}

    def add(self, labels: tuple[str, ...], amount: float = 1) -> None:
        self._totals[labels] = self._totals.get(labels, 0) + amount

    def describe(self) -> Iterable[Metric]:
        return [self._metric()]

    def collect(self) -> Iterator[Metric]:
        metric = self._metric()
        for labels, total in self._totals.items():
            metric.add_metric(labels, total)
        yield metric

    def _metric(self) -> CounterMetricFamily:
        name, text, labels = self._family
        return CounterMetricFamily(name, text, labels=labels)


class _Series:
    def __init__(self, buckets: int) -> None:
        self.counts = [0] * buckets
        self.sum = 0.0


class HistogramTally(Collector):
    def __init__(self, name: str, text: str, buckets: Sequence[float], *labels: str) -> None:
        self._family = (name, text, labels)
        self._bounds = tuple(buckets)
        self._series: dict[tuple[str, ...], _Series] = {}

    def observe(self, value: float, labels: tuple[str, ...] = ()) -> None:
        series = self._series.get(labels)
        if series is None:
            series = self._series[labels] = _Series(len(self._bounds) + 1)
        series.counts[bisect_left(self._bounds, value)] += 1
        series.sum += value

    def describe(self) -> Iterable[Metric]:
        return [self._metric()]

    def collect(self) -> Iterator[Metric]:
        metric = self._metric()
        names = [*(str(float(bound)) for bound in self._bounds), "+Inf"]
        for labels, series in self._series.items():
            metric.add_metric(labels, list(zip(names, accumulate(series.counts), strict=True)), series.sum)
        yield metric

    def _metric(self) -> HistogramMetricFamily:
        name, text, labels = self._family
        return HistogramMetricFamily(name, text, labels=labels)
