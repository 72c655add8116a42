"""Which requests reach an account at all: by path, and by the web page that asks."""

import pytest

from tests.support.proxy_server import PoolFolder, RunningProxy
from tests.support.upstream_server import UpstreamServer, json_answer
from tests.test_proxy.conftest import Start

PAGE = "https://app.example.com"


@pytest.fixture
def pool(upstream: UpstreamServer, start: Start, folder: PoolFolder) -> RunningProxy:
    folder.account("a")
    upstream.answer_all(json_answer(b"good", 200, ("access-control-allow-origin", "*")))
    return start(oauth=folder.oauth())


@pytest.mark.parametrize(
    "target",
    [
        "/v1/organizations/me",
        "/v1/organizations",
        "/v1/organizations?x=1",
        "/api/oauth/claude_cli/create_api_key",
        "/v1//organizations/me",
        "//v1/organizations/me",
        "/v1/./organizations/me",
        "/v1/messages/../organizations/me",
        "/v1/messages/%2e%2e/organizations/me",
        "/v1/%6frganizations/me",
        "/v1/%256frganizations/me",
        "/v1%2Forganizations%2Fme",
        "/v1/organizations;x/me",
        "/v1/Organizations/me",
        "/v1\\organizations\\me",
        "/./api/x",
    ],
)
async def test_paths_that_make_keys_or_read_profiles_are_not_forwarded_however_they_are_written(
    upstream: UpstreamServer, pool: RunningProxy, target: str
) -> None:
    answer = await pool.request("GET", target)
    assert (answer.status, answer.json()["error"]["type"]) == (404, "not_found_error")  # type: ignore[index]
    assert upstream.requests == []


@pytest.mark.parametrize(
    "target", ["/v1/messages", "/v1/organizationsx", "/v2/organizations/", "/apix", "/", "/v1/files/a%2Fb?x=/api/"]
)
async def test_every_other_path_is_forwarded_as_it_is(
    upstream: UpstreamServer, pool: RunningProxy, target: str
) -> None:
    assert (await pool.request("GET", target)).body == b"good"
    assert upstream.requests[0].target == target.encode()


@pytest.mark.parametrize(
    ("target", "is_allowed"),
    [
        ("/v1/messages", True),
        ("/v1/models?limit=1000", True),
        ("/v1", True),
        ("/v2/messages", False),
        ("/v1/../v2/messages", False),
        ("/v1/%2e%2e/v2", False),
        ("/v1/organizations/", False),
        ("/", False),
    ],
)
async def test_allowed_paths_narrow_what_is_forwarded(
    upstream: UpstreamServer, start: Start, folder: PoolFolder, target: str, is_allowed: bool
) -> None:
    folder.account("a")
    upstream.answer_all(json_answer(b"good"))
    answer = await start(oauth=folder.oauth(allowed_paths=["/v1/"])).request("GET", target)
    assert answer.status == (200 if is_allowed else 404)
    assert len(upstream.requests) == is_allowed


async def test_passthrough_forwards_every_path_and_every_page(upstream: UpstreamServer, start: Start) -> None:
    upstream.answer_all(json_answer(b"good", 200, ("access-control-allow-origin", "*")))
    answer = await start().request("GET", "/v1/organizations/me", f"origin: {PAGE}\r\n")
    assert (answer.status, answer.values(b"access-control-allow-origin")) == (200, [b"*"])
    assert upstream.requests[0].values(b"origin") == [PAGE.encode()]


@pytest.mark.parametrize(
    "headers",
    [
        f"origin: {PAGE}\r\n",
        "origin: null\r\n",
        "origin: \r\n",
        f"origin: {PAGE}\r\norigin: {PAGE}\r\n",
    ],
    ids=["a page", "null", "empty", "two"],
)
@pytest.mark.parametrize("method", ["POST", "OPTIONS", "GET"])
async def test_a_web_page_gets_nothing_of_the_pool(
    upstream: UpstreamServer, pool: RunningProxy, method: str, headers: str
) -> None:
    answer = await pool.request(method, "/v1/messages", headers)
    assert (answer.status, answer.json()["error"]["type"]) == (403, "permission_error")  # type: ignore[index]
    assert answer.values(b"access-control-allow-origin") == []
    assert upstream.requests == []


async def test_node_s_fetch_is_not_a_browser(upstream: UpstreamServer, pool: RunningProxy) -> None:
    answer = await pool.request("POST", "/v1/messages", "sec-fetch-mode: cors\r\n", b"{}")
    assert answer.body == b"good"
    assert answer.values(b"access-control-allow-origin") == []  # the upstream's is not ours to give


async def test_an_allowed_page_is_answered_as_browsers_expect_and_its_origin_goes_no_further(
    upstream: UpstreamServer, start: Start, folder: PoolFolder
) -> None:
    folder.account("a")
    upstream.answer_all(json_answer(b"good", 200, ("access-control-allow-origin", "*")))
    proxy = start(oauth=folder.oauth(allowed_origins=[PAGE]))
    wanted = "access-control-request-method: POST\r\naccess-control-request-headers: content-type,x-a\r\n"
    preflight = await proxy.request("OPTIONS", "/v1/messages", f"origin: {PAGE}\r\n{wanted}")
    assert preflight.status == 204
    assert preflight.values(b"access-control-allow-origin") == [PAGE.encode()]
    assert preflight.values(b"access-control-allow-headers") == [b"content-type,x-a"]
    assert b"POST" in preflight.values(b"access-control-allow-methods")[0]
    assert preflight.values(b"vary") == [b"origin"]
    assert upstream.requests == []

    answer = await proxy.request("POST", "/v1/messages", f"origin: {PAGE}\r\nreferer: {PAGE}/x\r\n", b"{}")
    assert (answer.body, answer.values(b"access-control-allow-origin")) == (b"good", [PAGE.encode()])
    (request,) = upstream.requests
    assert request.values(b"origin") == request.values(b"referer") == []

    error = await proxy.request("GET", "/api/x", f"origin: {PAGE}\r\n")
    assert (error.status, error.values(b"access-control-allow-origin")) == (404, [PAGE.encode()])
    assert (await proxy.request("GET", "/", "origin: https://other.example.com\r\n")).status == 403
