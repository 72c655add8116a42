"""The last line of a run says which tests were not run, why, and how to have them run: no skip goes unnoticed.

With ALL_TESTS in the environment, as in CI, such a run has failed. That holds for every skip, whoever made it.
"""

import os
from collections import defaultdict
from collections.abc import Generator, Iterable

import pytest

ALL_TESTS = "ALL_TESTS"

Report = pytest.TestReport | pytest.CollectReport


@pytest.hookimpl(wrapper=True, tryfirst=True)  # outside of the terminal's own hook: after the line that it ends with
def pytest_sessionfinish(session: pytest.Session) -> Generator[None, None, None]:
    yield
    terminal = session.config.pluginmanager.get_plugin("terminalreporter")
    if terminal is None or not terminal.stats.get("skipped"):  # xdist's workers have none
        return
    line = what_was_left_out(terminal.stats["skipped"])
    if all_are_wanted():
        line = f"FAILED, since {ALL_TESTS} is set: {line}"
        session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED
    terminal.write_line(line)


def all_are_wanted() -> bool:
    return os.environ.get(ALL_TESTS, "") not in ("", "0")


def what_was_left_out(skipped: Iterable[Report]) -> str:
    """`Not run: <reason>: <tests>; <reason>: <tests>`. Of several tests in a file it names the file and their number."""
    tests: defaultdict[str, defaultdict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for report in skipped:
        tests[_reason(report)][report.nodeid.partition("::")[0]].append(report.nodeid)
    return "Not run: " + "; ".join(f"{reason}: {_named(files)}" for reason, files in sorted(tests.items()))


def _named(files: dict[str, list[str]]) -> str:
    return ", ".join(ids[0] if len(ids) == 1 else f"{file} ({len(ids)} tests)" for file, ids in sorted(files.items()))


def _reason(report: Report) -> str:
    where_and_why = report.longrepr
    why = where_and_why[2] if isinstance(where_and_why, tuple) else str(where_and_why)
    return why.removeprefix("Skipped: ")
