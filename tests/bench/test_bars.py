"""Bars are judged by what the run measured, and by nothing else."""

import pytest

from tests.bench.bars import bars
from tests.bench.figures import Figures, Results
from tests.bench.report import bar_table


def results(case: str, **variants: list[Figures]) -> Results:
    """With a list of rounds for each variant."""
    made = Results()
    for variant, rounds in variants.items():
        for figures in rounds:
            made.add(case, variant, figures)
    return made


def verdict(of: Results, case: str, what: str) -> bool | None:
    [bar] = [bar for bar in bars() if (bar.case, bar.what) == (case, what)]
    return bar.is_reached(of)


@pytest.mark.parametrize(("pool", "is_reached"), [(22, True), (21.9, False)])
def test_a_ratio_is_to_what_the_same_run_measured(pool: float, is_reached: bool) -> None:
    run = results("json", nginx=[{"per_second": 100}], pool=[{"per_second": pool}])
    assert verdict(run, "json", "requests/s, of nginx") is is_reached


def test_medians_are_compared() -> None:
    rounds: list[Figures] = [{"per_second": value} for value in (1, 30, 31)]
    run = results("json", nginx=[{"per_second": 100}] * 3, pool=rounds)
    assert verdict(run, "json", "requests/s, of nginx") is True


def test_what_is_over_direct_is_so_in_its_own_round() -> None:
    run = results(
        "latency",
        direct=[{"duration_p99": value} for value in (1, 9, 1)],
        pool=[{"duration_p99": value} for value in (1.9, 9.9, 1.9)],
    )
    assert verdict(run, "latency", "p99 over direct, ms") is True


def test_one_failure_in_one_round_is_too_many() -> None:
    run = results("sse-1000", pool=[{"failed": 0}, {"failed": 1}, {"failed": 0}])
    assert verdict(run, "sse-1000", "failed streams") is False


def test_what_was_not_measured_is_neither_reached_nor_missed() -> None:
    run = results("json", pool=[{"per_second": 100}])
    assert verdict(run, "json", "requests/s, of nginx") is None
    assert bar_table(run).count("not measured") == len(bars())
