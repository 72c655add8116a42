"""The pool index: one bad entry costs one account, and is complained about once."""

import json
import logging

import pytest

from oauth_pool_proxy.errors import PoolIndexInvalid
from oauth_pool_proxy.pool.index import PoolIndexReader, parse_entry
from tests.support.proxy_server import index_entry


def text(name: str = "a", **changes: object) -> str:
    return json.dumps({**index_entry(name), **changes})


def test_an_entry_is_read_and_what_is_new_in_it_ignored() -> None:
    entry = parse_entry("a", text(somethingNew={"x": 1}, maxConcurrentRequests=4))
    assert (entry.name, entry.uid, entry.max_concurrent_requests, entry.cooldown_seconds) == ("a", "uid-a", 4, 7200)
    assert entry.expires is not None and entry.expires.tzinfo is not None


def test_an_account_without_an_access_token_is_an_entry_like_any_other() -> None:
    entry = parse_entry("a", text(generation=0, fingerprint="", expires=None, status="LoginRequired"))
    assert (entry.generation, entry.expires) == (0, None)


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "not json",
        "[]",
        "{}",
        "\ud800",
        text(version=2),
        text(version=2, status={"another": "shape"}),
        text(version="1"),
        text(name="b"),
        text(uid="../../etc/passwd"),
        text(uid="a/b"),
        text(uid=""),
        text(uid="."),
        text(fingerprint="not hex"),
        text(generation=-1),
        text(generation="17"),
        text(weight=-1),
        text(priority=1.5),
        text(expires="tomorrow"),
        text(expires="2026-11-20T20:00:00"),
        text(status=None),
    ],
)
def test_an_entry_that_cannot_be_used_is_refused_with_a_reason(bad: str) -> None:
    with pytest.raises(PoolIndexInvalid) as caught:
        parse_entry("a", bad)
    assert str(caught.value)


def test_a_bad_entry_costs_its_own_account_and_is_complained_about_once_per_change(
    caplog: pytest.LogCaptureFixture,
) -> None:
    reader = PoolIndexReader("anthropic")
    data = {"a": text("a"), "b": text("b", version=2), "c": text("c")}
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert [entry.name for entry in reader.read(data)] == ["a", "c"]
        assert len(caplog.records) == 1
        reader.read({**data, "b": text("b", version=3)})
        assert len(caplog.records) == 2
    assert [entry.name for entry in reader.read({**data, "b": text("b")})] == ["a", "b", "c"]


@pytest.mark.parametrize("bad", ["", "{", text("a", uid="../x"), text("b")])
def test_what_cannot_be_read_takes_no_account_away(bad: str) -> None:
    reader = PoolIndexReader("anthropic")
    reader.read({"a": text("a", generation=7)})
    for _ in range(2):
        assert [entry.generation for entry in reader.read({"a": bad, "c": bad})] == [7]
    assert [entry.generation for entry in reader.read({"a": text("a", generation=8)})] == [8]
    assert reader.read({}) == reader.read({"a": bad}) == []


def test_an_entry_of_another_version_is_refused_whatever_was_there_before() -> None:
    reader = PoolIndexReader("anthropic")
    reader.read({"a": text("a")})
    assert reader.read({"a": text("a", version=2)}) == []


def test_entries_of_another_provider_are_somebody_else_s() -> None:
    reader = PoolIndexReader("anthropic")
    assert reader.read({"a": text("a", provider="other")}) == []
