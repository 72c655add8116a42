"""A login whose page sends the browser back to this machine: real sockets, and the real operator and simulator."""

import socket
from pathlib import Path
from urllib.parse import urlencode

import httpx2
import pytest

from kubectl_oauthaccount.loopback import Callback, PortTaken, callback_of, listening
from tests.support.control_plane import wait_until
from tests.support.control_plane.plane import free_port
from tests.support.pseudo_terminal import on_terminal
from tests.support.stack import Stack
from tests.test_kubectl_plugin.browser import environment_with_browser, opened
from tests.test_kubectl_plugin.conftest import Plugin

STATE = "a-state"


def authorization_url(redirect_uri: str, state: str = STATE) -> str:
    return f"https://provider.example/authorize?{urlencode({'redirect_uri': redirect_uri, 'state': state})}"


@pytest.fixture
def callback() -> Callback:
    found = callback_of(authorization_url(f"http://127.0.0.1:{free_port()}/auth/callback"))
    assert found is not None
    return found


def test_the_browser_brings_the_code_and_sees_a_page(callback: Callback) -> None:
    url = f"{callback.where.geturl()}?code=a-code&state={STATE}&iss=https%3A%2F%2Fprovider.example"
    with listening(callback):
        page = httpx2.get(url)
    assert callback.wait(0) == url  # all of it: the operator looks at `iss`, too
    assert (page.status_code, "You can close this window" in page.text) == (200, True)
    assert "a-code" not in page.text
    assert (page.headers["referrer-policy"], page.headers["cache-control"]) == ("no-referrer", "no-store")


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param("/auth/callback?code=evil&state=guessed", id="of another login"),
        pytest.param("/auth/callback?code=evil", id="without a state"),
        pytest.param(f"/elsewhere?code=evil&state={STATE}", id="at another path"),
        pytest.param("/favicon.ico", id="something else"),
    ],
)
def test_what_any_page_may_send_there_is_not_taken_and_the_right_one_is_waited_for(
    callback: Callback, request_: str
) -> None:
    base = f"http://{callback.where.netloc}"
    with listening(callback):
        assert httpx2.get(f"{base}{request_}").status_code == 404
        assert httpx2.get(f"{base}/auth/callback?code=mine&state={STATE}").status_code == 200
    assert callback.wait(0) == f"{base}/auth/callback?code=mine&state={STATE}"


def test_a_connection_that_says_nothing_holds_nobody(callback: Callback) -> None:
    """Browsers open some in advance."""
    with listening(callback), socket.create_connection(("127.0.0.1", callback.where.port or 0)):
        assert httpx2.get(f"{callback.where.geturl()}?code=c&state={STATE}").status_code == 200


def test_what_came_is_logged_nowhere(callback: Callback, capfd: pytest.CaptureFixture[str]) -> None:
    with listening(callback):
        httpx2.get(f"{callback.where.geturl()}?code=a-code&state={STATE}")
    assert capfd.readouterr() == ("", "")
    assert "a-code" not in repr(callback)


def test_only_this_machine_is_listened_to(callback: Callback) -> None:
    with listening(callback):
        for family, _, _, _, address in socket.getaddrinfo(socket.gethostname(), callback.where.port, socket.AF_INET):
            if not str(address[0]).startswith("127."):
                with socket.socket(family) as elsewhere:
                    assert elsewhere.connect_ex(address) != 0


def test_localhost_is_answered_at_each_of_its_addresses() -> None:
    found = callback_of(authorization_url(f"http://localhost:{free_port()}/cb"))
    assert found is not None
    with listening(found):
        for host in ("127.0.0.1", "[::1]") if socket.has_ipv6 else ("127.0.0.1",):
            assert httpx2.get(f"http://{host}:{found.where.port}/cb?code=c&state={STATE}").status_code == 200


def test_a_port_that_somebody_else_has_is_told_and_not_shared(callback: Callback) -> None:
    with (
        socket.create_server(("127.0.0.1", callback.where.port or 0)),
        pytest.raises(PortTaken, match="cannot be listened on"),
        listening(callback),
    ):
        pass


@pytest.mark.parametrize(
    "redirect_uri",
    [
        *("https://provider.example/callback", "http://provider.example/callback", "https://127.0.0.1/cb"),
        *("http://127.0.0.1.evil.example/cb", "http://0.0.0.0:80/cb", "http://127.0.0.1:99999/cb", "myapp:/cb", ""),
    ],
)
def test_nothing_but_a_loopback_address_is_listened_on(redirect_uri: str) -> None:
    assert callback_of(authorization_url(redirect_uri)) is None


def test_without_a_state_nothing_is_listened_for() -> None:
    assert callback_of(authorization_url("http://127.0.0.1:1455/cb", state="")) is None


# --- with the operator and the simulator -----------------------------------------------------------------------------


@pytest.fixture
def namespace(stack: Stack) -> str:
    return stack.namespace


@pytest.fixture
def environment(stack: Stack, tmp_path: Path) -> dict[str, str]:
    return environment_with_browser(stack, tmp_path)


def command(stack: Stack, *arguments: str) -> tuple[str, ...]:
    return (str(stack.control_plane.kubectl_path), "oauthaccount", "-n", stack.namespace, "login", *arguments)


def test_where_the_page_comes_back_to_this_machine_nothing_is_pasted(
    stack: Stack, environment: dict[str, str], tmp_path: Path
) -> None:
    stack.apply(stack.account("loop-a", provider="loopback"))
    with on_terminal(*command(stack, "loop-a"), environment=environment) as terminal:
        redirect = stack.simulator.redirect_of(opened(tmp_path, 1), "loop-a@example.com")
        assert httpx2.get(redirect).status_code == 200
        assert terminal.wait() == 0
    assert stack.condition("loop-a", "Ready")["reason"] == "Available"
    assert "What the page shows" not in terminal.printed
    assert redirect.partition("code=")[2].partition("&")[0] not in terminal.printed


def test_a_login_that_the_page_refuses_can_be_tried_again(
    stack: Stack, environment: dict[str, str], tmp_path: Path
) -> None:
    stack.apply(stack.account("loop-b", provider="loopback"))
    with on_terminal(*command(stack, "loop-b"), environment=environment) as terminal:
        url = opened(tmp_path, 1)
        right = stack.simulator.redirect_of(url, "loop-b@example.com")
        state = right.partition("state=")[2].partition("&")[0]
        refusal = f"{stack.loopback_uri}?error=access_denied&state={state}"
        assert "was refused" in httpx2.get(refusal).text
        terminal.wait_for("warning: the page refused the login")
        wait_until(lambda: _is_answered(right), "the second try")
        assert terminal.wait() == 0
    assert stack.condition("loop-b", "Ready")["reason"] == "Available"


def _is_answered(url: str) -> bool:
    try:
        return httpx2.get(url).status_code == 200
    except httpx2.TransportError:
        return False


def test_with_paste_the_code_is_asked_for_all_the_same(stack: Stack, plugin: Plugin) -> None:
    stack.apply(stack.account("loop-c", provider="loopback"))
    stack.authorization_url("loop-c")
    with socket.create_server(("127.0.0.1", int(stack.loopback_uri.rpartition(":")[2].partition("/")[0]))):
        outcome = plugin("login", "loop-c", "--paste", "--no-browser", stdin="not-a-code#of-this-login\n")
    assert outcome.err.endswith(
        "error: this code belongs to another login: open the URL above, and copy what its page shows\n"
    )
    assert "cannot be listened on" not in outcome.err


def test_where_the_port_is_taken_the_address_is_asked_for(stack: Stack, plugin: Plugin) -> None:
    stack.apply(stack.account("loop-d", provider="loopback"))
    stack.authorization_url("loop-d")
    with socket.create_server(("127.0.0.1", int(stack.loopback_uri.rpartition(":")[2].partition("/")[0]))):
        outcome = plugin("login", "loop-d", "--no-browser", stdin="not-a-code#of-this-login\n")
    assert outcome.code == 1
    assert "cannot be listened on: Address already in use: paste the address that the browser ends at" in outcome.err


def test_a_browser_that_never_comes_back_ends_with_what_to_do(stack: Stack, plugin: Plugin) -> None:
    stack.apply(stack.account("loop-e", provider="loopback"))
    stack.authorization_url("loop-e")
    outcome = plugin("login", "loop-e", "--no-browser", "--timeout", "2s")
    assert outcome.code == 3
    assert "the browser did not come back" in outcome.err and "--paste" in outcome.err
