"""Which headers cross the proxy. What the wire looks like in the end is in test_forwarding and test_failover."""

import pytest

from oauth_pool_proxy.upstream.headers import HeaderContract, Headers, request_headers, response_headers


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
    contract = HeaderContract(configured=((b"x-a", b"ours"),), version=b"v", drops_credentials=True)
    client = [(b"connection", b"X-A, anthropic-version, close"), (b"x-a", b"theirs"), (b"anthropic-version", b"theirs")]
    assert request_headers(client, contract) == [(b"x-a", b"ours"), (b"anthropic-version", b"v")]


def test_a_configured_header_may_have_several_lines() -> None:
    contract = HeaderContract(configured=((b"x", b"1"), (b"x", b"2")))
    assert request_headers([(b"x", b"0")], contract) == [(b"x", b"1"), (b"x", b"2")]


@pytest.mark.parametrize(("status", "kept"), [(200, True), (204, False), (304, False)])
def test_a_length_passes_where_there_is_a_body(status: int, kept: bool) -> None:
    headers: Headers = [(b"content-length", b"5"), (b"etag", b"x")]
    passed = response_headers(headers, status=status)
    assert ((b"content-length", b"5") in passed, (b"etag", b"x") in passed) == (kept, True)
