"""What `python -m tests.trust` makes of a program's report."""

import pytest

from .__main__ import run_one
from .program import Program, Report, Say


def kept(short: bool, say: Say) -> Report:
    say(f"short: {short}")
    return Report(("what", "measured"), [("answers", 12)])


def broken(short: bool, say: Say) -> Report:
    return Report(("what", "measured"), [("answers", 3)], ["one answer was lost"])


def could_not(short: bool, say: Say) -> Report:
    raise OSError("no port was free")


@pytest.mark.parametrize(("run", "code"), [(kept, 0), (broken, 1), (could_not, 2)])
def test_the_exit_code_tells_a_broken_promise_from_a_program_that_did_not_run(
    run: object, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_one(Program("name", "It holds.", run), True) == code  # type: ignore[arg-type]
    out, err = capsys.readouterr()
    assert ("one answer was lost" in out) is (code == 1)
    assert ("no port was free" in err) is (code == 2)
    assert ("It holds." in out) is (code != 2)


def test_a_table_is_aligned_and_progress_is_kept_apart_from_it(capsys: pytest.CaptureFixture[str]) -> None:
    run_one(Program("name", "It holds.", kept), True)
    out, err = capsys.readouterr()
    assert out.startswith("what     measured\nanswers        12\n")
    assert "name: 0 s: short: True" in err
