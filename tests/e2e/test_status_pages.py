"""The status pages of a running proxy and operator, in a real browser: on a phone and on a desk, by day and by night."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

import httpx2
import pytest

from tests.support.browser import Browser, running_browser
from tests.support.control_plane import ControlPlane, wait_until
from tests.support.control_plane.plane import free_port
from tests.support.stack import Stack, running_stack

LONG = "an-account-with-the-longest-name-that-a-label-of-kubernetes-has"
PEOPLE = {"claude-1": "alice@example.com", "claude-2": "bob@example.com", LONG: "carol@example.com"}
USED = {"claude-1": (0.28, 0.61), "claude-2": (1, 0.47), LONG: (0.83, 0.05)}
PROGRAMS = ("proxy", "operator")
LOGIN = "kubectl oauthaccount login claude-3"

every_program = pytest.mark.parametrize("program", PROGRAMS)
every_width = pytest.mark.parametrize("width", [320, 1200])
every_scheme = pytest.mark.parametrize("scheme", ["light", "dark"])


@dataclass(frozen=True)
class Pages:
    browser: Browser
    urls: dict[str, str]

    def open(self, program: str, *, path: str = "/?reload=no", width: int = 1200, scheme: str = "light") -> Browser:
        self.browser.open(self.urls[program] + path, width=width, scheme=scheme)
        return self.browser


@pytest.fixture(scope="module")
def pages(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pages]:
    """Of a pool with one account of each kind."""
    address = f"127.0.0.1:{free_port()}"
    with (
        running_browser(tmp_path_factory.mktemp("browser")) as browser,
        running_stack(control_plane, proxy_settings=f'metrics_addr = "{address}"', tokens="sealed") as stack,
    ):
        declare(stack)
        urls = {"proxy": f"http://{address}", "operator": stack.metrics_url}
        wait_until(lambda: all(says_all(stack, url) for url in urls.values()), "both pages to know of all", seconds=60)
        yield Pages(browser, urls)


def declare(stack: Stack) -> None:
    """Two that work, one that cools down, one that waits for a login, one that somebody took out of use."""
    for name, subject in PEOPLE.items():
        stack.apply(stack.account(name))
        stack.log_in(name, subject)
        five_hours, seven_days = USED[name]
        stack.simulator.use_windows(subject, five_hours=(five_hours, 9_700), seven_days=(seven_days, 280_000))
    stack.apply(stack.account("claude-3"))
    stack.apply(stack.account("spare", suspend=True))
    stack.wait_for_reason("claude-3", "Ready", "LoginRequired")
    stack.wait_for_reason("spare", "Ready", "Suspended")


def ask(stack: Stack, question: str) -> None:
    body = {"model": "claude-test", "max_tokens": 64, "messages": [{"role": "user", "content": question}]}
    httpx2.post(f"{stack.proxy_url}/v1/messages", json=body, timeout=30, trust_env=False)


def says_all(stack: Stack, url: str) -> bool:
    """Of every account, with the windows of those that can be asked; each is asked some day, if there are questions."""
    ask(stack, f"what is {random.random()}?")
    text = httpx2.get(url, trust_env=False).text
    known = (f"{name}<" in text for name in (*PEOPLE, "claude-3", "spare"))
    return all(known) and "recovers by itself</span>" in text and text.count("7d window") == len(PEOPLE)


@every_program
@every_width
@every_scheme
def test_nothing_goes_wrong_and_nothing_comes_from_elsewhere(
    pages: Pages, program: str, width: int, scheme: str
) -> None:
    browser = pages.open(program, width=width, scheme=scheme)
    said = [browser.seen(event) for event in ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")]
    assert said == [[], [], []]
    requested = {request["request"]["url"] for request in browser.seen("Network.requestWillBeSent")}
    assert requested == {f"{pages.urls[program]}/?reload=no"}


@every_program
@every_width
def test_it_is_as_wide_as_its_window_and_no_text_is_cut_off(pages: Pages, program: str, width: int) -> None:
    browser = pages.open(program, width=width)
    assert browser.evaluate("document.documentElement.scrollWidth") == width
    beyond = "[...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > innerWidth)"
    assert browser.evaluate(f"{beyond}.map(e => e.outerHTML)") == []


@every_program
@every_scheme
def test_it_is_dark_for_who_prefers_that_and_every_text_stands_out(pages: Pages, program: str, scheme: str) -> None:
    browser = pages.open(program, scheme=scheme)
    page, faint = browser.evaluate(f"(() => {{ {CONTRAST} return [luminance(behind(document.body)), tooFaint()]; }})()")
    assert (page < 0.5) is (scheme == "dark")
    assert faint == []


CONTRAST = """
const parts = colour => colour.match(/[\\d.]+/g).map(Number);
const luminance = colour => {
  const [r, g, b] = parts(colour).map(c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = element => {
  const colour = getComputedStyle(element).backgroundColor;
  return parts(colour)[3] === 0 && element.parentElement ? behind(element.parentElement) : colour;
};
const contrast = element => {
  const both = [getComputedStyle(element).color, behind(element)].map(luminance).sort((a, b) => a - b);
  return (both[1] + 0.05) / (both[0] + 0.05);
};
const hasText = element => [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim());
const tooFaint = () => [...document.body.querySelectorAll("*")]
  .filter(element => hasText(element) && contrast(element) < 4.5).map(element => element.outerHTML);
"""


@every_program
def test_a_screen_reader_hears_which_accounts_there_are_and_what_each_needs(pages: Pages, program: str) -> None:
    browser = pages.open(program)
    assert browser.named("main") == ["Accounts"]
    first, *accounts = browser.named("heading")
    assert first and accounts == ["claude-3", "claude-2", LONG, "claude-1", "spare"]  # who needs somebody comes first
    assert len(browser.named("listitem")) == len(accounts)
    images = browser.named("image")
    assert len(images) == 2 * len(PEOPLE)
    assert images[0].startswith("5h window, 100% used, resets in 2h 4")
    assert browser.named("link") == ["reload automatically"]
    spoken = browser.named("StaticText")
    assert LOGIN in spoken and "kubectl oauthaccount resume spare" in spoken


@every_program
def test_it_shows_a_bar_as_long_as_what_is_used(pages: Pages, program: str) -> None:
    browser = pages.open(program)
    widths = (
        "[...document.querySelectorAll('svg')].map(svg => [svg.getAttribute('aria-label').split(',')[1], "
        "svg.lastChild.getBoundingClientRect().width / svg.getBoundingClientRect().width])"
    )
    shown = {said.strip(): round(part, 2) for said, part in browser.evaluate(widths)}
    assert {"100% used": 1, "28% used": 0.28, "83% used": 0.83}.items() <= shown.items()


@every_program
def test_it_loads_itself_again(pages: Pages, program: str) -> None:
    browser = pages.open(program, path="/")
    assert browser.named("link") == ["stop reloading"]
    browser.wait_for("Page.loadEventFired", times=2)
