"""Files of other programs: what is taken from them, and that nothing of a bad one is repeated."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from oauth_pool_operator.handover.credential_files import CredentialFileInvalid, parse, shown

THEN = datetime(2026, 11, 20, 20, 0, tzinfo=UTC)
NEVER_KNOWN = datetime.fromtimestamp(0, UTC)
GOOD = {"type": "oauth", "refresh": "secret-refresh", "access": "secret-access", "expires": THEN.timestamp() * 1000}
PROFILE = {
    "version": "1.0",
    "type": "oauth_token",
    "access_token": "secret-access",
    "refresh_token": "secret-refresh",
    "expires_at": int(THEN.timestamp()),
    "scope": "inference",
}


def without(document: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key != name}


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        pytest.param({"claude-1": GOOD}, {"claude-1": THEN}, id="credentials.json"),
        pytest.param(GOOD, {"": THEN}, id="one entry of it"),
        pytest.param({"a": without(GOOD, "expires")}, {"a": NEVER_KNOWN}, id="without an end"),
        pytest.param(PROFILE, {"": THEN}, id="an SDK's profile"),
        pytest.param(without(PROFILE, "type"), {"": THEN}, id="an SDK's profile, written by hand"),
        pytest.param(without(PROFILE, "expires_at"), {"": NEVER_KNOWN}, id="an SDK's profile without an end"),
    ],
)
def test_what_is_in_a_good_file(document: dict[str, Any], expected: dict[str, datetime]) -> None:
    found = parse(json.dumps(document).encode())
    assert found.problems == {}
    assert {name: entry.expires for name, entry in found.entries.items()} == expected
    for entry in found.entries.values():
        assert (entry.refresh_token, entry.access_token) == ("secret-refresh", "secret-access")


def test_a_byte_order_mark_is_no_reason_to_refuse_a_file() -> None:
    assert parse(b"\xef\xbb\xbf" + json.dumps(GOOD).encode()).entries


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        pytest.param(without(GOOD, "type"), "it has no type; it must be oauth", id="no type"),
        pytest.param(GOOD | {"type": "secret-type"}, "its type is not oauth", id="another type"),
        pytest.param(without(GOOD, "refresh"), "its refresh is missing", id="no refresh token"),
        pytest.param(GOOD | {"refresh": ""}, "its refresh is missing", id="empty refresh token"),
        pytest.param(GOOD | {"access": 7}, "its access is not a text", id="a number for a token"),
        pytest.param(GOOD | {"refresh": "secret two"}, "its refresh is not a token", id="space in a token"),
        pytest.param(GOOD | {"refresh": "secret\nline"}, "its refresh is not a token", id="line break in a token"),
        pytest.param(GOOD | {"access": "secret-é"}, "its access is not a token", id="not ASCII"),
        pytest.param(GOOD | {"expires": "secret-soon"}, "its expires is not a number", id="a word for an end"),
        pytest.param(GOOD | {"expires": True}, "its expires is not a number", id="a truth for an end"),
        pytest.param(GOOD | {"expires": 1e300}, "its expires is not a time in milliseconds", id="beyond all times"),
        pytest.param(GOOD | {"expires": 1e14}, "its expires is not a time in milliseconds", id="microseconds"),
        pytest.param("secret-text", "it is not an object", id="no object"),
    ],
)
def test_a_bad_entry_is_named_without_its_content_and_costs_no_other(bad: Any, says: str) -> None:
    found = parse(json.dumps({"bad": bad, "good": GOOD | {"refresh": "another"}}).encode())
    assert set(found.entries) == {"good"}
    assert says in found.problems["bad"]
    assert "secret" not in str(found)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        pytest.param(
            without(PROFILE, "refresh_token"), "it has no refresh_token: something else keeps", id="no refresh token"
        ),
        pytest.param(PROFILE | {"type": "secret-type"}, "its type is not oauth_token", id="another type"),
        pytest.param(
            PROFILE | {"expires_at": THEN.timestamp() * 1000},
            "its expires_at is not a time in seconds",
            id="milliseconds",
        ),
        pytest.param({"type": "oauth_token"}, "it has no refresh_token", id="nothing in it"),
    ],
)
def test_a_bad_profile_says_what_is_wrong(bad: dict[str, Any], says: str) -> None:
    found = parse(json.dumps(bad).encode())
    assert found.entries == {}
    assert says in found.problems[""]
    assert "secret" not in str(found)


def test_two_entries_with_one_refresh_token_are_both_refused() -> None:
    found = parse(json.dumps({"a": GOOD, "b": GOOD | {"access": "other"}, "c": GOOD | {"refresh": "other"}}).encode())
    assert set(found.entries) == {"c"}
    assert {problem.partition(":")[0].partition(",")[0] for problem in found.problems.values()} == {
        "another entry has the same refresh token"
    }


@pytest.mark.parametrize(
    ("content", "says"),
    [
        pytest.param(b"", "not valid JSON: line 1, column 1", id="nothing"),
        pytest.param(b'{"claude-1": {"refresh": "secret', "not valid JSON: line 1", id="cut off"),
        pytest.param(b"\xff\xfe secret", "not UTF-8", id="not text"),
        pytest.param(b'["secret"]', "not a JSON object", id="a list"),
        pytest.param(b"{}", "not a JSON object with credentials", id="empty"),
        pytest.param(b"[" * 100_000, "", id="a tower"),
    ],
)
def test_what_is_no_such_file_is_not_repeated(content: bytes, says: str) -> None:
    with pytest.raises(CredentialFileInvalid) as caught:
        parse(content)
    assert says in str(caught.value)
    assert "secret" not in repr(caught.value)
    assert caught.value.__cause__ is None


def test_claude_code_s_own_login_is_called_by_its_name_and_not_taken() -> None:
    login = {
        "accessToken": "secret-access",
        "refreshToken": "secret-refresh",
        "expiresAt": 1,
        "scopes": ["user:inference"],
    }
    for document in ({"claudeAiOauth": login}, {"claudeAiOauth": login, "other": GOOD}):
        with pytest.raises(
            CredentialFileInvalid, match=r"Claude Code's own login .* log the account in instead"
        ) as caught:
            parse(json.dumps(document).encode())
        assert "secret" not in str(caught.value)


def test_an_id_is_shown_so_that_it_cannot_move_the_cursor() -> None:
    assert (shown("claude-1"), shown("a\x1b[2J")) == ("claude-1", "'a\\x1b[2J'")
