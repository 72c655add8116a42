"""What the pages promise is what the proxy has, and the other way round: metrics, settings, errors, outcomes, log fields."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from oauth_pool_proxy.config import parse_config
from oauth_pool_proxy.errors import ClientGone, ConfigInvalid, ProxyError, StreamBroken
from oauth_pool_proxy.observe.access_log import RequestLine
from oauth_pool_proxy.observe.pool_metrics import SealedTokensCollector
from oauth_pool_proxy.pool.sealed_entry import Why
from oauth_pool_proxy.request import Phase
from tests.support.proxy_server import PoolFolder
from tests.support.upstream_server import UpstreamServer, json_answer
from tests.test_proxy.conftest import Start

ROOT = Path(__file__).parents[2]
PROXY, METRICS = (ROOT / "docs" / name for name in ("proxy.md", "metrics.md"))


def section(page: Path, title: str) -> str:
    """From this heading to the next one of its level or above."""
    level = len(title.partition(" ")[0])
    return re.split(rf"^#{{2,{level}}} ", page.read_text().split(f"\n{title}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[
        0
    ]


def rows(text: str) -> Iterator[list[str]]:
    """The cells of all tables, without their heads."""
    for line in text.splitlines():
        if line.startswith("| `"):
            yield [cell.strip() for cell in line.strip("|").split(" | ")]


def words(cell: str) -> list[str]:
    return re.findall(r"`([^`]*)`", cell)


def sealed_only() -> CollectorRegistry:
    """The metrics of proxies whose tokens are sealed."""
    registry = CollectorRegistry()
    registry.register(SealedTokensCollector(lambda: dict.fromkeys(Why, 0)))
    return registry


async def test_every_metric_is_documented_with_its_type_and_labels_and_no_other(
    upstream: UpstreamServer, start: Start, folder: PoolFolder
) -> None:
    folder.account("a")
    window = "anthropic-ratelimit-unified-5h"
    upstream.answer_all(
        json_answer(
            b'{"model":"m","usage":{"input_tokens":1}}', 200, (f"{window}-utilization", "0"), (f"{window}-reset", "1")
        )
    )
    clients = {"require": False, "tailscale_listen_addr": "127.0.0.1:0", "service_accounts": False}
    proxy = start(oauth=folder.oauth(), metrics_addr="127.0.0.1:0", clients=clients)
    await proxy.request("POST", "/", "", b'{"messages":[{"role":"user","content":"x"}]}')
    text = (await proxy.request("GET", "/metrics", port=proxy.metrics_port)).body.decode()
    text += generate_latest(sealed_only()).decode()
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    kinds = {name: kind for name, kind in kinds.items() if not name.startswith("process_")}
    documented = {words(row[0])[0]: row for row in rows(section(METRICS, "## Proxy"))}
    documented = {name: row for name, row in documented.items() if re.fullmatch(r"[a-z_]+", name)}
    assert documented.keys() == kinds.keys()
    for name, row in documented.items():
        assert row[1].startswith(kinds[name]), name
        for labels in re.findall(rf"^{name}(?:_bucket)?{{(.*)}} ", text, re.MULTILINE):
            of_series = set(re.findall(r'(\w+)="', labels)) - {"le"}
            assert of_series <= set(words(row[2])), name


async def test_every_metric_of_an_alert_exists() -> None:
    text = section(METRICS, "## Proxy")
    documented = {words(row[0])[0] for row in rows(text)}
    used = set(re.findall(r"\b(?:proxy|pool)_[a-z_]+", text))
    assert {name.removesuffix("_bucket") for name in used} <= documented | {"proxy_"}


def test_why_sealed_tokens_are_not_here_is_documented() -> None:
    (row,) = (row for row in rows(section(METRICS, "## Proxy")) if "pool_sealed_tokens_unopened" in row[0])
    assert words(row[2]) == ["reason", *(why.value for why in Why)]


def test_the_phases_of_clients_that_left_are_documented() -> None:
    (row,) = (row for row in rows(section(METRICS, "## Proxy")) if "proxy_client_disconnects_total" in row[0])
    assert words(row[2]) == ["phase", *(phase.value for phase in Phase)]


def known_keys(table: str) -> set[str]:
    """By the word of the message that refuses every other."""
    kubernetes = {"server": "http://a", "namespace": "a"}
    key: dict[str, object] = {"name": "a", "sha256": "0" * 64}
    rule: dict[str, object] = {"match": ["*"]}
    values: dict[str, dict[str, object]] = {
        "proxy": {"listen_addr": "127.0.0.1:0", "upstream_url": "http://a"},
        "oauth": {"source": "kubernetes", "kubernetes": kubernetes},
        "clients": {"keys": [key], "rules": [rule]},
    }
    where: dict[str, dict[str, object]] = {
        "[proxy]": values["proxy"],
        "[oauth]": values["oauth"],
        "[oauth.kubernetes]": kubernetes,  # type: ignore[dict-item]
        "[clients]": values["clients"],
        "[[clients.keys]]": key,
        "[[clients.rules]]": rule,
    }
    where[table]["no-such-key"] = 1
    with pytest.raises(ConfigInvalid) as caught:
        parse_config(values, {})
    return set(str(caught.value).partition("known are: ")[2].split(", "))


OLD = {"credential_file", "refresh_interval_secs", "refresh_threshold_secs", "providers"}
INNER = {"kubernetes", "headers", "rules", "keys"}


def test_every_setting_is_documented_and_no_other() -> None:
    proxy = {words(row[0])[0] for row in rows(section(PROXY, "### `[proxy]`"))}
    assert proxy == known_keys("[proxy]")
    oauth, kubernetes = section(PROXY, "### `[oauth]` (pool mode)").split("\n`[oauth.kubernetes]`", 1)
    assert {words(row[0])[0] for row in rows(oauth)} - {"[[oauth.headers]]", "[[oauth.rules]]"} == known_keys(
        "[oauth]"
    ) - OLD - INNER
    of_kubernetes = {words(row[0])[0] for row in rows(kubernetes)}
    assert of_kubernetes == known_keys("[oauth.kubernetes]")
    assert all(f"`{key}`" in kubernetes for key in OLD)
    clients, keys, rules = re.split(r"\n`\[\[clients\.\w+\]\]`", section(PROXY, "### `[clients]`"))
    for text, table in ((clients, "[clients]"), (keys, "[[clients.keys]]"), (rules, "[[clients.rules]]")):
        assert {word for row in rows(text) for word in words(row[0])} == known_keys(table) - INNER


def test_every_setting_is_in_the_example() -> None:
    example = (ROOT / "examples" / "proxy.toml").read_text()
    for table in ("[proxy]", "[oauth]", "[oauth.kubernetes]", "[clients]", "[[clients.keys]]", "[[clients.rules]]"):
        for key in known_keys(table) - OLD - INNER:
            assert re.search(rf"^(# )?{key} = ", example, re.MULTILINE), key


def all_errors(base: type[ProxyError] = ProxyError) -> Iterator[type[ProxyError]]:
    yield base
    for one in base.__subclasses__():
        yield from all_errors(one)


def test_every_error_is_documented_with_its_status_and_type() -> None:
    text = section(PROXY, "## Errors of the proxy")
    documented = set(re.findall(r"^\| (\d+) \| `(\w+)` \|", text, re.MULTILINE))
    assert documented == {(str(error.status), error.type) for error in all_errors()}


def test_every_outcome_and_every_field_of_the_log_line_is_documented() -> None:
    text = section(PROXY, "## Logs")
    table, outcomes = text.split("| `outcome` | | what to do |", 1)
    broken = {StreamBroken("", error_type=kind).outcome for kind in ("timeout", "connection")}
    expected = {error.outcome for error in all_errors()} | broken | {ClientGone.outcome, "ok"}
    assert {words(row[0])[0] for row in rows(outcomes)} == expected
    fields = {word for row in rows(table) if row[0] != "`field`" for word in words(row[0])}
    assert fields == set(RequestLine.__struct_fields__)
    example = json.loads(text.split("```json\n", 1)[1].split("```", 1)[0])
    assert set(RequestLine.__struct_fields__) - {"error"} <= example.keys()
