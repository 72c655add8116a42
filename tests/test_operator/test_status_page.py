"""The operator's status page: what it says of objects, and the server that has it beside the metrics."""

import html
import re
from collections.abc import Iterator
from datetime import timedelta

import httpx2
import pytest
from prometheus_client import CollectorRegistry, Gauge

from oauth_pool_operator.account.facts import Facts
from oauth_pool_operator.account.spec import parse_account
from oauth_pool_operator.account.status import render_status
from oauth_pool_operator.status_page import MetricsServer, render
from tests.support.builders import NOW, account, credential, facts, report, session

URL = "https://provider.example/oauth/authorize?state=of-a-test"


def card(of: Facts, **status: object) -> str:
    """Of an account whose status is what the operator writes for these facts."""
    of_object = {
        "metadata": {"name": "claude-1", "namespace": "pool", "uid": "u", "generation": 1, "resourceVersion": "1"},
        "spec": {"provider": "anthropic", "grant": "AuthorizationCode"},
        "status": {**render_status(of, URL), **status},
    }
    document = render([parse_account(of_object)], [("at work", "yes")], NOW, reloads=True).decode()
    ((tone, inside),) = re.findall(r'<li class="(\w+)"><h2>claude-1</h2>(.*?)</li>', document)
    return f"{tone}: " + " ".join(html.unescape(re.sub(r"<[^>]+>", " ", inside)).split())


def test_an_account_that_works() -> None:
    shown = card(facts(credential=credential(expires_in=timedelta(hours=2))))
    assert shown == "well: Available in use provider anthropic grant AuthorizationCode token expires in 2h"


def test_one_that_waits_for_a_person_says_what_to_type_and_shows_no_link() -> None:
    waiting = facts(session=session())
    assert "authorizationURL" in str(render_status(waiting, URL))
    shown = card(waiting)
    assert shown.startswith("act: LoginRequired needs a person")
    assert shown.endswith("grant AuthorizationCode It needs a login. kubectl oauthaccount login claude-1")
    assert "://" not in shown


def test_one_that_cools_down_shows_windows_and_when_it_is_back() -> None:
    used_up = report(reason="QuotaExhausted", until=timedelta(hours=1))
    shown = card(facts(account(reports=(used_up,)), credential=credential()))
    assert shown.startswith("wait: CoolingDown recovers by itself")
    assert "back in 1h" in shown
    assert shown.endswith(" QuotaExhausted")


def test_requests_per_minute_are_the_sum_of_what_proxies_said_lately() -> None:
    lately, before = ((NOW - timedelta(minutes=ago)).isoformat() for ago in (1, 4))
    said = [
        {"reporter": "a", "observedTime": lately, "requestsPerMinute": 40},
        {"reporter": "b", "observedTime": lately, "requestsPerMinute": 2},
        {"reporter": "c", "observedTime": before, "requestsPerMinute": 1000},
    ]
    assert "requests/min 42 " in card(facts(credential=credential()), reports=said)


def test_an_object_that_nobody_has_looked_at_is_new() -> None:
    of_object = {
        "metadata": {"name": "a", "namespace": "n", "uid": "u"},
        "spec": {"provider": "p", "grant": "DeviceCode"},
    }
    assert ">New <" in render([parse_account(of_object)], [], NOW, reloads=True).decode()


@pytest.fixture
def server() -> Iterator[MetricsServer]:
    registry = CollectorRegistry()
    Gauge("of_a_test", "A gauge", registry=registry).set(7)
    server = MetricsServer("127.0.0.1", 0, registry)
    yield server
    server.close()


def test_the_page_is_at_the_root_and_the_metrics_are_everywhere_else(server: MetricsServer) -> None:
    server.render_page = lambda reloads: b"a page" if reloads else b"a page that stays"
    with httpx2.Client(base_url=f"http://127.0.0.1:{server.port}", trust_env=False) as client:
        page, still = client.get("/"), client.get("/?reload=no")
        assert (page.text, still.text) == ("a page", "a page that stays")
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert page.headers["content-security-policy"].startswith("default-src 'none'")
        assert "of_a_test 7.0" in client.get("/metrics").text
        assert "of_a_test 7.0" in client.get("/anything").text


def test_until_somebody_knows_the_accounts_the_metrics_are_there_alone(server: MetricsServer) -> None:
    assert "of_a_test 7.0" in httpx2.get(f"http://127.0.0.1:{server.port}/", trust_env=False).text
