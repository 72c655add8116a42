"""What answers mean that keep to no standard: over a real connection, as public reports describe them."""

import json
from datetime import timedelta
from typing import Any

import pytest

from oauth_pool_operator.account.documents import LoginSession
from oauth_pool_operator.account.spec import WorkloadIdentity
from oauth_pool_operator.errors import (
    AuthorizationEnded,
    ExchangeRejected,
    GrantRejected,
    TokenEndpointUnavailable,
    UnusableAnswer,
)
from oauth_pool_operator.oauth.endpoint import TokenEndpoint
from tests.support.builders import NOW
from tests.support.upstream_server import json_answer, upstream_server
from tests.test_operator.oauth.asking import asked, profile_at

SESSION = LoginSession("id", NOW, NOW, state="a-state", verifier="a-verifier")
WORKLOAD = WorkloadIdentity("inference", "fdrl_1", "org")
SECRET = "secret-in-a-body"


def said(status: int, document: Any = None, *headers: tuple[str, str], body: bytes = b"") -> bytes:
    return json_answer(body if document is None else json.dumps(document).encode(), status, *headers)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(said(200, {"error": "invalid_grant", "error_description": SECRET}), id="200"),
        pytest.param(said(200, {"error": "bad_refresh_token"}), id="200, GitHub's word"),
        pytest.param(said(200, {"ok": False, "error": "invalid_refresh_token"}), id="200, Slack's words"),
        pytest.param(said(400, {"error": "refresh_token_reused"}), id="reused"),
        pytest.param(
            said(401, {"error": {"code": "refresh_token_reused", "message": SECRET}}), id="an envelope's code"
        ),
        pytest.param(said(401, {"error": {"type": "x", "code": "token_expired"}}), id="expired"),
        pytest.param(said(400, {"code": 400, "error_code": "refresh_token_not_found", "msg": SECRET}), id="error_code"),
        pytest.param(said(401, {"error": "invalid_grant"}), id="401"),
        pytest.param(said(500, {"error": "invalid_grant"}), id="500"),
    ],
)
async def test_a_dead_refresh_token_is_dead_in_whatever_words_and_with_whatever_status(answer: bytes) -> None:
    async with upstream_server() as upstream, asked(profile_at(upstream.url)) as endpoint:
        upstream.answer_all(answer)
        with pytest.raises(GrantRejected) as caught:
            await endpoint.refresh("the-refresh-token")
        assert SECRET not in str(caught.value)


async def test_a_profile_knows_further_words_for_a_dead_grant() -> None:
    words = {"dead_grant_errors": ["gone_for_good"]}
    async with upstream_server() as upstream:
        upstream.answer_all(said(400, {"error": "gone_for_good"}))
        async with asked(profile_at(upstream.url, profile=words)) as endpoint:
            with pytest.raises(GrantRejected, match="answered gone_for_good"):
                await endpoint.refresh("the-refresh-token")
        async with asked(profile_at(upstream.url)) as endpoint:
            with pytest.raises(ExchangeRejected, match=r"answered 400 \(an unknown error\)"):
                await endpoint.refresh("the-refresh-token")


@pytest.mark.parametrize(
    ("answer", "word", "may_be_the_grant"),
    [
        pytest.param(said(400, {"error": "nobody_knows"}), "", True, id="an unknown word"),
        pytest.param(said(200, {"error": "nobody_knows"}), "", True, id="an unknown word with 200"),
        pytest.param(said(400, {"error": "invalid_request"}), "invalid_request", True, id="Metabase's for a dead one"),
        pytest.param(said(401, {"error": "invalid_client"}), "invalid_client", False, id="the client's fault"),
        pytest.param(said(401, {"error": "unauthorized"}), "", True, id="a word that is a status, too"),
    ],
)
async def test_a_refusal_in_other_words_says_whether_it_may_be_about_the_grant(
    answer: bytes, word: str, may_be_the_grant: bool
) -> None:
    async with upstream_server() as upstream, asked(profile_at(upstream.url)) as endpoint:
        upstream.answer_all(answer)
        with pytest.raises(ExchangeRejected) as caught:
            await endpoint.refresh("the-refresh-token")
        assert (caught.value.word, caught.value.may_be_the_grant) == (word, may_be_the_grant)


async def ask_for_a_code(endpoint: TokenEndpoint) -> object:
    return await endpoint.exchange_code("the-code", SESSION)


async def ask_for_a_refresh(endpoint: TokenEndpoint) -> object:
    return await endpoint.refresh("the-refresh-token")


async def ask_for_a_device(endpoint: TokenEndpoint) -> object:
    return await endpoint.exchange_device_code("the-device-code")


async def ask_with_an_assertion(endpoint: TokenEndpoint) -> object:
    return await endpoint.exchange_assertion("an-assertion", WORKLOAD)


@pytest.mark.parametrize("ask", [ask_for_a_code, ask_for_a_refresh, ask_for_a_device, ask_with_an_assertion])
@pytest.mark.parametrize(
    ("answer", "may_be_done"),
    [
        pytest.param(said(403, body=b"<html>Just a moment...</html>"), False, id="a firewall's page"),
        pytest.param(said(403, {"detail": SECRET}), False, id="a firewall's JSON"),
        pytest.param(said(404, {"status": 404, "error": "Not Found", "path": "/token"}), False, id="a gateway's words"),
        pytest.param(said(425), False, id="425, not looked at by the server"),
        pytest.param(said(408), True, id="408, which a load balancer may say after the redemption"),
        pytest.param(said(307, None, ("location", "https://portal.example")), False, id="a captive portal"),
        pytest.param(said(200, body=b"<html>"), True, id="200 without a word"),
        pytest.param(said(200, {"error": "temporarily_unavailable"}), True, id="200, but it passes"),
    ],
)
async def test_an_answer_without_an_oauth_error_is_the_network_and_no_verdict(
    ask: Any, answer: bytes, may_be_done: bool
) -> None:
    async with upstream_server() as upstream, asked(profile_at(upstream.url)) as endpoint:
        upstream.answer_all(answer)
        with pytest.raises(TokenEndpointUnavailable) as caught:
            await ask(endpoint)
        assert caught.value.may_be_done is may_be_done
        assert SECRET not in str(caught.value)


async def test_a_throttle_counts_for_the_provider_however_it_is_said() -> None:
    async with upstream_server() as upstream, asked(profile_at(upstream.url)) as endpoint:
        for answer in (said(429, {"error": "invalid_grant"}), said(200, {"ok": False, "error": "ratelimited"})):
            upstream.answer_all(answer)
            with pytest.raises(TokenEndpointUnavailable) as caught:
                await endpoint.refresh("the-refresh-token")
            assert (caught.value.is_throttled, caught.value.may_be_done) == (True, False)


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        pytest.param({"error": "device_flow_disabled"}, ExchangeRejected, id="the login was switched off"),
        pytest.param({"error": "incorrect_device_code"}, ExchangeRejected, id="a code that is none"),
        pytest.param({"error": "expired_token"}, AuthorizationEnded, id="too late"),
        pytest.param({"error": "token_expired"}, AuthorizationEnded, id="too late, in other words"),
        pytest.param({"error": "bad_verification_code"}, GrantRejected, id="a code that is used"),
    ],
)
async def test_a_device_login_ends_with_a_200_that_says_so(document: dict[str, str], expected: type[Exception]) -> None:
    async with upstream_server() as upstream, asked(profile_at(upstream.url)) as endpoint:
        upstream.answer_all(said(200, document))
        with pytest.raises(expected):
            await endpoint.exchange_device_code("the-device-code")


async def test_a_device_login_that_cannot_be_opened_says_so_with_200() -> None:
    async with upstream_server() as upstream, asked(profile_at(upstream.url)) as endpoint:
        upstream.answer_all(said(200, {"error": "device_flow_disabled"}))
        with pytest.raises(ExchangeRejected, match="endpoint answered 200 device_flow_disabled"):
            await endpoint.authorize_device()


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(said(201, {"access_token": "t", "refresh_token": "new"}), id="201"),
        pytest.param(said(203, {"access_token": "t", "refresh_token": "new"}), id="203"),
        pytest.param(said(200, {"access_token": "t", "refresh_token": "new", "error": "odd"}), id="beside an error"),
        pytest.param(
            said(200, body=b'{"access_token": "t", "refresh_token": "new", "expires_in": %s}' % (b"9" * 5000)),
            id="beside a number that Python refuses to read",
        ),
        pytest.param(
            said(200, body=b'{"access_token": "t", "refresh_token": "new", "scope": "\xff"}'), id="a bad byte"
        ),
        pytest.param(said(200, body=b'\xef\xbb\xbf{"access_token": "t", "refresh_token": "new"}'), id="a BOM"),
        pytest.param(
            said(200, body=b'{"access_token": "t", "refresh_token": "new", "account": {"id": "\\ud800"}}'),
            id="beside half a character",
        ),
    ],
)
async def test_a_rotated_refresh_token_is_taken_from_any_2xx_whatever_else_it_holds(answer: bytes) -> None:
    async with upstream_server() as upstream, asked(profile_at(upstream.url)) as endpoint:
        upstream.answer_all(answer)
        granted = await endpoint.refresh("old")
        assert (granted.access_token, granted.refresh_token) == ("t", "new")
        assert json.dumps(granted.subject).encode().decode() is not None
        (granted.subject or "").encode()  # it can be written to a file


@pytest.mark.parametrize(
    ("document", "says"),
    [
        pytest.param({"access_token": "t", "token_type": "mac"}, "a token_type that is not Bearer", id="mac"),
        pytest.param({"access_token": "t", "token_type": "DPoP"}, "a token_type that is not Bearer", id="DPoP"),
        pytest.param({"access_token": "t\r\nx: y"}, "an access token that does not fit into a header", id="two lines"),
        pytest.param({"access_token": ""}, "without an access token", id="none"),
    ],
)
async def test_a_token_that_cannot_be_used_is_refused_and_its_refresh_token_kept(
    document: dict[str, str], says: str
) -> None:
    async with upstream_server() as upstream, asked(profile_at(upstream.url)) as endpoint:
        upstream.answer_all(said(200, document | {"refresh_token": "rotated-refresh-token"}))
        with pytest.raises(UnusableAnswer, match=says) as caught:
            await endpoint.refresh("old")
        assert caught.value.refresh_token == "rotated-refresh-token"
        assert "rotated-refresh-token" not in repr(caught.value) + str(caught.value)


@pytest.mark.parametrize("kind", ["Bearer", "bearer", "BEARER ", None, ""])
async def test_a_bearer_token_is_one_however_it_is_written(kind: str | None) -> None:
    async with upstream_server() as upstream, asked(profile_at(upstream.url)) as endpoint:
        upstream.answer_all(said(200, {"access_token": "t", "token_type": kind}))
        assert (await endpoint.refresh("old")).remarks == ()


@pytest.mark.parametrize(
    ("written", "lifetime", "reasons"),
    [
        pytest.param("3600", timedelta(hours=1), [], id="seconds"),
        pytest.param('"3600"', timedelta(hours=1), [], id="seconds as text"),
        pytest.param("2592000", timedelta(days=30), [], id="30 days are 30 days"),
        pytest.param("31536000", timedelta(days=365), [], id="and a year is a year"),
        pytest.param('"3600.0"', timedelta(hours=1), ["LifetimeOdd"], id="a text with a point"),
        pytest.param("28800000", timedelta(hours=8), ["LifetimeOdd"], id="milliseconds"),
        pytest.param("0", timedelta(hours=1), ["LifetimeOdd"], id="0"),
        pytest.param("-1", timedelta(hours=1), ["LifetimeOdd"], id="negative"),
        pytest.param("1e400", timedelta(hours=1), ["LifetimeOdd"], id="no number"),
        pytest.param("NaN", timedelta(hours=1), ["LifetimeOdd"], id="not a number"),
        pytest.param("1", timedelta(seconds=1), ["LifetimeOdd"], id="a second"),
        pytest.param("null", timedelta(hours=1), [], id="not said, which the standard allows"),
    ],
)
async def test_an_odd_lifetime_is_told(written: str, lifetime: timedelta, reasons: list[str]) -> None:
    async with upstream_server() as upstream, asked(profile_at(upstream.url)) as endpoint:
        upstream.answer_all(said(200, body=b'{"access_token": "t", "expires_in": %s}' % written.encode()))
        answer = await endpoint.refresh("old")
        assert answer.lifetime == lifetime
        assert [remark.reason for remark in answer.remarks] == reasons


@pytest.mark.parametrize(
    ("members", "reasons", "says"),
    [
        pytest.param({"refresh_token": "r", "scope": "a b"}, [], "", id="all of it"),
        pytest.param({"refresh_token": "r"}, [], "", id="not said: as asked for (RFC 6749 5.1)"),
        pytest.param({"refresh_token": "r", "scope": "a,b"}, [], "", id="with commas"),
        pytest.param({"refresh_token": "r", "scope": "a"}, ["ScopeNarrowed"], "missing: b.", id="narrowed"),
        pytest.param(
            {"scope": "a b"}, ["NoRefreshToken"], "log in again when the access token expires", id="no refresh"
        ),
    ],
)
async def test_what_a_login_did_not_give_is_told(members: dict[str, str], reasons: list[str], says: str) -> None:
    scopes = ["a", "b", "offline_access"]
    async with upstream_server() as upstream, asked(profile_at(upstream.url, scopes=scopes)) as endpoint:
        upstream.answer_all(said(200, {"access_token": "t", **members}))
        for answer in (await endpoint.exchange_code("c", SESSION), await endpoint.exchange_device_code("d")):
            assert [remark.reason for remark in answer.remarks] == reasons
            assert says in "".join(remark.message for remark in answer.remarks)


async def test_an_exchanged_token_needs_no_refresh_token_and_no_scope() -> None:
    async with upstream_server() as upstream, asked(profile_at(upstream.url, scopes=["a"])) as endpoint:
        upstream.answer_all(said(200, {"access_token": "t", "scope": "other", "expires_in": 600}))
        assert (await endpoint.exchange_assertion("a", WORKLOAD)).remarks == ()
