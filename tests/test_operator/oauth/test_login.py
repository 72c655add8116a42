"""Judging what a person pasted."""

import re
from datetime import timedelta
from urllib.parse import urlencode

import pytest
from hypothesis import given, strategies

from oauth_pool_operator.account.documents import LoginSession
from oauth_pool_operator.oauth import login
from tests.support.builders import NOW, session


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("the-code#state-of-a-test", id="as the page shows it"),
        pytest.param("  the-code#state-of-a-test\n", id="with white space around"),
        pytest.param(
            "https://provider.example/callback?code=the-code&state=state-of-a-test", id="the whole redirect URL"
        ),
        pytest.param(
            "https://provider.example/callback?state=state-of-a-test&code=the%2Dcode", id="encoded, reordered"
        ),
        pytest.param("com.example.app:/callback?code=the-code&state=state-of-a-test", id="a redirect URL of a program"),
        pytest.param("'the-code#state-of-a-test'", id="in quotes"),
        pytest.param("\u201cthe-code#state-of-a-test\u201d", id="in a text program's quotes"),
        pytest.param("the-code\n#state-of\r\n-a-test", id="broken by a terminal"),
        pytest.param("the-code #state-of-a-test", id="a space before the state"),
        pytest.param("the-code%23state-of-a-test", id="percent-encoded"),
        pytest.param("Code: the-code#state-of-a-test", id="with its label"),
        pytest.param("Authorization code:\n  the-code#state-of-a-test", id="with a longer label"),
        pytest.param("\ufeffthe-code#state-of\u200b-a-test\u200b", id="characters without a width"),
        pytest.param("https://x/cb#code=the-code&state=state-of-a-test", id="the code in the fragment"),
        pytest.param("https://x/cb?code=the-code#state-of-a-test", id="the state alone in the fragment"),
        pytest.param("https://x/cb?code=the-code&state=state-of-a-test#_=_", id="what one provider appends"),
        pytest.param("<https://x/cb?code=the-code&state=state-\nof-a-test>", id="a URL in brackets, broken"),
        pytest.param("?code=the-code&state=state-of-a-test", id="what is behind the address"),
        pytest.param("state=state-of-a-test&code=the-code", id="the same, reordered"),
    ],
)
def test_a_good_code_is_taken(text: str) -> None:
    judged = login.judge(session(), text, NOW, "claude-1")
    assert (judged.code, judged.problem) == ("the-code", None)


@pytest.mark.parametrize("text", ["https://x/cb?code=a+b/c%2Bd&state=state-of-a-test", "a+b/c+d#state-of-a-test"])
def test_a_plus_in_a_code_is_not_a_space(text: str) -> None:
    assert login.judge(session(), text, NOW, "claude-1").code == "a+b/c+d"


# RFC 6749 A.11: a code holds any visible ASCII. What is also a way to write one is left out: labels, URLs, encodings.
CODES = strategies.text("abcXYZ019-._~+/=*!$&(),;@", min_size=1).filter(
    lambda code: not code.startswith(("code=", "error="))
)
STATES = strategies.text("abcXYZ019-_", min_size=1)


@given(CODES, STATES)
def test_no_code_that_is_pasted_as_it_is_loses_a_character(code: str, state: str) -> None:
    assert login.parse_pasted(f"{code}#{state}") == login.Pasted(code=code, state=state)
    url = f"https://x/cb?{urlencode({'state': state, 'code': code})}"
    assert login.parse_pasted(url) == login.Pasted(code=code, state=state)


@given(strategies.text())
def test_nothing_that_is_pasted_breaks_the_parser(text: str) -> None:
    for pasted in (text, f"https://{text}", f"code={text}", f"{text}#{text}"):
        parsed = login.parse_pasted(pasted)
        assert not parsed.refused or "error" in pasted


@pytest.mark.parametrize(
    ("text", "issuer", "says"),
    [
        pytest.param(
            "code=c&state=state-of-a-test&iss=https%3A%2F%2Fa.example", "https://a.example", None, id="its own"
        ),
        pytest.param(
            "code=c&state=state-of-a-test&iss=https%3A%2F%2Fb.example",
            "https://a.example",
            "another provider",
            id="another's",
        ),
        pytest.param(
            "error=x&iss=https%3A%2F%2Fb.example", "https://a.example", "another provider", id="another's refusal"
        ),
        pytest.param(
            "code=c&state=state-of-a-test&iss=https%3A%2F%2Fb.example", None, None, id="a profile without an issuer"
        ),
        pytest.param("code=c&state=state-of-a-test", "https://a.example", None, id="a provider that says none"),
    ],
)
def test_a_redirect_url_has_to_be_of_the_profiles_issuer(text: str, issuer: str | None, says: str | None) -> None:
    judged = login.judge(session(), f"https://x/cb?{text}", NOW, "claude-1", issuer=issuer)
    assert judged.code == ("c" if says is None else None)
    assert says is None or says in judged.problem_message


def test_a_code_with_a_colon_is_not_taken_for_a_url() -> None:
    assert login.judge(session(), "the:code#state-of-a-test", NOW, "claude-1").code == "the:code"


@pytest.mark.parametrize(
    ("of", "text", "problem", "says"),
    [
        pytest.param(session(), "the-code#other-state", "CodeRejected", "belongs to another login", id="old state"),
        pytest.param(session(), "the-code", "CodeRejected", "<code>#<state>", id="no state"),
        pytest.param(session(), "#state-of-a-test", "CodeRejected", "<code>#<state>", id="no code"),
        pytest.param(session(), "https://[bad", "CodeRejected", "<code>#<state>", id="not a URL"),
        pytest.param(
            session(), "https://x/cb?error=access_denied&state=s", "CodeRejected", "refused the login", id="refused"
        ),
        pytest.param(
            session(),
            "com.example.app:/cb?error=access_denied",
            "CodeRejected",
            "refused the login",
            id="refused, program",
        ),
        pytest.param(
            session(age=timedelta(minutes=11)),
            "the-code#state-of-a-test",
            "LoginExpired",
            "login-requested",
            id="too late",
        ),
        pytest.param(None, "the-code#state-of-a-test", "CodeRejected", "no login is open", id="nobody asked"),
        pytest.param(
            login.end_session(session()), "the-code#x", "CodeRejected", "no login is open", id="login is over"
        ),
    ],
)
def test_a_bad_code_says_what_to_do_and_never_itself(
    of: LoginSession | None, text: str, problem: str, says: str
) -> None:
    judged = login.judge(of, text, NOW, "claude-1")
    assert (judged.code, judged.problem) == (None, problem)
    assert says in judged.problem_message
    assert "the-code" not in judged.problem_message
    assert "state-of-a-test" not in judged.problem_message


def test_a_code_alone_is_taken_only_where_the_profile_says_so() -> None:
    judged = login.judge(session(), " the-code\n", NOW, "claude-1", allow_without_state=True)
    assert (judged.code, judged.problem) == ("the-code", None)


@pytest.mark.parametrize(
    ("text", "says"), [("the-code#other-state", "belongs to another login"), ("#", "<code>#<state>")]
)
def test_a_state_that_is_given_is_compared_even_where_none_is_needed(text: str, says: str) -> None:
    judged = login.judge(session(), text, NOW, "claude-1", allow_without_state=True)
    assert (judged.code, judged.problem) == (None, "CodeRejected")
    assert says in judged.problem_message


def test_the_same_paste_is_recognised() -> None:
    text = "the-code#state-of-a-test"
    assert login.judge(session(), text, NOW, "claude-1").handled_code == login.digest(text)


def test_verifier_and_state_are_as_the_standards_ask() -> None:
    opened = login.open_session(NOW, "")
    assert re.fullmatch(r"[A-Za-z0-9._~-]{43,128}", opened.verifier)  # RFC 7636 4.1
    assert len(opened.state) >= 43  # 256 bits
    other = login.open_session(NOW, "")
    assert (other.state, other.verifier, other.session_id) != (opened.state, opened.verifier, opened.session_id)


def test_an_ended_session_holds_no_secret() -> None:
    ended = login.end_session(session(code="the-code", handled_code="abc"))
    assert (ended.state, ended.verifier, ended.code, ended.handled_code) == ("", "", None, "abc")


def test_a_session_does_not_print_its_secrets() -> None:
    shown = repr(session(code="the-code"))
    assert not re.search("the-code|state-of|verifier-of", shown)
