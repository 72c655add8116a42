"""Which headers cross the proxy. What the wire looks like in the end is in test_forwarding and test_failover."""

import pytest

from oauth_pool_proxy.upstream import headers as module
from oauth_pool_proxy.upstream.headers import HeaderContract, Headers


def request_headers(client: Headers, contract: HeaderContract) -> Headers:
    return module.request_headers(client, dict(client), contract)


def response_headers(upstream: Headers, contract: HeaderContract, *, status: int) -> Headers:
    return module.response_headers(upstream, dict(upstream), contract, status=status)


@pytest.mark.parametrize(
    ("client", "configured", "merged"),
    [
        ([], (b"o",), b"o"),
        ([b"a"], (b"o",), b"a,o"),
        ([b"a, o ,b"], (b"o",), b"a,o,b"),
        ([b"a", b"b,a"], (b"o", b"p"), b"a,b,o,p"),
        ([b",, a,"], (b"o",), b"a,o"),
        ([b""], (b"o",), b"o"),
    ],
)
def test_beta_values_are_merged_client_first_each_once(
    client: list[bytes], configured: tuple[bytes, ...], merged: bytes
) -> None:
    headers = [(b"anthropic-beta", value) for value in client]
    assert request_headers(headers, HeaderContract(beta=configured)) == [(b"anthropic-beta", merged)]


def test_without_a_configured_beta_the_client_s_lines_stay_as_they_are() -> None:
    headers = [(b"anthropic-beta", b"a , b"), (b"anthropic-beta", b"a")]
    assert request_headers(headers, HeaderContract()) == headers


def test_a_header_that_connection_names_does_not_hide_what_we_set() -> None:
    contract = HeaderContract(configured=((b"x-a", b"ours"),), version=b"v", is_pool=True)
    client = [(b"connection", b"X-A, anthropic-version, close"), (b"x-a", b"theirs"), (b"anthropic-version", b"theirs")]
    assert request_headers(client, contract) == [(b"x-a", b"ours"), (b"anthropic-version", b"v")]


def test_a_configured_header_may_have_several_lines() -> None:
    contract = HeaderContract(configured=((b"x", b"1"), (b"x", b"2")))
    assert request_headers([(b"x", b"0")], contract) == [(b"x", b"1"), (b"x", b"2")]


@pytest.mark.parametrize(("status", "kept"), [(200, True), (204, False), (304, False)])
def test_a_length_passes_where_there_is_a_body(status: int, kept: bool) -> None:
    headers: Headers = [(b"content-length", b"5"), (b"etag", b"x")]
    passed = response_headers(headers, HeaderContract(), status=status)
    assert ((b"content-length", b"5") in passed, (b"etag", b"x") in passed) == (kept, True)


POOL = HeaderContract(is_pool=True)


@pytest.mark.parametrize(
    "name",
    [
        "tailscale-user-login",
        "tailscale-user-name",
        "tailscale-anything-new",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-user",
        "forwarded",
        "via",
        "x-real-ip",
        "origin",
        "referer",
        "authorization",
        "x-api-key",
        "cookie",
    ],
)
def test_in_pool_mode_what_names_the_client_or_its_way_ends_here(name: str) -> None:
    header = (name.encode(), b"alice@example.com")
    assert request_headers([header, (b"x-stainless-lang", b"python")], POOL) == [(b"x-stainless-lang", b"python")]
    assert request_headers([header], HeaderContract()) == [header]


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        (b"gzip, deflate, br, zstd", b"gzip, deflate"),
        (b"br;q=1.0, gzip;q=0.8, *;q=0.1", b"gzip;q=0.8"),
        (b"zstd", b"identity"),
        (b"GZIP", b"GZIP"),
        (b"", b"identity"),
    ],
)
def test_in_pool_mode_no_coding_is_asked_for_that_blinds_the_pool(asked: bytes, sent: bytes) -> None:
    assert request_headers([(b"accept-encoding", asked)], POOL) == [(b"accept-encoding", sent)]
    assert request_headers([(b"accept-encoding", asked)], HeaderContract()) == [(b"accept-encoding", asked)]
    assert request_headers([], POOL) == []


@pytest.mark.parametrize("name", [b"set-cookie", b"alt-svc", b"access-control-allow-origin", b"access-control-max-age"])
def test_in_pool_mode_what_is_one_account_s_or_lets_web_pages_in_does_not_come_back(name: bytes) -> None:
    headers: Headers = [(name, b"x"), (b"request-id", b"req_1"), (b"anthropic-organization-id", b"o")]
    assert response_headers(headers, POOL, status=200) == headers[1:]
    assert response_headers(headers, HeaderContract(), status=200) == headers
