"""The configuration file: what is accepted, and the one line that says what is wrong."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from oauth_pool_operator.config import load_config
from oauth_pool_operator.errors import ConfigError

GOOD = """
[operator]
namespace = "pool"
state_dir = "/tmp/state"

[providers.anthropic.authorization_code]
client_id = "me"
authorization_endpoint = "https://provider.example/authorize"
token_endpoint = "https://provider.example/token"
redirect_uri = "https://provider.example/callback"

[providers.anthropic.workload_identity]
token_endpoint = "http://127.0.0.1:8000/token"
audience = "https://provider.example"
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "config.toml"
    path.write_text(text)
    return path


def test_a_good_file(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, GOOD))
    assert config.operator.namespace == "pool"
    assert config.operator.state_dir == Path("/tmp/state")
    assert config.providers["anthropic"].grants == {"AuthorizationCode", "WorkloadIdentity"}


def test_each_grant_has_a_table_of_its_own(tmp_path: Path) -> None:
    device = """
[providers.anthropic.device_code]
client_id = "other"
device_authorization_endpoint = "https://provider.example/device"
token_endpoint = "https://provider.example/token"
"""
    profile = load_config(written(tmp_path, GOOD + device)).providers["anthropic"]
    assert profile.grants == {"AuthorizationCode", "DeviceCode", "WorkloadIdentity"}
    clients = [profile.client(grant) for grant in ("AuthorizationCode", "DeviceCode", "WorkloadIdentity")]
    assert [client.client_id if client else None for client in clients] == ["me", "other", None]
    broken = device.replace("https://provider.example/device", "http://provider.example/device")
    problem = load_config(written(tmp_path, GOOD + broken)).broken_providers["anthropic"]
    assert "providers.anthropic.device_code.device_authorization_endpoint: must be https" in problem


def test_the_shipped_example_is_a_good_file() -> None:
    example = Path(__file__).parents[2] / "examples/operator.toml"
    assert set(load_config(example, namespace="pool").providers) == {"simulator"}


@pytest.mark.parametrize(
    ("table", "are_sealed"),
    [("", True), ('[publication]\ntokens = "sealed"\n', True), ('[publication]\ntokens = "volume"\n', False)],
    ids=["not said", "sealed", "volume"],
)
def test_tokens_are_sealed_unless_a_volume_is_asked_for(tmp_path: Path, table: str, are_sealed: bool) -> None:
    assert load_config(written(tmp_path, table + GOOD)).publication.are_sealed is are_sealed


def test_the_command_line_wins_over_the_file(tmp_path: Path) -> None:
    assert load_config(written(tmp_path, GOOD), namespace="other").operator.namespace == "other"


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        pytest.param(("[operator]", "[operator"), "not valid TOML", id="not TOML"),
        pytest.param(
            ("state_dir", "state_folder"),
            "[operator]: unknown key 'state_folder'; known are access_dir, config_map",
            id="unknown key",
        ),
        pytest.param(("[operator]", "[oprator]"), "unknown key 'oprator'", id="unknown table"),
        pytest.param(
            ('namespace = "pool"', 'namespace = "pool"\nmetrics_listen_addr = "0.0.0.0:99999"'),
            "operator.metrics_listen_addr: '0.0.0.0:99999' is not host:port",
            id="bad port",
        ),
        pytest.param(
            ('namespace = "pool"', 'namespace = "pool"\nmax_concurrent_refreshes = 0'),
            "operator.max_concurrent_refreshes: must be at least 1",
            id="no refresh at all",
        ),
        pytest.param(('"/tmp/state"', "7"), "operator.state_dir: expected a path, got `int`", id="type"),
        pytest.param(('namespace = "pool"', ""), "operator.namespace: is missing", id="no namespace"),
        pytest.param(
            ("[operator]", '[publication]\ntokens = "secret"\n[operator]'),
            "publication.tokens: 'secret' is not one of sealed, volume",
            id="tokens in no known way",
        ),
        pytest.param(
            ("[operator]", "[publication]\ntoken = 1\n[operator]"),
            "[publication]: unknown key 'token'; known are tokens",
            id="unknown key of publication",
        ),
        pytest.param(
            (GOOD, 'providers = 1\n[operator]\nnamespace = "pool"\n'),
            "providers: must be tables",
            id="providers are no tables",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, broken: tuple[str, str], says: str) -> None:
    assert broken[0] in GOOD
    with pytest.raises(ConfigError) as caught:
        load_config(written(tmp_path, GOOD.replace(*broken)))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "config.toml"))


OTHER = """
[providers.other.workload_identity]
token_endpoint = "https://other.example/token"
audience = "https://other.example"
"""


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        pytest.param(
            ('client_id = "me"', ""),
            "providers.anthropic.authorization_code: object missing required field `client_id`",
            id="missing key",
        ),
        pytest.param(("[providers.anthropic.work", "[providers.anthropic.wrok"), "'wrokload_identity'", id="misspelt"),
        pytest.param(
            ('client_id = "me"', 'client_id = "me"\nclient_secret = "s"'),
            "[providers.anthropic.authorization_code]: unknown key 'client_secret'; known are allow_code_without_state",
            id="unknown key",
        ),
        pytest.param(
            ("https://provider.example/token", "provider/token"),
            "providers.anthropic.authorization_code.token_endpoint: 'provider/token' is not a URL",
            id="bad URL",
        ),
        pytest.param(
            ("http://127.0.0.1:8000", "http://provider.example"),
            "providers.anthropic.workload_identity.token_endpoint: must be https",
            id="http where tokens travel",
        ),
        pytest.param(
            ('client_id = "me"', "client_id = 7"),
            "providers.anthropic.authorization_code.client_id: expected `str`, got `int`",
            id="type",
        ),
        pytest.param(('client_id = "me"', 'client_id = ""'), "client_id: must not be empty", id="empty client id"),
        pytest.param(
            ("https://provider.example/callback", "not a URI"),
            "redirect_uri: 'not a URI' is not a URI",
            id="bad redirect",
        ),
        pytest.param(
            ('"me"', '"me"\ntoken_headers = {a = "é"}'), "token_headers: 'a' is not a header", id="header not ASCII"
        ),
        pytest.param(
            ('"me"', '"me"\nauthorization_parameters = {code = "true", state = "x"}'),
            "authorization_code.authorization_parameters: 'state' is set by the operator itself",
            id="a state that is not one",
        ),
        pytest.param(
            ("[providers.anthropic.work", "[providers.anthropic]\nca_file = '/dev/null'\n[providers.anthropic.work"),
            "ca_file: /dev/null is not a PEM file",
            id="no certificates",
        ),
        pytest.param(('"me"', '"me"\ntoken_body = "xml"'), "authorization_code.token_body", id="unknown body format"),
        pytest.param(
            ("[providers.anthropic.work", "[providers.anthropic]\ntimeout_secs = 120.1\n[providers.anthropic.work"),
            "providers.anthropic.timeout_secs: must be more than 0 and at most 120",
            id="longer than the operator waits when it ends",
        ),
        pytest.param(
            ("[providers.anthropic.work", "[providers.anthropic]\ntimeout_secs = nan\n[providers.anthropic.work"),
            "providers.anthropic.timeout_secs: must be more than 0 and at most 120",
            id="no time",
        ),
        pytest.param(
            ('audience = "', 'organization_ids = []\naudience = "'),
            "workload_identity.organization_ids: allows none; name at least one",
            id="a pin that allows nobody",
        ),
        pytest.param(('"me"', '"me"\nsubject_claim = ""'), "subject_claim: must not be empty", id="nowhere to look"),
        pytest.param(
            ('"me"', '"me"\nclient_authentication = "client_secret_post"'),
            "authorization_code.client_secret_file: is missing; client_authentication client_secret_post needs it",
            id="no secret",
        ),
        pytest.param(
            ('"me"', '"me"\nclient_authentication = "private_key_jwt"'),
            "authorization_code.private_key_file: is missing",
            id="no key",
        ),
        pytest.param(
            ('"me"', '"me"\nclient_authentication = "client_secret_jwt"'),
            "authorization_code.client_authentication: invalid enum value",
            id="a way that there is not",
        ),
        pytest.param(
            ('"me"', '"me"\nclient_secret_file = "/nowhere"'),
            "authorization_code.client_secret_file: /nowhere cannot be read: No such file",
            id="a secret that is not there",
        ),
        pytest.param(
            ('"me"', '"me"\nprivate_key_file = "/etc/hostname"'),
            "authorization_code.private_key_file: /etc/hostname holds no private key",
            id="a key that is none",
        ),
        pytest.param(
            ('"me"', '"me"\nkey_id = "7"'),
            "authorization_code.key_id: has no effect with client_authentication none",
            id="the id of no key",
        ),
        pytest.param(
            ('"me"', '"me"\nclient_secret_file = "/etc/hostname"\ntoken_headers = {Authorization = "x"}'),
            "token_headers: 'authorization' is set by client_authentication client_secret_basic",
            id="two ways in one header",
        ),
        pytest.param(
            (GOOD[GOOD.index("[providers") :], "[providers]\nanthropic = 7"),
            "providers.anthropic: expected `object`, got `int`",
            id="not a table",
        ),
        pytest.param(
            (GOOD[GOOD.index("[providers") :], "[providers.anthropic]"),
            "needs at least one of [providers.anthropic.",
            id="empty",
        ),
    ],
)
def test_a_profile_that_cannot_be_used_is_set_aside_with_the_reason_in_one_line(
    tmp_path: Path, broken: tuple[str, str], says: str
) -> None:
    assert broken[0] in GOOD
    config = load_config(written(tmp_path, GOOD.replace(*broken) + OTHER))
    assert set(config.providers) == {"other"}
    (problem,) = config.broken_providers.values()
    assert says in problem
    assert "\n" not in problem


PROXY = 'proxy_url = "http://somebody@proxy.example:3128"\nproxy_password_file = "/etc/hostname"\n'


def test_a_proxy_of_the_operator_counts_for_every_profile_that_has_none_of_its_own(tmp_path: Path) -> None:
    third = OTHER.replace("other", "third")
    own = '[providers.other]\nproxy_url = "https://other-proxy.example"\n[providers.third]\nproxy_url = ""\n'
    text = GOOD.replace("[operator]\n", f"[operator]\n{PROXY}") + own + OTHER + third
    config = load_config(written(tmp_path, text))
    assert config.broken_providers == {}
    ways = {name: (profile.proxy_url, profile.proxy_password_file) for name, profile in config.providers.items()}
    assert ways == {
        "anthropic": ("http://somebody@proxy.example:3128", Path("/etc/hostname")),
        "other": ("https://other-proxy.example", None),
        "third": ("", None),
    }


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        pytest.param(
            ("somebody@", "somebody:the-password@"), "operator.proxy_url: must not hold a password", id="a password"
        ),
        pytest.param(("somebody@", ""), "operator.proxy_url: must name the user", id="a password for nobody"),
        pytest.param(("http://", "socks5://"), "operator.proxy_url: is not a URL such as", id="another kind of proxy"),
        pytest.param((":3128", ":99999"), "operator.proxy_url: is not a URL such as", id="a port that is none"),
        pytest.param(
            ("/etc/hostname", "/nowhere"), "operator.proxy_password_file: /nowhere cannot be", id="no password"
        ),
    ],
)
def test_a_proxy_that_cannot_be_used_is_said_without_its_password(
    tmp_path: Path, broken: tuple[str, str], says: str
) -> None:
    assert broken[0] in PROXY
    with pytest.raises(ConfigError) as caught:
        load_config(written(tmp_path, GOOD.replace("[operator]\n", f"[operator]\n{PROXY.replace(*broken)}")))
    assert says in str(caught.value)
    assert "the-password" not in str(caught.value)


def test_a_profile_that_no_account_can_name_is_set_aside(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, GOOD + OTHER.replace("providers.other", 'providers."Other One"')))
    assert set(config.providers) == {"anthropic"}
    assert "no account can name it" in config.broken_providers["Other One"]


def test_a_file_without_a_provider_is_no_mistake(tmp_path: Path) -> None:
    assert load_config(written(tmp_path, '[operator]\nnamespace = "pool"\n')).providers == {}


def operator(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "oauth_pool_operator", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=30, check=False, env={**os.environ, **environment}
    )


def test_the_command_ends_with_1_and_one_line(tmp_path: Path) -> None:
    ended = operator("--config", str(written(tmp_path, GOOD.replace("[operator]", "[oprator]"))))
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1
    assert "unknown key 'oprator'" in ended.stderr
    assert ended.stdout == ""


def test_a_missing_file_is_said_to_be_missing(tmp_path: Path) -> None:
    ended = operator("--config", str(tmp_path / "nowhere.toml"))
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1)
    assert "nowhere.toml: cannot be read: No such file or directory" in ended.stderr


def test_check_says_what_would_run(tmp_path: Path) -> None:
    ended = operator("--check", "--config", str(written(tmp_path, GOOD)))
    assert ended.returncode == 0
    assert "provider anthropic: AuthorizationCode, WorkloadIdentity" in ended.stdout


def test_check_names_every_broken_profile_and_ends_with_1(tmp_path: Path) -> None:
    broken = OTHER.replace("https://other.example/token", "http://other.example/token")
    third = OTHER.replace("audience", "audiance").replace("other", "third")
    ended = operator("--check", "--config", str(written(tmp_path, GOOD + broken + third)))
    assert ended.returncode == 1
    assert "provider anthropic: AuthorizationCode, WorkloadIdentity" in ended.stdout
    problems = ended.stderr.splitlines()
    assert len(problems) == 2
    assert "providers.other.workload_identity.token_endpoint: must be https" in problems[0]
    assert "[providers.third.workload_identity]: unknown key 'audiance'" in problems[1]


def test_a_volume_that_is_not_there_is_named(tmp_path: Path) -> None:
    text = GOOD.replace("/tmp/state", str(tmp_path / "nowhere"))
    ended = operator("--config", str(written(tmp_path, text)))
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1)
    assert f"there is no folder {tmp_path / 'nowhere'}" in ended.stderr


def test_a_log_level_that_is_none_is_refused_wherever_it_comes_from(tmp_path: Path) -> None:
    ended = operator("--check", "--config", str(written(tmp_path, GOOD)), LOG_LEVEL="loud")
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1)
    assert "LOG_LEVEL: 'loud' is not one of error, warn, info, debug, trace" in ended.stderr


def test_only_our_own_lines_get_more_talkative() -> None:
    """Kopf and the HTTP clients print bodies and URLs at debug level. In a process of its own: it changes all logging."""
    script = """
import logging
from oauth_pool_operator import logs
for level in ("warn", "info", "debug"):
    logs.set_up_logging(level)
    names = ("oauth_pool_operator.reconcile", "kopf.objects", "httpcore2.http11", "httpx2", "authlib")
    print(level, *(logging.getLevelName(logging.getLogger(name).getEffectiveLevel()) for name in names))
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True)
    assert ended.stdout.splitlines() == [
        "warn WARNING WARNING WARNING WARNING WARNING",
        "info INFO WARNING WARNING WARNING WARNING",
        "debug DEBUG WARNING WARNING WARNING WARNING",
    ]
