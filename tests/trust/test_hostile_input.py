"""A sample of hostile input; `make trust` throws a thousand times as much, guided by coverage."""

import pytest

from tests.support.control_plane import ControlPlane
from tests.support.stack import running_stack

from . import odd_objects
from .all_targets import TARGETS
from .hostile_input import SEED, check
from .targets import Broken, Target, must


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_bad_input_breaks_no_promise(target: Target) -> None:
    check(target, 60, is_short=True)


def test_what_is_accepted_is_lived_with(control_plane: ControlPlane) -> None:
    with running_stack(control_plane, with_proxy=False) as stack:
        outcome = odd_objects.make(stack, 40, SEED)
    assert (outcome.silent, outcome.is_well) == ([], True)
    assert 5 <= outcome.accepted <= 35  # both happen: it is not all refused, and the schema does its work


def test_a_broken_promise_is_found() -> None:
    target = Target("greedy", "", lambda data: must(b"NaN" not in data, "it has been seen"), (b'{"a":1}',))
    with pytest.raises(Broken):
        check(target, 2000, is_short=True)
