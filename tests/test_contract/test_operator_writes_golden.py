"""The wire format between operator and proxy, written: the same bytes that the proxy's tests read."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from oauth_pool_operator.account.documents import AccessFile, Credential
from oauth_pool_operator.account.facts import Facts
from oauth_pool_operator.account.index_entry import render_entry
from oauth_pool_operator.account.spec import rfc3339
from oauth_pool_operator.cluster.config_maps import INDEX_LABEL, SHARDS_ANNOTATION, shard_name
from oauth_pool_operator.cluster.shards import MOST_SHARDS
from oauth_pool_operator.storage.store import Store
from tests.support.builders import account, credential, facts, report, session

GOLDEN = Path(__file__).with_name("golden")
INDEX: dict[str, str] = json.loads((GOLDEN / "index.json").read_text())
NOW = datetime(2026, 11, 20, 16, 0, 0, tzinfo=UTC)


def uid(number: int) -> str:
    return f"00000000-0000-4000-8000-00000000000{number}"


def token(number: int, generation: int, expires: datetime, **members: Any) -> Credential:
    return credential(
        generation=generation,
        access_token=f"not-a-real-access-token-of-claude-{number}-{generation}",
        expires=expires,
        obtained=expires - timedelta(hours=8),
        **members,
    )


TOKENS = {
    1: token(1, 17, NOW + timedelta(hours=4)),
    2: token(2, 3, NOW + timedelta(hours=3, minutes=30)),
    5: token(5, 1, NOW - timedelta(hours=4), dead="GrantRevoked"),
}
EXHAUSTED = report(until_time=NOW + timedelta(hours=2), observed_time=NOW)
POOL = [
    facts(
        account(name="claude-1", uid=uid(1), labels={"tier": "gold", "team": "research"}),
        now=NOW,
        credential=TOKENS[1],
    ),
    facts(
        account(
            name="claude-2",
            uid=uid(2),
            priority=10,
            weight=3,
            max_concurrent_requests=8,
            cooldown="15m",
            reports=(EXHAUSTED,),
        ),
        now=NOW,
        credential=TOKENS[2],
    ),
    facts(account(name="claude-3", uid=uid(3)), now=NOW, session=session()),
    facts(account(name="claude-4", uid=uid(4), suspend=True, priority=-5), now=NOW),
    facts(account(name="claude-5", uid=uid(5)), now=NOW, credential=TOKENS[5]),
]


@pytest.mark.parametrize("of", POOL, ids=lambda of: of.account.name)
def test_an_entry_is_written_byte_for_byte(of: Facts) -> None:
    assert msgspec.json.encode(render_entry(of)).decode() == INDEX[of.account.name]


def test_every_golden_entry_is_written_by_one_of_these() -> None:
    assert {of.account.name for of in POOL} == set(INDEX)


def test_config_maps_are_named_and_labelled_as_readers_expect() -> None:
    shards = json.loads((GOLDEN / "shards.json").read_text())
    assert [shard_name("oauth-pool", number) for number in range(MOST_SHARDS)] == shards["names"]
    assert (shards["labels"], shards["annotation"]) == ({INDEX_LABEL: "1"}, SHARDS_ANNOTATION)


@pytest.mark.parametrize("number", TOKENS)
def test_an_access_file_is_written_byte_for_byte(number: int, tmp_path: Path) -> None:
    of = TOKENS[number]
    Store(tmp_path, tmp_path).save_access(uid(number), AccessFile(of.generation, of.access_token, rfc3339(of.expires)))
    written = (tmp_path / f"{uid(number)}.json").read_bytes()
    assert written == (GOLDEN / "access" / f"{uid(number)}.json").read_bytes()
