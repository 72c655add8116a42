"""What an answer says about the account that it was asked with: words and rules. Limits in headers: test_limits."""

import gzip
import json
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oauth_pool_proxy.config import Rule, Verdict, parse_config
from oauth_pool_proxy.pool.judgement import Judge, Judgement, Question
from oauth_pool_proxy.pool.rules import BUILT_IN

NOW = 1_800_000_000.0
ASKED = Question(b"/v1/messages", [], b'{"model":"claude-opus-9","messages":[]}', "claude-opus-9")
JUDGE = Judge()


def envelope(message: object, kind: str = "any", **more: object) -> bytes:
    return json.dumps({"type": "error", "error": {"type": kind, "message": message, **more}}).encode()


def verdict(
    status: int, body: bytes, headers: list[tuple[bytes, bytes]] | None = None, question: Question = ASKED
) -> Verdict:
    return JUDGE.judge(status, headers or [], body, question, NOW).verdict


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (401, envelope("OAuth token has expired. Please obtain a new token."), Verdict.UNAUTHORIZED),
        (401, envelope("The access token expired"), Verdict.UNAUTHORIZED),
        (401, envelope("Invalid bearer token"), Verdict.UNAUTHORIZED),
        (401, envelope("Expired or revoked access token"), Verdict.UNAUTHORIZED),
        (401, b'{"error":"invalid_token","error_description":"The access token is not valid"}', Verdict.UNAUTHORIZED),
        (401, envelope("OAuth authentication is currently not supported."), Verdict.SUSPECT),
        (
            401,
            envelope("CORS requests must set 'anthropic-dangerous-direct-browser-access' header"),
            Verdict.SUSPECT,
        ),
        (401, envelope("x-api-key header is required"), Verdict.SUSPECT),
        (401, envelope("Missing scopes: user:files"), Verdict.NEXT_ACCOUNT),
        (401, b"", Verdict.SUSPECT),
        (403, envelope("OAuth token has been revoked. Please obtain a new token."), Verdict.FORBIDDEN),
        (
            403,
            envelope("OAuth authentication is currently not allowed for this organization."),
            Verdict.FORBIDDEN,
        ),
        (
            403,
            envelope("Request not allowed", details={"error_code": "oauth_not_allowed_for_organization"}),
            Verdict.FORBIDDEN,
        ),
        (400, envelope("This organization has been disabled."), Verdict.FORBIDDEN),
        (401, envelope("This organization has been disabled."), Verdict.FORBIDDEN),
        (403, envelope("Your account does not have access to model claude-opus-9"), Verdict.MODEL_FORBIDDEN),
        (403, envelope("claude-opus-9: upgrade your plan"), Verdict.MODEL_FORBIDDEN),
        (403, envelope("You do not have access to this model"), Verdict.MODEL_FORBIDDEN),
        (403, envelope("OAuth token does not meet scope requirement user:profile"), Verdict.NEXT_ACCOUNT),
        (403, envelope("Request not allowed"), Verdict.SUSPECT),
        (403, b"<p>revoked</p>", Verdict.SUSPECT),
        (403, b"", Verdict.SUSPECT),
        (400, envelope("You're out of extra usage. Add more at example.com"), Verdict.BILLING),
        (400, envelope("Your credit balance is too low to access the API."), Verdict.BILLING),
        (400, envelope("You have reached your specified API usage limits."), Verdict.BILLING),
        (402, envelope("Your credit balance is too low"), Verdict.BILLING),
        (402, envelope("This request is too expensive"), Verdict.SUSPECT),
        (400, envelope("messages: at least one message is required"), Verdict.PASS_ON),
        (400, envelope("revoked"), Verdict.PASS_ON),
        (404, envelope("This organization has been disabled."), Verdict.PASS_ON),
        (413, envelope("Request exceeds the maximum size"), Verdict.PASS_ON),
        (429, envelope("Extra usage is required for long context requests."), Verdict.NEXT_ACCOUNT),
        (429, envelope("You have hit your 5-hour limit"), Verdict.QUOTA_EXHAUSTED),
        (429, envelope("the Usage Limit for your plan"), Verdict.QUOTA_EXHAUSTED),
        (429, b"plain text about the subscription usage limit", Verdict.QUOTA_EXHAUSTED),
        (429, envelope(None), Verdict.NEXT_ACCOUNT),
        (429, b"[" * 60_000, Verdict.NEXT_ACCOUNT),
        (429, b"\xff\xfe", Verdict.NEXT_ACCOUNT),
        (500, envelope("OAuth token has expired"), Verdict.PASS_ON),
        (529, envelope("Overloaded"), Verdict.PASS_ON),
        (200, b"", Verdict.PASS_ON),
    ],
)
def test_whose_fault_an_answer_is(status: int, body: bytes, expected: Verdict) -> None:
    assert verdict(status, body) is expected


def test_a_challenge_that_names_the_token_is_proof_without_words() -> None:
    challenge = [(b"www-authenticate", b'Bearer realm="api", error="invalid_token"')]
    assert verdict(401, b"", challenge) is Verdict.UNAUTHORIZED
    assert verdict(401, b"", [(b"www-authenticate", b"Bearer")]) is Verdict.SUSPECT


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "gzip, gzip"])
def test_words_are_found_in_compressed_bodies_that_can_be_unpacked(coding: str) -> None:
    text = envelope("OAuth token has been revoked.")
    packed = {"gzip": gzip.compress(text), "deflate": zlib.compress(text)}.get(coding, b"cannot")
    expected = Verdict.FORBIDDEN if coding in ("gzip", "deflate") else Verdict.SUSPECT
    headers = [(b"content-encoding", coding.encode())]
    assert verdict(403, packed, headers) is expected
    assert verdict(403, b"broken", headers) is Verdict.SUSPECT


def test_a_bomb_in_an_error_page_is_not_unpacked() -> None:
    bomb = gzip.compress(b"x" * (1 << 26) + envelope("OAuth token has been revoked."))
    assert verdict(403, bomb, [(b"content-encoding", b"gzip")]) is Verdict.SUSPECT


SENTENCE = b"Your credit balance is too low"


@pytest.mark.parametrize(
    "question",
    [
        Question(b"/", [], b'{"role":"Your credit BALANCE is too low"}'),
        Question(b"/?q=credit%20balance%20is%20too%20low", [], b""),
        Question(b"/", [(b"anthropic-beta", b"credit balance is too low")], b""),
        Question(b"/", [], b'{"role":"credit\\u0020balance is too low"}'),
        Question(b"/", [], b'{"role":"credit b\\u0061lance is too low"}'),
    ],
    ids=["body", "query", "header", "escaped space", "escaped letter"],
)
def test_words_that_the_client_may_have_sent_itself_prove_nothing(question: Question) -> None:
    """An API repeats what it was sent: "role: unexpected value 'Your credit balance is too low'"."""
    assert verdict(400, envelope(SENTENCE.decode()), question=question) is Verdict.SUSPECT
    assert verdict(400, envelope(SENTENCE.decode())) is Verdict.BILLING


def test_a_limit_in_words_that_the_client_sent_itself_benches_nobody() -> None:
    question = Question(b"/", [], b'{"messages":[{"content":"what is the usage limit for your plan"}]}')
    assert verdict(429, envelope("usage limit for your plan"), question=question) is Verdict.NEXT_ACCOUNT


def test_headers_explain_a_limit_better_than_words() -> None:
    headers = [(b"retry-after", b"9")]
    body = envelope("the rolling window is full")
    assert JUDGE.judge(429, headers, body, ASKED, NOW) == Judgement(Verdict.RATE_LIMITED, NOW + 9)
    assert JUDGE.needs_body(429, [], NOW) and not JUDGE.needs_body(429, headers, NOW)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("rate_limit_error", Verdict.NEXT_ACCOUNT),
        ("authentication_error", Verdict.SUSPECT),
        ("permission_error", Verdict.SUSPECT),
        ("billing_error", Verdict.SUSPECT),
        ("overloaded_error", Verdict.PASS_ON),
        ("api_error", Verdict.PASS_ON),
    ],
)
def test_an_error_event_is_judged_by_its_type_as_an_answer_by_its_status(kind: str, expected: Verdict) -> None:
    packed = [(b"content-encoding", b"gzip")]  # the stream's; the data of an event is plain by now
    assert JUDGE.judge_event(envelope("words", kind), packed, ASKED, NOW).verdict is expected


@given(st.binary(max_size=300), st.integers(400, 599))
@settings(max_examples=300)
def test_no_body_whatever_makes_it_raise(body: bytes, status: int) -> None:
    JUDGE.judge(status, [], body, ASKED, NOW)
    JUDGE.judge_event(body, [], ASKED, NOW)


# Rules of the user.


def judge_with(**rule: object) -> Judge:
    values = {
        "proxy": {"listen_addr": "127.0.0.1:0", "upstream_url": "http://a"},
        "oauth": {"source": "file", "index_dir": "/", "rules": [rule]},
    }
    config = parse_config(values, {})
    assert config.oauth
    return Judge(config.oauth.rules)


@pytest.mark.parametrize(
    ("rule", "status", "body", "headers", "fits"),
    [
        ({"status": 418}, 418, b"", [], True),
        ({"status": [418, 419]}, 419, b"", [], True),
        ({"status": 418}, 400, b"", [], False),
        ({"words": ["Bad Weather"]}, 500, envelope("there is bad weather"), [], True),
        ({"words": ["bad*day"]}, 500, envelope("a bad sort of day"), [], True),
        ({"words": ["bad*day"]}, 500, envelope("bad" + " " * 41 + "day"), [], False),
        ({"words": ["weather"]}, 503, b"weather service", [], True),
        ({"words": ["weather"]}, 503, b"<html>weather", [], False),
        ({"json_path": "error.code", "json_values": ["W*"]}, 400, envelope("", code="w12"), [], True),
        ({"json_path": "error.code", "json_values": ["W*"]}, 400, envelope("", code="x"), [], False),
        ({"json_path": "error.code"}, 400, envelope("", code=0), [], True),
        ({"json_path": "error.code.deeper"}, 400, envelope("", code=0), [], False),
        ({"header": "X-Weather", "header_values": ["*rain*"]}, 400, b"", [(b"x-weather", b"some rain")], True),
        ({"header": "x-weather"}, 400, b"", [(b"x-weather", b"")], True),
        ({"header": "x-weather"}, 400, b"", [], False),
        ({"status": 400, "words": ["weather"]}, 400, envelope("sun"), [], False),
    ],
)
def test_a_rule_of_the_user_comes_first_and_every_condition_of_it_has_to_hold(
    rule: dict[str, object], status: int, body: bytes, headers: list[tuple[bytes, bytes]], fits: bool
) -> None:
    judge = judge_with(**rule, verdict="forbidden", cooldown_secs=60)
    judgement = judge.judge(status, headers, body, ASKED, NOW)
    assert (judgement == Judgement(Verdict.FORBIDDEN, NOW + 60)) is fits
    assert judge.needs_body(status, headers, NOW) or not (fits and (rule.get("words") or rule.get("json_path")))


def test_a_rule_may_say_that_the_request_is_to_blame_where_the_table_says_otherwise() -> None:
    judge = judge_with(status=403, words=["revoked"], verdict="pass_on")
    body = envelope("OAuth token has been revoked.")
    assert judge.judge(403, [], body, ASKED, NOW).verdict is Verdict.PASS_ON
    limited = judge_with(status=429, verdict="pass_on")
    assert limited.judge(429, [(b"retry-after", b"9")], b"", ASKED, NOW).verdict is Verdict.PASS_ON


def test_no_row_of_the_table_is_shadowed_by_one_before_it() -> None:
    """Two rows with the same conditions: the second would never decide."""
    seen: set[Rule] = set()
    for rule in BUILT_IN:
        conditions = Rule(Verdict.PASS_ON, rule.statuses, rule.words, rule.json_path, rule.json_values, rule.header)
        assert conditions not in seen
        seen.add(conditions)
