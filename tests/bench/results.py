"""The figures of one run: for each case and variant, and each figure of theirs, one value per round."""

import statistics

from tests.bench.load_program import Figures


class Results:
    def __init__(self) -> None:
        self.values: dict[str, dict[str, dict[str, list[float]]]] = {}

    def add(self, case: str, variant: str, figures: Figures) -> None:
        known = self.values.setdefault(case, {}).setdefault(variant, {})
        for name, value in figures.items():
            known.setdefault(name, []).append(value)

    def variants(self, case: str) -> list[str]:
        return list(self.values.get(case, {}))

    def rounds(self, case: str, variant: str, figure: str) -> list[float]:
        return self.values.get(case, {}).get(variant, {}).get(figure, [])

    def median(self, case: str, variant: str, figure: str) -> float | None:
        """None for what was not measured."""
        values = self.rounds(case, variant, figure)
        return statistics.median(values) if values else None

    def ratio(self, case: str, variant: str, figure: str, base: str) -> float | None:
        """Of the medians."""
        value, to = self.median(case, variant, figure), self.median(case, base, figure)
        return None if value is None or not to else value / to
