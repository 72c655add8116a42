"""The wire format between operator and proxy, read from the golden files. The operator's tests write the same bytes."""

import json
from pathlib import Path

import msgspec
import pytest

from oauth_pool_proxy.pool.config_maps import MOST_SHARDS, SHARDS
from oauth_pool_proxy.pool.index import IndexEntry, PoolIndexReader, parse_entry
from oauth_pool_proxy.pool.pool import Pool, State
from oauth_pool_proxy.pool.token_files import TokenFiles
from oauth_pool_proxy.pool.token_reader import read_token_file
from tests.support.proxy_server import Clock

GOLDEN = Path(__file__).with_name("golden")
INDEX: dict[str, str] = json.loads((GOLDEN / "index.json").read_text())
BEFORE_ANY_EXPIRES = 1_795_190_400.0  # 2026-11-20T16:00:00Z


@pytest.mark.parametrize("name", INDEX)
def test_an_entry_is_read_and_says_the_same_when_written_again(name: str) -> None:
    entry = parse_entry(name, INDEX[name])
    assert msgspec.json.encode(entry).decode() == INDEX[name]


def test_further_config_maps_are_announced_as_the_operator_does() -> None:
    shards = json.loads((GOLDEN / "shards.json").read_text())
    assert (shards["annotation"], len(shards["names"])) == (SHARDS, MOST_SHARDS)


def test_the_fields_are_the_documented_ones() -> None:
    entry = parse_entry("claude-2", INDEX["claude-2"])
    assert entry.expires is not None and entry.cooldown_until is not None
    assert (entry.status, entry.priority, entry.weight, entry.max_concurrent_requests) == ("CoolingDown", 10, 3, 8)
    assert (entry.generation, entry.cooldown_seconds) == (3, 900)
    assert entry.expires.isoformat() == "2026-11-20T19:30:00+00:00"
    assert entry.cooldown_until.isoformat() == "2026-11-20T18:00:00+00:00"


@pytest.mark.parametrize("file", sorted((GOLDEN / "access").iterdir()), ids=lambda file: file.stem[-1])
def test_an_access_file_is_the_one_that_the_index_announces(file: Path) -> None:
    token = read_token_file(file)
    entries = [parse_entry(name, text) for name, text in INDEX.items()]
    (entry,) = [entry for entry in entries if f"{entry.uid}.json" == file.name]
    assert entry.expires is not None
    assert (token.generation, token.fingerprint) == (entry.generation, entry.fingerprint)
    assert token.expires_at == entry.expires.timestamp()
    assert token.value.startswith("not-a-real-access-token")


async def test_index_and_files_together_make_the_pool() -> None:
    pool, clock = Pool(), Clock(BEFORE_ANY_EXPIRES)
    tokens = TokenFiles(GOLDEN / "access", pool, clock)
    pool.replace(PoolIndexReader("anthropic").read(INDEX))
    tokens.index_changed()
    assert await tokens.poll() is None
    states = {account.name: account.state(clock.now) for account in pool.accounts}
    assert states == {
        "claude-1": State.AVAILABLE,
        "claude-2": State.COOLING_DOWN,
        "claude-3": State.DISABLED,
        "claude-4": State.DISABLED,
        "claude-5": State.DISABLED,
    }


def test_the_order_of_fields_is_the_documented_one() -> None:
    fields = [field.encode_name for field in msgspec.structs.fields(IndexEntry)]
    assert list(json.loads(INDEX["claude-1"])) == fields
