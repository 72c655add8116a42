"""`login` from beginning to end: the real operator, and the provider's simulator, which is also the browser."""

import io
from pathlib import Path

import pytest

from tests.support.pseudo_terminal import on_terminal
from tests.support.stack import Stack
from tests.test_kubectl_plugin.browser import environment_with_browser, opened
from tests.test_kubectl_plugin.conftest import Plugin

PROMPT = "What the page shows (not echoed): "


@pytest.fixture
def namespace(stack: Stack) -> str:
    return stack.namespace


@pytest.fixture
def command(stack: Stack) -> tuple[str, ...]:
    """As it is typed: kubectl finds the plugin on the PATH."""
    return (str(stack.control_plane.kubectl_path), "oauthaccount", "-n", stack.namespace, "login")


@pytest.fixture
def environment(stack: Stack, tmp_path: Path) -> dict[str, str]:
    return environment_with_browser(stack, tmp_path)


class Person(io.StringIO):
    """Standard input at whose other end a program opens the URL and passes on what the page shows."""

    def __init__(self, stack: Stack, name: str, subject: str) -> None:
        super().__init__()
        self._stack, self._name, self._subject = stack, name, subject

    def readline(self, size: int = -1, /) -> str:  # type: ignore[override]  # typeshed takes StringIO's for bytes
        url = self._stack.get(self._name)["status"]["login"]["authorizationURL"]
        return self._stack.simulator.approve(url, self._subject) + "\n"


def test_a_person_logs_in_at_a_terminal_and_the_code_is_seen_nowhere(
    stack: Stack, command: tuple[str, ...], environment: dict[str, str], tmp_path: Path
) -> None:
    stack.apply(stack.account("alice"))
    with on_terminal(*command, "alice", environment=environment) as terminal:
        terminal.wait_for(PROMPT)
        url = opened(tmp_path, 1)
        assert url in terminal.printed.replace("\r\n", "\n").split()
        pasted = stack.simulator.approve(url, "alice@example.com")
        terminal.type(f"{pasted}\n")
        assert terminal.wait() == 0
    assert stack.condition("alice", "Ready")["reason"] == "Available"
    last = terminal.printed.strip().splitlines()[-1]
    assert "alice" in last and "Available" in last
    code, _, _ = pasted.partition("#")
    assert code not in terminal.printed


def test_what_is_not_a_code_or_is_refused_is_asked_for_again(
    stack: Stack, command: tuple[str, ...], environment: dict[str, str], tmp_path: Path
) -> None:
    stack.apply(stack.account("bob"))
    with on_terminal(*command, "bob", environment=environment) as terminal:
        terminal.wait_for(PROMPT)
        terminal.type("half-a-code\n")
        terminal.wait_for("warning: this is neither <code>#<state>")
        # the same login, so the same page; this time a code that the provider does not know
        _, _, state = stack.simulator.approve(opened(tmp_path, 1), "bob@example.com").partition("#")
        terminal.type(f"not-the-code#{state}\n")
        # the operator opened another login, which is shown
        again = opened(tmp_path, 2)
        terminal.wait_for(again)
        terminal.type(f"{stack.simulator.approve(again, 'bob@example.com')}\n")
        assert terminal.wait() == 0
    assert "warning: the token endpoint" in terminal.printed
    assert "not-the-code" not in terminal.printed


def test_what_was_refused_is_not_handed_over_again(
    stack: Stack, command: tuple[str, ...], environment: dict[str, str], tmp_path: Path
) -> None:
    """The operator has nothing new to say of it, so nobody would be answered."""
    stack.apply(stack.account("peggy"))
    with on_terminal(*command, "peggy", environment=environment) as terminal:
        seen = 0
        for warning in ("warning: this is neither", "warning: this is what was refused before"):
            terminal.wait_for(PROMPT, after=seen)
            seen = len(terminal.printed)
            terminal.type("half-a-code\n")
            terminal.wait_for(warning)
        terminal.wait_for(PROMPT, after=seen)
        terminal.type(f"{stack.simulator.approve(opened(tmp_path, 1), 'peggy@example.com')}\n")
        assert terminal.wait() == 0


def test_ctrl_c_at_the_prompt_ends_with_130(
    stack: Stack, command: tuple[str, ...], environment: dict[str, str]
) -> None:
    stack.apply(stack.account("carol"))
    with on_terminal(*command, "carol", "--no-browser", environment=environment) as terminal:
        terminal.wait_for(PROMPT)
        terminal.press_ctrl_c()
        assert terminal.wait() == 130
    assert "Traceback" not in terminal.printed


def test_a_program_pipes_the_code_in_and_reads_json(
    stack: Stack, plugin: Plugin, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack.apply(stack.account("dora"))
    outcome = plugin("login", "dora", "--no-browser", "-o", "json", stdin=Person(stack, "dora", "dora@example.com"))
    assert (outcome.code, outcome.json["status"]) == (0, "Available")
    assert "http" in outcome.err  # the URL is not part of the result


def test_without_a_terminal_a_refused_code_is_not_asked_for_again(stack: Stack, plugin: Plugin) -> None:
    stack.apply(stack.account("eve"))
    outcome = plugin("login", "eve", "--no-browser", stdin="a-code#of-another-login\nanother#line\n")
    assert outcome.code == 1
    assert outcome.err.endswith(
        "error: this code belongs to another login: open the URL above, and copy what its page shows\n"
    )
    assert "a-code" not in outcome.err


def test_an_account_that_works_is_logged_in_again_only_by_force(stack: Stack, plugin: Plugin) -> None:
    stack.apply(stack.account("frank"))
    stack.log_in("frank", "frank@example.com")
    outcome = plugin("login", "frank")
    assert (outcome.code, outcome.err) == (1, "error: frank is logged in already: --force logs in again\n")
    again = plugin("login", "frank", "--force", "--no-browser", stdin=Person(stack, "frank", "frank@example.com"))
    assert again.code == 0
    assert stack.get("frank")["status"]["token"]["generation"] == 2


def test_a_refused_code_of_an_account_that_works_is_told_and_the_account_works_on(stack: Stack, plugin: Plugin) -> None:
    stack.apply(stack.account("grace"))
    stack.log_in("grace", "grace@example.com")

    class Wrong(Person):
        def readline(self, size: int = -1, /) -> str:  # type: ignore[override]  # typeshed takes StringIO's for bytes
            return "not-the-code#" + super().readline().partition("#")[2]

    person = Wrong(stack, "grace", "grace@example.com")
    outcome = plugin("login", "grace", "--force", "--no-browser", stdin=person)
    assert outcome.code == 1
    assert outcome.err.splitlines()[-1].startswith("error: the token endpoint")
    assert stack.condition("grace", "Ready")["status"] == "True"


def test_with_a_device_code_nothing_is_handed_over(
    stack: Stack, command: tuple[str, ...], environment: dict[str, str], tmp_path: Path
) -> None:
    stack.simulator.set(device_interval=1)
    stack.apply(stack.account("judy", grant="DeviceCode"))
    with on_terminal(*command, "judy", environment=environment) as terminal:
        terminal.wait_for("and enter the code")
        code = stack.user_code("judy")
        assert code in terminal.printed
        assert code in opened(tmp_path, 1)  # the page on which it is filled in
        stack.simulator.approve_device(code, "judy@example.com")
        assert terminal.wait() == 0
    assert stack.condition("judy", "Ready")["reason"] == "Available"
    assert PROMPT not in terminal.printed


def test_a_device_login_that_is_denied_is_told(
    stack: Stack, command: tuple[str, ...], environment: dict[str, str]
) -> None:
    stack.simulator.set(device_interval=1)
    stack.apply(stack.account("mallory", grant="DeviceCode"))
    with on_terminal(*command, "mallory", "--no-browser", environment=environment) as terminal:
        terminal.wait_for("and enter the code")
        stack.simulator.deny_device(stack.user_code("mallory"))
        assert terminal.wait() == 1
    assert "was refused on the provider's page" in terminal.printed


def test_a_workload_needs_no_login(stack: Stack, plugin: Plugin) -> None:
    stack.apply(stack.workload_account("workload"))
    stack.wait_for_reason("workload", "Ready", "Available")
    outcome = plugin("login", "workload")
    assert outcome.code == 0
    assert "workload needs no login" in outcome.err
    assert "Ready is True (Available): access token valid until" in outcome.err


def test_a_login_that_cannot_be_is_told_at_once(stack: Stack, plugin: Plugin) -> None:
    stack.apply(stack.account("heidi", suspend=True))
    assert plugin("login", "heidi").err == "error: heidi is suspended: kubectl oauthaccount resume heidi\n"
    stack.apply(stack.account("ivan", provider="nobody"))
    outcome = plugin("login", "ivan")
    assert (outcome.code, "has no provider 'nobody'" in outcome.err) == (1, True)
