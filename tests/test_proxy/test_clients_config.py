"""`[clients]`: what is accepted, and the one line about everything that is not."""

import hashlib
from pathlib import Path

import pytest

from oauth_pool_proxy.config import ClientsConfig, Config, KubernetesConfig, load_config
from oauth_pool_proxy.config import kubernetes as kubernetes_module
from oauth_pool_proxy.config.selector import parse_selector
from oauth_pool_proxy.errors import ConfigInvalid

PROXY = (
    '[proxy]\nlisten_addr = "127.0.0.1:8080"\nmetrics_addr = "127.0.0.1:9090"\nupstream_url = "https://api.example"\n'
)
POOL = PROXY + '[oauth]\nsource = "file"\nindex_dir = "/i"\n'
CLUSTER = (
    PROXY + '[oauth]\nsource = "kubernetes"\n[oauth.kubernetes]\nserver = "https://api.cluster"\nnamespace = "pool"\n'
)
DIGEST = hashlib.sha256(b"a-key-of-a-test").hexdigest()
KEY = f'[[clients.keys]]\nname = "ci"\nsha256 = "{DIGEST}"\n'
ALONE = "[clients]\nservice_accounts = false\n"


@pytest.fixture(autouse=True)
def outside_a_pod(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(kubernetes_module, "SERVICE_ACCOUNT", tmp_path / "no-service-account")
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)


def load(text: str, tmp_path: Path, **environment: str) -> Config:
    file = tmp_path / "proxy.toml"
    file.write_text(text)
    return load_config(file, environment)


def clients_of(config: Config) -> ClientsConfig:
    assert config.clients is not None
    return config.clients


def test_without_the_table_nobody_is_asked_who_he_is(tmp_path: Path) -> None:
    assert load(POOL, tmp_path).clients is None


def test_the_defaults_are_the_documented_ones(tmp_path: Path) -> None:
    config = load(f"{CLUSTER}[clients]\n", tmp_path)
    assert clients_of(config) == ClientsConfig(True, "oauth-pool", KubernetesConfig("https://api.cluster", "pool"))
    assert clients_of(config).kubernetes is config.oauth.source  # type: ignore[union-attr]
    assert clients_of(config).most_names == 200
    assert config.warnings == ()


def test_tokens_of_a_cluster_can_count_without_a_pool_of_its_accounts(tmp_path: Path) -> None:
    named = load(f'{PROXY}[clients.kubernetes]\nserver = "https://api.cluster/"\n', tmp_path)
    assert clients_of(named).kubernetes == KubernetesConfig("https://api.cluster", "")
    in_pod = load(f"{PROXY}[clients]\n", tmp_path, KUBERNETES_SERVICE_HOST="fd00::1")
    assert clients_of(in_pod).kubernetes == KubernetesConfig("https://[fd00::1]:443", "")


def test_a_key_is_a_digest_a_name_and_an_end(tmp_path: Path) -> None:
    (key,) = clients_of(load(f"{POOL}{ALONE}{KEY}expires = 2027-01-31T00:00:00+01:00\n", tmp_path)).keys
    assert (key.name, key.digest.hex(), key.expires_at) == ("ci", DIGEST, 1801350000)
    assert DIGEST not in repr(key)


def test_a_rule_is_told_in_one_line(tmp_path: Path) -> None:
    rules = clients_of(
        load(
            f"""{POOL}{ALONE}{KEY}
            [[clients.rules]]
            match = ["team-a/*", "key:ci-*"]
            models = ["*-haiku-*"]
            denied_models = ["*-old"]
            paths = ["/v1/messages"]
            max_concurrent_requests = 4
            requests_per_minute = 60
            accounts = "tier in (gold, silver),!spare"
            priority = -1
            [[clients.rules]]
            match = ["*"]
            deny = true
            """,
            tmp_path,
        )
    ).rules
    assert [str(rule) for rule in rules] == [
        (
            "team-a/*, key:ci-* -> models *-haiku-*; but not *-old; paths /v1/messages; at once 4; a minute 60; "
            "accounts tier in (gold, silver),!spare; priority -1"
        ),
        "* -> denied",
    ]


def test_metrics_that_are_nowhere_are_warned_of(tmp_path: Path) -> None:
    (warning,) = load(f"{POOL.replace('metrics_addr', '# ')}{ALONE}{KEY}", tmp_path).warnings
    assert "need metrics_addr" in warning


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{POOL}[clients]\n", "[clients]: there is no API server whose ServiceAccount tokens count"),
        (f"{POOL}{ALONE}", "[clients]: no client could prove who it is"),
        (f"{POOL}{ALONE}{KEY}secret = 1", "[[clients.keys]] number 1 secret: unknown key; known are: name, sha256, expires"),
        (f"{POOL}{ALONE}{KEY}{KEY}", "[[clients.keys]] number 2 sha256: is the digest of an earlier key"),
        (f'{POOL}{ALONE}{KEY}expires = "2027"', "number 1 expires: must be a date and time with an offset"),
        (f"{POOL}{ALONE}{KEY}expires = 2027-01-31", "number 1 expires: must be a date and time with an offset"),
        (f"{POOL}{ALONE}{KEY.replace('ci', 'c i')}", 'name: must be letters, digits and ._@-, 63 at most; "c i" is not'),
        (f"{POOL}{ALONE}{KEY}[[clients.rules]]\nmodels = []", "[[clients.rules]] number 1 match: is missing"),
        (f'{POOL}{ALONE}{KEY}[[clients.rules]]\nmatch = ["*"]\nrequests_per_minute = 0', "from 1 to"),
        (f'{POOL}{ALONE}{KEY}[[clients.rules]]\nmatch = ["*"]\npaths = ["v1"]', "must be prefixes of paths"),
        (f'{POOL}{ALONE}{KEY}[[clients.rules]]\nmatch = ["*"]\naccounts = "a,b in"', 'must be a label selector, such as "tier=gold,team in (a, b)"; "b in" is no part of one'),
        (f'{PROXY}{ALONE}{KEY}[[clients.rules]]\nmatch = ["*"]\naccounts = "a"', "has no effect in passthrough mode"),
        (f'{POOL}{ALONE}tailscale_listen_addr = "127.0.0.1:8080"', "tailscale_listen_addr: must be an address of its own"),
        (f'{POOL}{ALONE}tailscale_listen_addr = "8080"', "tailscale_listen_addr: must be host:port"),
        (f"{POOL}{ALONE}{KEY}most_names = 0", "unknown key"),
        (f"{POOL}{ALONE}most_names = 0\n{KEY}", "most_names: must be a whole number from 1 to 10000"),
        (f'{POOL}[clients.kubernetes]\nserver = "api"', "[clients.kubernetes] server: must be http:// or https://"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_in_one_line(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        load(text, tmp_path)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_key_that_stands_where_its_digest_belongs_is_not_shown(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="64 hexadecimal digits") as caught:
        load(f"{POOL}{ALONE}{KEY.replace(DIGEST, 'oap_hush')}", tmp_path)
    assert "hush" not in str(caught.value)


GOLD = {"tier": "gold", "example.com/team": "a", "empty": ""}


@pytest.mark.parametrize(
    ("selector", "matches"),
    [
        ("tier=gold", True),
        ("tier == gold", True),
        ("tier=silver", False),
        ("tier!=silver", True),
        ("other!=x", True),
        ("tier in (silver, gold)", True),
        ("tier notin (silver,gold)", False),
        ("other notin (x)", True),
        ("tier", True),
        ("!tier", False),
        ("! other", True),
        ("empty=", True),
        ("example.com/team in (a),tier=gold", True),
        ("tier=gold,other", False),
    ],
)
def test_selectors_are_those_of_kubectl(selector: str, matches: bool) -> None:
    assert parse_selector(selector).matches(GOLD) is matches
