"""What is surely wrong with a paste, and told before it leaves the machine. Pure."""

import pytest

from kubectl_oauthaccount.pasted import OF_ANOTHER_LOGIN, REFUSED, WITHOUT_CODE, problem_with

STATE = "the-state-of-this-login"


@pytest.mark.parametrize(
    ("pasted", "problem"),
    [
        pytest.param(f"a-code#{STATE}", "", id="all that the page shows"),
        pytest.param("a-code", "", id="a code alone, for the operator to judge"),
        pytest.param(f"  'a-co\nde%23{STATE}'", "", id="with what copying adds"),
        pytest.param("a-code#another-state", OF_ANOTHER_LOGIN, id="of another login"),
        pytest.param("a-code#", OF_ANOTHER_LOGIN, id="cut off"),
        pytest.param("https://x.example/cb?code=c&state=another", OF_ANOTHER_LOGIN, id="the URL of another login"),
        pytest.param(f"https://x.example/cb?code=c&state={STATE}", "", id="the URL that the browser ended at"),
        pytest.param(f"https://x.example/cb?error=access_denied&state={STATE}", REFUSED, id="the person said no"),
        pytest.param(f"https://x.example/authorize?state={STATE}&code_challenge=c", WITHOUT_CODE, id="the URL to open"),
        pytest.param(" # ", WITHOUT_CODE, id="nothing"),
    ],
)
def test_what_cannot_be_the_answer_is_told(pasted: str, problem: str) -> None:
    assert problem_with(pasted, STATE) == problem


def test_of_a_login_without_a_state_nothing_is_of_another() -> None:
    assert problem_with("a-code#anything", "") == ""
