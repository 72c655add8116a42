"""The status page of the proxy: what it says of each account, and that it is on `metrics_addr` and nowhere else."""

import html
import re

import pytest

from oauth_pool_proxy.observe.status_page import StatusPage
from oauth_pool_proxy.pool.account import Account
from oauth_pool_proxy.pool.pool import Pool
from tests.support.proxy_server import PoolFolder
from tests.support.upstream_server import UpstreamServer, json_answer
from tests.test_proxy.conftest import Start
from tests.test_proxy.pool.test_pool import entry

ALONE = "127.0.0.1:0"


def card(document: str, name: str) -> str:
    """The text of an account's card."""
    (found,) = re.findall(rf"<li class=\"(\w+)\"><h2>{name}</h2>(.*?)</li>", document)
    return f"{found[0]}: " + " ".join(html.unescape(re.sub(r"<[^>]+>", " ", found[1])).split())


async def test_it_shows_accounts_with_their_windows_and_what_to_do(
    upstream: UpstreamServer, start: Start, folder: PoolFolder
) -> None:
    folder.account("claude-1")
    folder.account("claude-2", status="LoginRequired")
    folder.account("claude-3", status="Suspended")
    unified = "anthropic-ratelimit-unified"
    upstream.answer_all(json_answer(b"{}", 200, (f"{unified}-5h-utilization", "0.28"), (f"{unified}-5h-reset", "1")))
    proxy = start(metrics_addr=ALONE, oauth=folder.oauth())
    await proxy.request("POST", "/v1/messages", "", b"{}")
    answer = await proxy.request("GET", "/", port=proxy.metrics_port)
    assert answer.status == 200
    assert answer.values(b"content-type") == [b"text/html; charset=utf-8"]
    assert answer.values(b"content-security-policy")[0].startswith(b"default-src 'none'")
    document = answer.body.decode()
    assert "3 accounts (1 in use, 1 needs a person, 1 switched off)" in document
    assert card(document, "claude-1").startswith(
        "well: Available in use 5h 28% requests/min - under way 0 token expires in"
    )
    waiting = "act: LoginRequired needs a person requests/min - under way 0"
    assert card(document, "claude-2").startswith(waiting)
    assert card(document, "claude-2").endswith("It needs a login. kubectl oauthaccount login claude-2")
    assert card(document, "claude-3").startswith("off: Suspended switched off")
    assert len(upstream.requests) == 1


async def test_on_the_traffic_port_the_path_is_the_upstreams(
    upstream: UpstreamServer, start: Start, folder: PoolFolder
) -> None:
    folder.account("claude-1")
    upstream.answer_all(json_answer(b'{"mine":true}'))
    for settings in ({"metrics_addr": ALONE}, {}):
        proxy = start(**settings, oauth=folder.oauth())
        assert (await proxy.request("GET", "/")).body == b'{"mine":true}'
    assert [request.target for request in upstream.requests] == [b"/", b"/"]


async def test_nothing_is_changed_and_no_secret_is_shown(start: Start, folder: PoolFolder) -> None:
    folder.account("claude-1")
    proxy = start(metrics_addr=ALONE, oauth=folder.oauth())
    for method in ("POST", "PUT", "DELETE"):
        assert (await proxy.request(method, "/", port=proxy.metrics_port)).status == 405
    document = (await proxy.request("GET", "/?reload=no", port=proxy.metrics_port)).body.decode()
    assert "http-equiv" not in document
    assert "token-" not in document.replace("token expires", "")


async def test_without_a_pool_there_are_figures_only(start: Start) -> None:
    proxy = start(metrics_addr=ALONE)
    document = (await proxy.request("GET", "/", port=proxy.metrics_port)).body.decode()
    assert "<h1>passthrough</h1>" in document and "No account is known." in document


@pytest.mark.parametrize("seconds", [0, 30])
def test_requests_per_minute_are_counted_from_one_look_to_another(seconds: int) -> None:
    one = Account(entry("claude-1"))
    pool = Pool()
    pool.accounts = (one,)
    status_page = StatusPage("anthropic", "1", pool)
    first = status_page.render([], 1000.0, reloads=True).decode()
    one.requests += 21
    second = status_page.render([], 1000.0 + seconds, reloads=True).decode()
    assert "<dt>requests/min</dt><dd>-</dd>" in first
    assert f"<dt>requests/min</dt><dd>{42 if seconds else '-'}</dd>" in second
