"""Who may do what to a pool, acted out; each name stands in docs/security.md."""

from collections.abc import Iterator

import pytest

from tests.support.control_plane import ControlPlane
from tests.support.stack import serve_accounts

from . import hostile_actors
from .hostile_stack import COLUMNS, HostileStack, Log, hostile_stack
from .program import Report

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def stack(control_plane_binaries: object) -> Iterator[HostileStack]:
    """On a control plane of its own: the admission policies would hold for the proxies of other tests, too."""
    with ControlPlane() as plane:
        serve_accounts(plane)
        with hostile_stack(plane) as stack:
            yield stack


def acted(stack: HostileStack, who: str, many: int) -> Report:
    report = Report(COLUMNS)
    hostile_actors.act(stack, who, report, many)
    assert not report.failures, "\n".join([*report.failures, report.table])
    return report


def test_a_client_gets_inference_or_nothing_and_the_others_do_not_notice(stack: HostileStack) -> None:
    assert len(acted(stack, "client", 200).rows) == 10


def test_a_proxy_that_was_taken_over_can_lie_about_accounts_and_nothing_else(stack: HostileStack) -> None:
    assert len(acted(stack, "proxy", 10).rows) == 9


def test_an_author_of_accounts_gets_nobody_s_token_and_no_other_endpoint(stack: HostileStack) -> None:
    assert len(acted(stack, "author", 10).rows) == 9


def test_what_should_not_have_come_of_it_is_a_failure(stack: HostileStack) -> None:
    report = Report(COLUMNS)
    Log("somebody", report).add("something", 1, "it worked", kept=False)
    assert report.failures == ["somebody: something: it worked"]
