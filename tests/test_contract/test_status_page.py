"""The status pages of proxy and operator look the same: the distributions share no code, so each has the same file."""

from html.parser import HTMLParser
from pathlib import Path

import pytest

from oauth_pool_proxy.observe.status_html import HEADERS, MOST_CARDS, STYLE, Bar, Card, Tone, page, when

ROOT = Path(__file__).parents[2]
NOW = 1_795_820_000.0


class Parsed(HTMLParser):
    def __init__(self, document: bytes) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(document.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "rect"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def rendered(*cards: Card, reloads: bool = True) -> Parsed:
    return Parsed(page("anthropic", "a test", [("served", "7")], cards, NOW, reloads=reloads))


def test_both_have_the_same_look() -> None:
    proxy = ROOT / "proxy/src/oauth_pool_proxy/observe/status_html.py"
    assert (ROOT / "operator/src/oauth_pool_operator/status_html.py").read_text() == proxy.read_text()


def test_a_window_says_in_words_what_its_bar_shows() -> None:
    bars = [Bar("5h", 1.08, NOW + 7800), Bar("7d", 0.28, NOW - 1), Bar("7d_opus", None)]
    parsed = rendered(Card("claude-1", "CoolingDown", Tone.WAIT, bars))
    assert [svg["aria-label"] for svg in parsed.of("svg")] == [
        "5h window, 108% used, resets in 2h 10m",
        "7d window, 28% used",
        "7d_opus window, use unknown",
    ]
    assert {svg["role"] for svg in parsed.of("svg")} == {"img"}
    widths = [(rect["class"], rect["width"]) for rect in parsed.of("rect") if rect["class"] != "track"]
    assert widths == [("full", "100.0"), ("low", "28.0"), ("none", "0.0")]


def test_the_most_urgent_come_first_and_the_title_counts_all() -> None:
    parsed = rendered(*(Card(tone.value, "Word", tone) for tone in reversed(Tone)))
    headings = [parsed.texts[parsed.texts.index(tone.value)] for tone in Tone]
    assert headings == sorted(headings, key=parsed.texts.index) == ["act", "wait", "well", "off"]
    counts = "4 accounts (1 in use, 1 recovers by itself, 1 needs a person, 1 switched off)"
    assert f"{counts}: anthropic" in parsed.texts


def test_what_is_left_out_is_counted() -> None:
    parsed = rendered(*(Card(f"account-{number}", "Available", Tone.WELL) for number in range(MOST_CARDS + 3)))
    assert len(parsed.of("li")) == MOST_CARDS
    assert "3 more are not shown." in parsed.texts


def test_it_is_escaped_and_nothing_comes_from_elsewhere() -> None:
    evil = '<script src="//evil.example">"&'
    parsed = rendered(Card(evil, evil, Tone.ACT, [Bar(evil, 0.5)], [(evil, evil)], evil, evil))
    assert parsed.open == []
    # name, status, bar, two of facts, advice, command: as text
    assert [text.strip() for text in parsed.texts].count(evil) == 7
    tags = {tag for tag, _ in parsed.tags}
    assert not tags & {"script", "img", "link", "iframe", "form", "button", "input", "object"}
    assert {attributes.get("href") for attributes in parsed.of("a")} == {"?reload=no"}
    assert not [
        name for _, attributes in parsed.tags for name in attributes if name.startswith("on") or name == "style"
    ]
    assert "url(" not in STYLE and "@import" not in STYLE


def test_it_reloads_unless_one_asks_it_not_to() -> None:
    assert [meta["content"] for meta in rendered().of("meta") if meta.get("http-equiv") == "refresh"] == ["10"]
    still = rendered(reloads=False)
    assert not [meta for meta in still.of("meta") if meta.get("http-equiv")]
    assert still.of("a") == [{"href": "/"}]


def test_it_is_for_readers_of_all_kinds() -> None:
    parsed = rendered(Card("claude-1", "Available", Tone.WELL))
    assert parsed.of("html") == [{"lang": "en"}]
    assert len(parsed.of("h1")) == len(parsed.of("main")) == len(parsed.of("title")) == 1
    assert "prefers-color-scheme:dark" in STYLE
    assert any((meta.get("content") or "").startswith("width=device-width") for meta in parsed.of("meta"))
    assert "default-src 'none'" in HEADERS["content-security-policy"]


def test_nobody_is_there() -> None:
    assert "No account is known." in rendered().texts


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "now"), (59, "in 59s"), (3600, "in 1h"), (7800, "in 2h 10m"), (90061, "in 1d 1h"), (-300, "5m ago")],
)
def test_spans_have_two_units_at_most(seconds: int, said: str) -> None:
    assert when(NOW + seconds, NOW) == said
