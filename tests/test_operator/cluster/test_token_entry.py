"""An entry of the sealed tokens: who can open it, what is sealed anew, and how long it is."""

import json
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oauth_pool_operator.account.documents import AccessFile
from oauth_pool_operator.cluster import hpke
from oauth_pool_operator.cluster.proxies import Proxies, Proxy
from oauth_pool_operator.cluster.shards import Shards
from oauth_pool_operator.cluster.token_entry import Token, TokenEntry, fitting, read, sealed, without_others, written
from tests.support.declared_proxies import DeclaredProxy

ACCESS = AccessFile(17, "not-a-real-access-token", "2026-11-20T20:00:00Z")
TOKEN = Token("claude-1", "uid-of-claude-1", ACCESS)
PROXIES = [DeclaredProxy(f"proxy-{number}") for number in range(3)]


def served(*declared: DeclaredProxy) -> Sequence[Proxy]:
    proxies = Proxies(hpke.is_usable)
    for one in declared:
        proxies.observe("ADDED", one.observed)
    return proxies.served


def entry(token: Token = TOKEN, *declared: DeclaredProxy) -> TokenEntry:
    return sealed(token, served(*(declared or PROXIES)), None, hpke.seal)


def boxes(of: TokenEntry) -> dict[str, str]:
    return {pod: box.box for pod, box in of.sealed.items()}


def test_each_proxy_opens_its_own_box_and_nobody_else_s() -> None:
    value = written(entry())
    for one in PROXIES:
        assert one.opened(value) == json.loads(msgspec.json.encode(ACCESS))
    stranger = DeclaredProxy("proxy-0")
    document = json.loads(value)
    document["sealed"]["proxy-0"]["key"] = stranger.key
    assert stranger.opened(json.dumps(document)) is None


@pytest.mark.parametrize(
    "change", [{"uid": "another"}, {"generation": 18}, {"fingerprint": "0" * 16}], ids=lambda change: next(iter(change))
)
def test_a_box_that_is_moved_to_another_entry_does_not_open(change: dict[str, object]) -> None:
    assert PROXIES[0].opened(json.dumps(json.loads(written(entry())) | change)) is None


def test_a_box_that_is_given_to_another_pod_does_not_open() -> None:
    document = json.loads(written(entry()))
    document["sealed"]["proxy-9"] = document["sealed"]["proxy-0"]
    thief = PROXIES[0]
    thief_under_another_name = DeclaredProxy("proxy-9")
    thief_under_another_name._private, thief_under_another_name.key = thief._private, thief.key
    assert thief_under_another_name.opened(json.dumps(document)) is None


def test_what_is_sealed_already_stays_as_it_is() -> None:
    first = entry()
    again = sealed(TOKEN, served(*PROXIES, DeclaredProxy("proxy-9")), read(written(first)), hpke.seal)
    assert boxes(first).items() < boxes(again).items()


@pytest.mark.parametrize(
    "token",
    [
        Token("claude-1", "another-uid", ACCESS),
        Token("claude-1", TOKEN.uid, msgspec.structs.replace(ACCESS, generation=18)),
        Token("claude-1", TOKEN.uid, msgspec.structs.replace(ACCESS, access_token="another-access-token...")),
    ],
    ids=["another account of the name", "another generation", "another token"],
)
def test_another_token_is_sealed_anew(token: Token) -> None:
    before = entry()
    assert not set(boxes(before).values()) & set(boxes(sealed(token, served(*PROXIES), before, hpke.seal)).values())


def test_a_new_key_and_a_box_that_cannot_be_whole_are_sealed_anew() -> None:
    proxies = [DeclaredProxy(f"proxy-{number}") for number in range(3)]
    before = entry(TOKEN, *proxies)
    proxies[0].renew_key()
    cut = msgspec.structs.replace(before.sealed["proxy-1"], box=before.sealed["proxy-1"].box[:-4])
    before = msgspec.structs.replace(before, sealed={**before.sealed, "proxy-1": cut})
    value = written(sealed(TOKEN, served(*proxies), before, hpke.seal))
    assert all(one.opened(value) for one in proxies)
    assert boxes(before)["proxy-2"] in value


def test_boxes_of_proxies_that_are_gone_and_of_keys_that_are_not_theirs_any_more_go() -> None:
    proxies = [DeclaredProxy(f"proxy-{number}") for number in range(3)]
    before = entry(TOKEN, *proxies)
    proxies[1].renew_key()
    assert list(without_others(before, served(*proxies[1:])).sealed) == ["proxy-2"]


@pytest.mark.parametrize("rubbish", ["", "x", "{}", "[]", '{"version": 1}', '{"version": 2}', None])
def test_what_is_no_entry_is_read_as_none(rubbish: str | None) -> None:
    assert read(rubbish) is None


def test_nothing_that_shows_a_token_prints_it() -> None:
    shown = f"{TOKEN!r} {[TOKEN]} {TOKEN} {entry()!r}"
    assert ACCESS.access_token not in shown


NAMES = st.from_regex(r"[a-z0-9]([-a-z0-9.]{0,60}[a-z0-9])?", fullmatch=True)


@given(
    name=NAMES,
    pods=st.lists(NAMES, min_size=1, max_size=6, unique=True),
    generation=st.integers(1, 10**7),
    token=st.text(alphabet=st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=300),
)
def test_who_fits_is_known_before_anything_is_sealed(name: str, pods: list[str], generation: int, token: str) -> None:
    """Counted too short, an entry would not fit; too long, a proxy would be left out for whom there is room."""
    of = Token(name, "3f8b7c1e-0000-4000-8000-000000000001", AccessFile(generation, token, "2026-11-20T20:00:00Z"))
    proxies = [Proxy(pod, b"", "0" * 16, "") for pod in pods]

    def seal(_: bytes, plaintext: bytes, __: bytes) -> bytes:
        return bytes(48) + plaintext

    for count in range(1, len(pods) + 1):
        length = len(written(sealed(of, proxies[:count], None, seal)))
        assert len(fitting(of, proxies, length)) == count
        assert len(fitting(of, proxies, length - 1)) == count - 1


@pytest.mark.parametrize(("accounts", "proxies"), [(2000, 11), (230, 100)])
def test_as_many_fit_as_the_documentation_says(accounts: int, proxies: int) -> None:
    """By names and a token of ordinary length."""
    crowd = [Proxy(f"anthropic-oauth-proxy-5d9c7b8f6d-{number:05}", b"", "0" * 16, "") for number in range(100)]
    access = AccessFile(17, "x" * 108, "2026-11-20T20:00:00Z")
    shards = Shards(preferred_bytes=0, may_move=True)
    for number in range(accounts):
        token = Token(f"claude-{number:04}", "3f8b7c1e-0000-4000-8000-000000000001", access)
        value = written(sealed(token, crowd[:proxies], None, lambda _, plaintext, __: bytes(48) + plaintext))
        shards.put(token.name, value)
    page = " ".join((Path(__file__).parents[3] / "docs/operator.md").read_text().split())
    assert f"{accounts:,} accounts for {proxies} proxies" in page
