"""Who is asking, on sockets: keys and logins, what each client may, and what nobody else gets to see."""

import asyncio
import hashlib
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.support.proxy_server import NOW, Clock, PoolFolder, RunningProxy, until
from tests.support.upstream_server import SSE_HEAD, RawRequest, UpstreamServer, json_answer
from tests.test_proxy.conftest import Start
from tests.test_proxy.observe.test_access_log import Printed, printed

__all__ = ["printed"]

ROOT = Path(__file__).parents[2]
ALONE = "127.0.0.1:0"
CI, LAPTOP, OLD, STRANGE = (f"oap_{name}-hush" for name in ("ci", "laptop", "old", "strange"))
MESSAGE = b'{"model":"claude-haiku","messages":[{"role":"user","content":"hello"}]}'


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


KEYS = [{"name": name, "sha256": digest(key)} for name, key in (("ci", CI), ("laptop", LAPTOP))]


Rule = dict[str, object]


def clients(*rules: Rule, **settings: object) -> dict[str, object]:
    return {"service_accounts": False, "keys": KEYS, "rules": list(rules), **settings}


def bearer(credential: str) -> str:
    return f"authorization: Bearer {credential}\r\n"


def api_key(credential: str) -> str:
    return f"x-api-key: {credential}\r\n"


def login(name: str) -> str:
    return f"tailscale-user-login: {name}\r\ntailscale-user-name: Ann\r\n"


async def ask(proxy: RunningProxy, headers: str = "", body: bytes = MESSAGE, **more: Any) -> Any:
    return await proxy.request("POST", more.pop("target", "/v1/messages"), headers, body, **more)


def error_of(answer: Any) -> tuple[int, str, str]:
    error = answer.json()["error"]
    return answer.status, error["type"], error["message"]


@pytest.fixture
def pool(upstream: UpstreamServer, folder: PoolFolder) -> PoolFolder:
    folder.account("gold-1", labels={"tier": "gold"})
    folder.account("plain-1")
    upstream.answer_all(json_answer(b'{"model":"m","usage":{"input_tokens":7,"output_tokens":2}}'))
    return folder


# Proofs


@pytest.mark.parametrize(
    "header", [bearer(CI), api_key(CI), f"Authorization: bearer   {CI} \r\n", api_key("x") + bearer(CI)]
)
async def test_a_key_proves_a_client_wherever_official_clients_can_put_it(
    upstream: UpstreamServer, start: Start, pool: PoolFolder, header: str
) -> None:
    proxy = start(oauth=pool.oauth(), clients=clients())
    assert (await ask(proxy, header)).status == 200
    (request,) = upstream.requests
    assert b"hush" not in request.head and len(request.values(b"authorization")) == 1


@pytest.mark.parametrize(
    "headers",
    [
        "",
        bearer(STRANGE),
        api_key(STRANGE),
        f"authorization: Basic {CI}\r\n",
        bearer(CI[:-1]),
        bearer(""),
        bearer(CI.upper()),
    ],
)
async def test_strangers_are_told_how_to_get_in_and_nothing_else_happens(
    upstream: UpstreamServer, start: Start, pool: PoolFolder, headers: str
) -> None:
    proxy = start(oauth=pool.oauth(), clients=clients(tailscale_listen_addr=ALONE))
    answer = await ask(proxy, headers)
    status, kind, message = error_of(answer)
    assert (status, kind) == (401, "authentication_error")
    assert "`Authorization: Bearer …` or as `x-api-key`" in message and "on the tailnet" in message
    assert answer.values(b"www-authenticate") == [b'Bearer realm="oauth-pool"']
    assert answer.values(b"request-id") == [str(answer.json()["request_id"]).encode()]
    assert upstream.requests == [] and upstream.connections == []


async def test_a_refused_client_can_go_on_with_the_same_connection(start: Start, pool: PoolFolder) -> None:
    proxy = start(oauth=pool.oauth(), clients=clients())
    async with proxy.connect() as client:
        for headers, status in ((bearer(STRANGE), 401), (bearer(CI), 200), ("", 401), (api_key(LAPTOP), 200)):
            await client.request("POST", "/v1/messages", headers, MESSAGE * 10)
            assert (await client.answer()).status == status


async def test_a_body_of_a_stranger_is_not_waited_for(start: Start, pool: PoolFolder) -> None:
    proxy = start(oauth=pool.oauth(), clients=clients())
    async with proxy.connect() as client:
        await client.send(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5000000\r\nexpect: 100-continue\r\n\r\n")
        assert (await client.answer()).status == 401


async def test_a_key_ends_when_it_says_so(start: Start, pool: PoolFolder, clock: Clock) -> None:
    keys = [{"name": "old", "sha256": digest(OLD), "expires": datetime.fromtimestamp(NOW + 60, UTC)}]
    proxy = start(oauth=pool.oauth(), clients=clients(keys=keys))
    assert (await ask(proxy, bearer(OLD))).status == 200
    clock.advance(60)
    assert error_of(await ask(proxy, bearer(OLD)))[::2] == (401, "The key old has expired")


async def test_where_proof_is_not_required_strangers_are_served_and_the_others_are_named(
    start: Start, pool: PoolFolder, printed: Printed
) -> None:
    proxy = start(oauth=pool.oauth(), clients=clients(require=False))
    for headers in ("", bearer(STRANGE), bearer(CI)):
        assert (await ask(proxy, headers)).status == 200
    assert [(await printed.line()).get("client") for _ in range(3)] == [None, None, "key:ci"]


async def test_a_login_is_believed_on_the_listener_of_the_tailscale_proxy_and_nowhere_else(
    upstream: UpstreamServer, start: Start, pool: PoolFolder, printed: Printed
) -> None:
    proxy = start(oauth=pool.oauth(), clients=clients(tailscale_listen_addr=ALONE))
    ann = login("ann@example.com")
    assert (await ask(proxy, ann, port=proxy.tailnet_port)).status == 200
    assert (await printed.line())["client"] == "tailscale:ann@example.com"
    assert (await ask(proxy, ann)).status == 401  # smuggled
    assert (await ask(proxy, ann + bearer(CI))).status == 200  # a proof, and a header that proves nothing
    assert [(await printed.line()).get("client") for _ in range(2)] == [None, "key:ci"]
    assert (
        await ask(proxy, ann + bearer(CI), port=proxy.tailnet_port)
    ).status == 200  # what was given on purpose counts
    assert (await printed.line())["client"] == "key:ci"
    assert (await ask(proxy, ann + bearer(STRANGE), port=proxy.tailnet_port)).status == 200
    assert (await printed.line())["client"] == "tailscale:ann@example.com"
    assert not any(b"tailscale" in request.head.lower() for request in upstream.requests)


@pytest.mark.parametrize(
    "headers",
    [
        "",
        login("a") + login("b"),
        login(""),
        login("a b"),
        login("é"),
        login("x" * 300),
        "tailscale-user-name: Ann\r\n",
    ],
)
async def test_what_is_no_login_names_nobody(start: Start, pool: PoolFolder, headers: str) -> None:
    proxy = start(oauth=pool.oauth(), clients=clients(tailscale_listen_addr=ALONE))
    assert (await ask(proxy, headers, port=proxy.tailnet_port)).status == 401


async def test_the_listener_of_the_tailscale_proxy_ends_with_the_other(start: Start, pool: PoolFolder) -> None:
    proxy = start(oauth=pool.oauth(), clients=clients(tailscale_listen_addr=ALONE))
    assert (await proxy.request("GET", "/ready", port=proxy.tailnet_port)).status == 200
    await asyncio.to_thread(proxy.stop)
    with pytest.raises(ConnectionError):
        await proxy.request("GET", "/ready", port=proxy.tailnet_port)


# What goes upstream in passthrough mode


@pytest.mark.parametrize(
    ("headers", "passes"),
    [
        (bearer(CI) + api_key("sk-of-the-client"), {b"x-api-key": b"sk-of-the-client"}),
        (api_key(CI) + bearer("token-of-the-client"), {b"authorization": b"Bearer token-of-the-client"}),
        (bearer(CI) + api_key(STRANGE), {}),
        (bearer(CI) + api_key(LAPTOP), {}),
        (bearer(CI) + login("ann@example.com"), {}),
    ],
)
async def test_what_proves_a_client_is_taken_off_and_its_own_credential_passes(
    upstream: UpstreamServer, start: Start, headers: str, passes: dict[bytes, bytes]
) -> None:
    upstream.answer_all(json_answer())
    proxy = start(clients=clients())
    assert (await ask(proxy, headers)).status == 200
    (request,) = upstream.requests
    assert {name: value for name, value in request.headers if name in (b"authorization", b"x-api-key")} == passes
    assert b"hush" not in request.head and b"tailscale" not in request.head


async def test_of_a_stranger_nothing_passes_that_was_meant_as_a_proof(upstream: UpstreamServer, start: Start) -> None:
    upstream.answer_all(json_answer())
    proxy = start(clients=clients(require=False))
    await ask(proxy, bearer("token-of-the-client") + api_key(STRANGE))
    await ask(proxy, bearer(STRANGE) + api_key("sk-of-the-client"))
    first, second = upstream.requests
    assert first.values(b"authorization") == [b"Bearer token-of-the-client"] and not first.values(b"x-api-key")
    assert second.values(b"x-api-key") == [b"sk-of-the-client"] and not second.values(b"authorization")


# Rules


async def test_the_first_rule_that_matches_says_what_a_client_may(
    upstream: UpstreamServer, start: Start, pool: PoolFolder
) -> None:
    rules: tuple[Rule, ...] = (
        {"match": ["key:ci"], "models": ["*-haiku"], "paths": ["/v1/messages"]},
        {"match": ["*"], "deny": True},
    )
    proxy = start(oauth=pool.oauth(), clients=clients(*rules))
    assert (await ask(proxy, bearer(CI))).status == 200
    assert error_of(await ask(proxy, bearer(CI), MESSAGE.replace(b"haiku", b"opus")))[:2] == (403, "permission_error")
    assert error_of(await ask(proxy, bearer(CI), b"not JSON"))[:2] == (403, "permission_error")
    assert error_of(await ask(proxy, bearer(CI), target="/v1/models"))[:2] == (403, "permission_error")
    assert error_of(await ask(proxy, bearer(CI), target="/v1/messages/../models"))[:2] == (403, "permission_error")
    assert error_of(await ask(proxy, bearer(LAPTOP)))[::2] == (
        403,
        "A rule of the proxy's configuration keeps this client out",
    )
    assert len(upstream.requests) == 1 and proxy.waiting == 0


async def test_paths_that_nobody_may_ask_for_are_kept_from_strangers_as_well(start: Start, pool: PoolFolder) -> None:
    proxy = start(oauth=pool.oauth(), clients=clients())
    assert (await ask(proxy, target="/v1/organizations/me")).status == 401
    assert (await ask(proxy, bearer(CI), target="/v1/organizations/me")).status == 404


async def test_a_web_page_s_preflight_request_brings_no_proof_and_needs_none(
    upstream: UpstreamServer, start: Start, pool: PoolFolder
) -> None:
    proxy = start(oauth=pool.oauth(allowed_origins=["https://app.example"]), clients=clients())
    origin = "origin: https://app.example\r\n"
    preflight = await proxy.request("OPTIONS", "/v1/messages", f"{origin}access-control-request-method: POST\r\n")
    assert preflight.status == 204
    refused = await ask(proxy, origin)
    assert (refused.status, refused.values(b"access-control-allow-origin")) == (401, [b"https://app.example"])
    assert upstream.requests == []


@contextmanager
def held(upstream: UpstreamServer) -> Iterator[None]:
    """Answers begin and do not end."""
    upstream.answer_all(SSE_HEAD + b"10\r\n")
    yield


async def test_at_most_so_many_requests_of_each_client_are_under_way(
    upstream: UpstreamServer, start: Start, pool: PoolFolder
) -> None:
    proxy = start(oauth=pool.oauth(), clients=clients({"match": ["key:*"], "max_concurrent_requests": 1}))
    with held(upstream):
        async with AsyncExitStack() as stack:
            for number, key in enumerate((CI, LAPTOP), 1):
                client = await stack.enter_async_context(proxy.connect())
                await client.request("POST", "/v1/messages", bearer(key), MESSAGE)
                await until(lambda number=number: len(upstream.requests) == number, "the request upstream")  # type: ignore[misc]
                refused = await ask(proxy, bearer(key))
                assert error_of(refused)[:2] == (429, "rate_limit_error")
                assert refused.values(b"retry-after") == [b"1"]
    await until(lambda: proxy.app.service.in_flight == 0, "both clients have left")
    upstream.answer_all(json_answer())
    assert (await ask(proxy, bearer(CI))).status == 200


async def test_at_most_so_many_requests_come_from_each_client_in_a_minute(
    upstream: UpstreamServer, start: Start, pool: PoolFolder, printed: Printed
) -> None:
    proxy = start(oauth=pool.oauth(), clients=clients({"match": ["key:*"], "requests_per_minute": 2}))
    assert [(await ask(proxy, bearer(CI))).status for _ in range(2)] == [200, 200]
    refused = await ask(proxy, bearer(CI))
    assert error_of(refused)[::2] == (429, "This client has asked as often as it may: 2 requests a minute")
    assert 1 <= int(refused.values(b"retry-after")[0]) <= 30
    assert (await ask(proxy, bearer(LAPTOP))).status == 200
    assert len(upstream.requests) == 3
    lines = [await printed.line() for _ in range(4)]
    assert [(line["client"], line["outcome"], line["verdict"]) for line in lines[2:]] == [
        ("key:ci", "client_limited", "limit"),
        ("key:laptop", "ok", "ok"),
    ]


async def test_a_client_gets_the_accounts_that_its_rule_selects_and_no_other(
    upstream: UpstreamServer, start: Start, pool: PoolFolder
) -> None:
    rules: tuple[Rule, ...] = (
        {"match": ["key:ci"], "accounts": "tier=gold"},
        {"match": ["key:laptop"], "accounts": "tier=silver"},
    )
    proxy = start(oauth=pool.oauth(), clients=clients(*rules, require=False))
    tokens = set()
    for number in range(6):
        body = MESSAGE.replace(b"hello", b"%d" % (number // 2))  # with and without a conversation that is known already
        assert (await ask(proxy, bearer(CI), body)).status == 200
        tokens.add(upstream.requests[-1].values(b"authorization")[0])
    assert tokens == {b"Bearer access-token-of-gold-1-1"}
    assert error_of(await ask(proxy, bearer(LAPTOP)))[::2] == (
        503,
        "No account of the pool is for this client: none has the labels tier=silver",
    )
    for _ in range(2):
        await proxy.request("GET", "/v1/models")
    assert {request.values(b"authorization")[0] for request in upstream.requests[-2:]} > tokens
    pool.write_entry("gold-1", labels={"tier": "gold"}, status="Suspended")
    await until(lambda: proxy.app.pool and proxy.app.pool.counts(NOW)["accounts_disabled"] == 1, "the index is read")
    assert error_of(await ask(proxy, bearer(CI)))[0] == 503


async def test_a_file_in_an_account_that_is_not_for_a_client_is_none_of_its_business(
    upstream: UpstreamServer, start: Start, folder: PoolFolder
) -> None:
    folder.account("gold-1", labels={"tier": "gold"})
    folder.account("plain-1")

    def answer(request: RawRequest) -> bytes:
        if request.line.startswith(b"POST"):
            return json_answer(b'{"id":"file_1"}')
        is_owner = request.values(b"authorization") == [b"Bearer access-token-of-plain-1-1"]
        return json_answer(b"{}", 200 if is_owner else 404)

    upstream.answer_all(answer)
    rules: tuple[Rule, ...] = (
        {"match": ["key:ci"], "accounts": "tier=gold"},
        {"match": ["key:laptop"], "accounts": "!tier"},
    )
    proxy = start(oauth=folder.oauth(), clients=clients(*rules))
    assert (await ask(proxy, bearer(LAPTOP), target="/v1/files")).status == 200
    assert (await proxy.request("GET", "/v1/files/file_1", bearer(LAPTOP))).status == 200
    assert (await proxy.request("GET", "/v1/files/file_1", bearer(CI))).status == 404


# The line


async def test_one_request_of_one_client_does_not_wait_for_five_hundred_of_another(
    upstream: UpstreamServer, start: Start
) -> None:
    proxy = start(max_connections=1, clients=clients())
    async with AsyncExitStack() as stack:

        async def waiting(target: str, key: str) -> None:
            client = await stack.enter_async_context(proxy.connect())
            await client.request("GET", target, bearer(key))

        await waiting("/many", CI)
        first = await upstream.accept()
        await first.request()
        for number in range(500):
            await waiting(f"/many/{number}", CI)
        await until(lambda: proxy.waiting == 500, "five hundred wait")
        await waiting("/one", LAPTOP)
        await until(lambda: proxy.waiting == 501, "one more waits")
        upstream.answer_all(json_answer(b"{}", 200, ("connection", "close")))
        await first.send(json_answer(b"{}", 200, ("connection", "close")))
        await until(lambda: proxy.waiting == 0, "all have had their turn")
        await until(lambda: len(upstream.requests) == 501, "the last one has been answered")
    targets = [request.target for request in upstream.requests]
    assert b"/one" in targets[:2]
    of_many = [target for target in targets if target != b"/one"]
    assert of_many == sorted(of_many, key=lambda target: int(target.rpartition(b"/")[2]))


async def test_a_higher_priority_is_served_first(upstream: UpstreamServer, start: Start) -> None:
    proxy = start(max_connections=1, clients=clients({"match": ["key:laptop"], "priority": 1}))
    async with AsyncExitStack() as stack:
        for number, (target, key) in enumerate(
            [("/first", CI), ("/low", CI), ("/low", CI), ("/high", LAPTOP), ("/high", LAPTOP)]
        ):
            client = await stack.enter_async_context(proxy.connect())
            await client.request("GET", target, bearer(key))
            if number == 0:
                first = await upstream.accept()
                await first.request()
            else:
                await until(lambda number=number: proxy.waiting == number, "one more waits")  # type: ignore[misc]
        upstream.answer_all(json_answer(b"{}", 200, ("connection", "close")))
        await first.send(json_answer(b"{}", 200, ("connection", "close")))
        await until(lambda: len(upstream.requests) == 4, "all have had their turn")
    assert [request.target for request in upstream.requests] == [b"/high", b"/high", b"/low", b"/low"]


# What is told, and to whom


async def test_each_client_is_named_in_the_log_and_in_metrics(start: Start, pool: PoolFolder, printed: Printed) -> None:
    proxy = start(oauth=pool.oauth(), metrics_addr=ALONE, clients=clients({"match": ["key:laptop"], "deny": True}))
    for headers in (bearer(CI), bearer(CI), bearer(LAPTOP), bearer(STRANGE)):
        await ask(proxy, headers)
    lines = [await printed.line() for _ in range(4)]
    assert [(line.get("client"), line["outcome"], line["verdict"]) for line in lines] == [
        ("key:ci", "ok", "ok"),
        ("key:ci", "ok", "ok"),
        ("key:laptop", "not_permitted", "request"),
        (None, "not_identified", "request"),
    ]
    metrics = await proxy.metrics()
    assert metrics['proxy_client_requests_total{client="key:ci",status="200"}'] == 2
    assert metrics['proxy_client_requests_total{client="key:laptop",status="403"}'] == 1
    assert metrics['proxy_client_requests_total{client="stranger",status="401"}'] == 1
    assert metrics['proxy_client_request_duration_seconds_count{client="key:ci"}'] == 2
    of_ci = {
        name: value
        for name, value in metrics.items()
        if name.startswith("pool_tokens_total") and 'client="key:ci"' in name
    }
    assert sum(value for name, value in of_ci.items() if 'type="input"' in name) == 14
    assert metrics['proxy_upstream_errors_total{error_type="invalid_request"}'] == 0
    assert "hush" not in printed.rest() + str(lines) + str(metrics)


async def test_names_in_metrics_are_bounded(start: Start, pool: PoolFolder) -> None:
    proxy = start(oauth=pool.oauth(), metrics_addr=ALONE, clients=clients(tailscale_listen_addr=ALONE, most_names=2))
    for name in ("a", "b", "c", "d", "a"):
        assert (await ask(proxy, login(name), port=proxy.tailnet_port)).status == 200
    metrics = await proxy.metrics()
    requests = {name: value for name, value in metrics.items() if name.startswith("proxy_client_requests_total")}
    assert {name.split('"')[1]: value for name, value in requests.items()} == {
        "tailscale:a": 2,
        "tailscale:b": 1,
        "other": 2,
    }


async def test_the_time_in_line_is_told_of_each_client(upstream: UpstreamServer, start: Start) -> None:
    proxy = start(max_connections=1, metrics_addr=ALONE, clients=clients())
    async with proxy.connect() as one, proxy.connect() as other:
        await one.request("GET", "/", bearer(CI))
        connection = await upstream.accept()
        await connection.request()
        await other.request("GET", "/", bearer(LAPTOP))
        await until(lambda: proxy.waiting == 1, "the other waits")
        upstream.answer_all(json_answer())
        await connection.send(json_answer(b"{}", 200, ("connection", "close")))
        await other.answer()
    metrics = await proxy.metrics()
    counts = {
        name: value for name, value in metrics.items() if name.startswith("proxy_client_queue_wait_seconds_count")
    }
    assert counts == {'proxy_client_queue_wait_seconds_count{client="key:laptop"}': 1}


@pytest.mark.parametrize("metrics_addr", [ALONE, None])
async def test_the_traffic_port_tells_nothing_to_strangers(
    start: Start, pool: PoolFolder, metrics_addr: str | None
) -> None:
    settings = {"metrics_addr": metrics_addr} if metrics_addr else {}
    proxy = start(oauth=pool.oauth(), clients=clients(tailscale_listen_addr=ALONE), **settings)
    for port in (proxy.port, proxy.tailnet_port):
        health, ready, metrics = [
            await proxy.request("GET", path, port=port) for path in ("/health", "/ready", "/metrics")
        ]
        assert (health.json(), ready.status, metrics.status) == ({"status": "healthy"}, 200, 404)
    if metrics_addr:
        assert b'"gold-1"' in (await proxy.request("GET", "/health", port=proxy.metrics_port)).body


async def test_without_the_table_nothing_changes(start: Start, pool: PoolFolder) -> None:
    proxy = start(oauth=pool.oauth())
    assert (await ask(proxy, bearer(STRANGE) + login("ann@example.com"))).status == 200
    metrics = await proxy.metrics()
    assert not any("client=" in name or name.startswith("proxy_client_re") for name in metrics)


IMPORTED = """
import sys
from tests.support.proxy_server import proxy_config, running_proxy
with running_proxy(proxy_config("http://127.0.0.1:1", **{settings!r})):
    names = {{".".join(name.split(".")[:3]) for name in sys.modules}}
print(*sorted(names & {{"joserfc", "cryptography", "oauth_pool_proxy.downstream.identity"}}))
"""


@pytest.mark.parametrize(
    ("settings", "imported"),
    [({}, ""), ({"clients": clients()}, "oauth_pool_proxy.downstream.identity")],
    ids=["off", "keys only"],
)
def test_what_is_not_used_is_not_imported(settings: dict[str, object], imported: str) -> None:
    code = IMPORTED.format(settings=settings)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == imported
