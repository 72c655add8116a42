"""The figures of one run: for each case and variant, and each figure of theirs, one value per round."""

import statistics
from collections.abc import Mapping, Sequence

Figures = dict[str, float]
"""What one measurement yields. Durations are milliseconds unless the name says otherwise, memory is MiB."""

Values = dict[str, dict[str, dict[str, list[float]]]]
"""Case → variant → figure → a value per round."""


class Results:
    """Medians are over rounds; nothing is None that was measured."""

    def __init__(self, values: Values | None = None) -> None:
        self.values: Values = values or {}

    def add(self, case: str, variant: str, figures: Figures) -> None:
        known = self.values.setdefault(case, {}).setdefault(variant, {})
        for name, value in figures.items():
            known.setdefault(name, []).append(value)

    def cases(self) -> list[str]:
        return list(self.values)

    def variants(self, case: str) -> Sequence[str]:
        return list(self.values.get(case, {}))

    def rounds(self, case: str, variant: str, figure: str) -> list[float]:
        return self.values.get(case, {}).get(variant, {}).get(figure, [])

    def median(self, case: str, variant: str, figure: str) -> float | None:
        values = self.rounds(case, variant, figure)
        return statistics.median(values) if values else None

    def ratio(self, case: str, variant: str, figure: str, base: str) -> float | None:
        """Of the medians: to what the same run measured for another variant."""
        value, to = self.median(case, variant, figure), self.median(case, base, figure)
        return None if value is None or not to else value / to

    def over(self, case: str, variant: str, figure: str, base: str) -> list[float]:
        """What each round has more than the other variant's of the same round."""
        pairs = zip(self.rounds(case, variant, figure), self.rounds(case, base, figure), strict=False)
        return [value - other for value, other in pairs]

    def all_of(self, figure: str) -> list[float]:
        """Of every case, variant and round."""
        return [
            value
            for variants in self.values.values()
            for figures in variants.values()
            for value in figures.get(figure, [])
        ]

    def failures(self) -> Mapping[tuple[str, str], float]:
        """Requests and streams that failed, by case and variant, where there are any."""
        sums = {
            (case, variant): sum(figures.get("failed", []))
            for case, variants in self.values.items()
            for variant, figures in variants.items()
        }
        return {where: count for where, count in sums.items() if count}
