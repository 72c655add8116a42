"""The configuration file: what is accepted, and the one line about everything that is not."""

from pathlib import Path

import pytest

from oauth_pool_proxy.cli import main
from oauth_pool_proxy.config import (
    Address,
    Config,
    KubernetesConfig,
    OAuthConfig,
    SealedConfig,
    load_config,
    parse_config,
    require_pod,
)
from oauth_pool_proxy.config import kubernetes as kubernetes_module
from oauth_pool_proxy.errors import ConfigInvalid

EXAMPLES = Path(__file__).parents[2] / "examples"
PROXY = '[proxy]\nlisten_addr = "127.0.0.1:8080"\nupstream_url = "https://api.example"\n'
POOL = PROXY + '[oauth]\nsource = "file"\nindex_dir = "/i"\n'


@pytest.fixture(autouse=True)
def outside_a_pod(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(kubernetes_module, "SERVICE_ACCOUNT", tmp_path / "no-service-account")
    for name in ("KUBERNETES_SERVICE_HOST", "CONFIG_PATH", "LOG_LEVEL"):
        monkeypatch.delenv(name, raising=False)


def load(text: str, tmp_path: Path, **environment: str) -> Config:
    file = tmp_path / "proxy.toml"
    file.write_text(text)
    return load_config(file, environment)


def oauth_of(config: Config) -> OAuthConfig:
    assert config.oauth is not None
    return config.oauth


def test_the_defaults_are_the_documented_ones(tmp_path: Path) -> None:
    proxy = load(PROXY, tmp_path).proxy
    assert (proxy.timeout, proxy.max_connections, proxy.attempts, proxy.drain_timeout) == (60, 1000, 3, 5)
    assert proxy.max_body_bytes == 10 * 1024 * 1024
    oauth = oauth_of(load(POOL, tmp_path))
    assert (oauth.provider, oauth.cooldown, oauth.user_agent) == ("anthropic", 7200, None)
    assert (oauth.beta, oauth.version) == ((b"oauth-2025-04-20",), b"2023-06-01")
    assert oauth.access_dir == Path("/var/lib/oauth-pool/access")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("0.0.0.0:80", Address("0.0.0.0", 80)),
        ("[::]:8080", Address("::", 8080)),
        ("localhost:0", Address("localhost", 0)),
    ],
)
def test_listen_addresses(text: str, address: Address, tmp_path: Path) -> None:
    assert load(PROXY.replace("127.0.0.1:8080", text), tmp_path).proxy.listen == address


@pytest.mark.parametrize(
    ("text", "authority", "base_path"),
    [
        ("https://api.example", b"api.example", b""),
        ("https://api.example:443/", b"api.example", b""),
        ("http://api.example:443", b"api.example:443", b""),
        ("http://[::1]:8080/a/b/", b"[::1]:8080", b"/a/b"),
        ("https://API.example", b"api.example", b""),
    ],
)
def test_upstream_urls(text: str, authority: bytes, base_path: bytes, tmp_path: Path) -> None:
    upstream = load(PROXY.replace("https://api.example", text), tmp_path).proxy.upstream
    assert (upstream.authority, upstream.base_path) == (authority, base_path)


def test_the_passthrough_example_is_valid() -> None:
    assert load_config(EXAMPLES / "proxy-passthrough.toml", {}).headers[0] == (b"anthropic-beta", b"oauth-2025-04-20")


def test_the_pool_example_lacks_nothing_but_the_pod() -> None:
    with pytest.raises(ConfigInvalid, match="inside a pod"):
        load_config(EXAMPLES / "proxy.toml", {})


def test_inside_a_pod_nothing_has_to_be_said_about_the_api_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = tmp_path / "service-account"
    account.mkdir()
    (account / "token").write_text("t")
    (account / "namespace").write_text("pool\n")
    monkeypatch.setattr(kubernetes_module, "SERVICE_ACCOUNT", account)
    monkeypatch.setattr(kubernetes_module, "ca_file_of", lambda table, key, default=None: default)
    environment = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "6443"}
    config = load(PROXY + '[oauth]\nsource = "kubernetes"\n', tmp_path, **environment)
    assert oauth_of(config).source == KubernetesConfig(
        "https://10.0.0.1:6443", "pool", account / "ca.crt", account / "token", "oauth-pool"
    )


def test_what_the_operator_owns_now_is_accepted_with_a_warning_that_says_so(tmp_path: Path) -> None:
    text = POOL + 'credential_file = "c"\nrefresh_interval_secs = 3\nrefresh_threshold_secs = 9\nproviders = ["a"]\n'
    warnings = load(text, tmp_path).warnings
    assert [warning.split()[1] for warning in warnings] == [
        "credential_file",
        "refresh_interval_secs",
        "refresh_threshold_secs",
        "providers",
    ]
    assert all("operator" in warning for warning in warnings)


def test_headers_are_ignored_in_pool_mode_with_a_warning(tmp_path: Path) -> None:
    config = load(POOL + '[[headers]]\nname = "x-a"\nvalue = "b"\n', tmp_path)
    assert config.headers == ()
    assert "[[oauth.headers]]" in config.warnings[0]


def test_a_configured_authorization_is_ignored_with_a_warning(tmp_path: Path) -> None:
    config = load(PROXY + '[[headers]]\nname = "Authorization"\nvalue = "Bearer secret"\n', tmp_path)
    assert config.headers == ()
    assert "authorization" in config.warnings[0] and "secret" not in config.warnings[0]


HEADER = '[[headers]]\nname = "{}"\nvalue = "{}"\n'

REFUSED = {
    "not TOML": ("[proxy\na = 1\n", ["not valid TOML", "line 1"]),
    "no proxy table": ("", ["[proxy]", "listen_addr"]),
    "admin": (PROXY + "[admin]\nenabled = true\n", ["[admin]", "kubectl apply", "kubectl get", "kubectl delete"]),
    "unknown table": (PROXY + "[prox]\n", ["[prox]", "unknown table", "proxy, headers, oauth"]),
    "unknown key": (PROXY + "timeout = 3\n", ["[proxy]", "timeout", "unknown key", "timeout_secs"]),
    "system prefix": (POOL + "system_prefix = 1\n", ["[oauth]", "system_prefix", "a string"]),
    "affinity": (POOL + 'affinity = "yes"\n', ["[oauth]", "affinity", "true or false"]),
    "missing address": ('[proxy]\nupstream_url = "http://a"\n', ["listen_addr", "missing"]),
    "address without port": (PROXY.replace(":8080", ""), ["listen_addr", "host:port"]),
    "port too high": (PROXY.replace(":8080", ":65536"), ["listen_addr", "65535"]),
    "port not a number": (PROXY.replace(":8080", ":http"), ["listen_addr", '"127.0.0.1:http"']),
    "bare IPv6": (PROXY.replace("127.0.0.1:8080", "::1"), ["listen_addr"]),
    "missing URL": ('[proxy]\nlisten_addr = "a:1"\n', ["upstream_url", "missing"]),
    "URL scheme": (PROXY.replace("https:", "ftp:"), ["upstream_url", "http:// or https://"]),
    "URL without host": (PROXY.replace("//api.example", "//"), ["upstream_url"]),
    "URL port": (PROXY.replace("api.example", "api.example:0"), ["upstream_url", "port"]),
    "URL port too high": (PROXY.replace("api.example", "api.example:99999"), ["upstream_url", "port"]),
    "URL with query": (PROXY.replace("api.example", "api.example/?a"), ["upstream_url", "query"]),
    "URL with user": (PROXY.replace("api.example", "u:p@api.example"), ["upstream_url", "user name"]),
    "timeout 0": (PROXY + "timeout_secs = 0\n", ["timeout_secs", "from 1", "not 0"]),
    "timeout a string": (PROXY + 'timeout_secs = "60"\n', ["timeout_secs", "whole number", '"60"']),
    "timeout a boolean": (PROXY + "timeout_secs = true\n", ["timeout_secs", "whole number", "true"]),
    "negative drain": (PROXY + "drain_timeout_secs = -1\n", ["drain_timeout_secs", "-1"]),
    "no connections": (PROXY + "max_connections = 0\n", ["max_connections"]),
    "no attempts": (PROXY + "attempts = 0\n", ["attempts"]),
    "no body": (PROXY + "max_body_bytes = 0\n", ["max_body_bytes"]),
    "unreadable CA": (PROXY + 'upstream_ca_file = "/nowhere/ca.pem"\n', ["upstream_ca_file", "/nowhere/ca.pem"]),
    "headers not a list": (PROXY + "[headers]\n", ["[[headers]]", "array of tables"]),
    "header name": (PROXY + HEADER.format("x y", "v"), ["[[headers]] number 1", "name"]),
    "header name empty": (PROXY + HEADER.format("", "v"), ["[[headers]] number 1", "name"]),
    "header value": (PROXY + HEADER.format("x", "a\\nb"), ["[[headers]] number 1", "value", "one line"]),
    "header value a number": (PROXY + '[[headers]]\nname = "x"\nvalue = 3\n', ["value", "a whole number"]),
    "header without value": (PROXY + '[[headers]]\nname = "x"\n', ["value", "missing"]),
    "header of this hop": (PROXY + HEADER.format("Content-Length", "3"), ["content-length", "cannot be set"]),
    "header with more": (PROXY + HEADER.format("x", "v") + "when = 3\n", ["when", "unknown key", "name, value"]),
    "no source": (PROXY + "[oauth]\n", ["[oauth]", "source", "missing", '"kubernetes" or "file"']),
    "other source": (PROXY + '[oauth]\nsource = "redis"\n', ["source", '"redis"']),
    "file without folder": (PROXY + '[oauth]\nsource = "file"\n', ["index_dir", "missing"]),
    "sealed tokens without an API server": (
        POOL + 'tokens = "sealed"\n',
        ["[oauth]", "tokens", 'source = "kubernetes"', '"volume"'],
    ),
    "group that there is not": (PROXY + 'tls_groups = ["P-25519"]\n', ["tls_groups", "P-25519", "no such group"]),
    "other tokens": (POOL + 'tokens = "secret"\n', ["tokens", '"sealed", "volume"', '"secret"']),
    "cooldown 0": (POOL + "cooldown_secs = 0\n", ["cooldown_secs"]),
    "beta not a list": (POOL + 'anthropic_beta = "a"\n', ["anthropic_beta", "array of strings"]),
    "version on two lines": (POOL + 'anthropic_version = "a\\nb"\n', ["anthropic_version", "one line"]),
    "oauth header": (POOL + "[[oauth.headers]]\n", ["[[oauth.headers]] number 1", "name"]),
    "metrics on the traffic port": (PROXY + 'metrics_addr = "127.0.0.1:8080"\n', ["metrics_addr", "another address"]),
    "less room than one body": (PROXY + "max_buffered_bytes = 100\n", ["max_buffered_bytes", "from 10485760"]),
    "late heads": (PROXY + 'retry_late_heads = "never"\n', ["retry_late_heads", '"all", "idempotent"']),
    "client key alone": (PROXY + 'upstream_client_key = "k"\n', ["upstream_client_key", "upstream_client_certificate"]),
    "no client certificate": (
        PROXY + 'upstream_client_certificate = "/nowhere/tls.crt"\n',
        ["upstream_client_certificate", "/nowhere/tls.crt", "No such file"],
    ),
    "proxy with a password": (
        PROXY + 'upstream_proxy = "http://u:p@proxy:3128"\n',
        ["upstream_proxy", "upstream_proxy_password_file"],
    ),
    "proxy over TLS": (PROXY + 'upstream_proxy = "https://proxy:3128"\n', ["upstream_proxy", "http://"]),
    "proxy without port": (PROXY + 'upstream_proxy = "http://proxy"\n', ["upstream_proxy", "port"]),
    "password of nobody": (
        PROXY + 'upstream_proxy = "http://proxy:1"\nupstream_proxy_password_file = "x"\n',
        ["upstream_proxy_password_file", "user"],
    ),
    "no password file": (
        PROXY + 'upstream_proxy = "http://u@proxy:1"\nupstream_proxy_password_file = "/nowhere/p"\n',
        ["upstream_proxy_password_file", "/nowhere/p"],
    ),
    "path without slash": (POOL + 'denied_paths = ["v1/"]\n', ["denied_paths", '"v1/"']),
    "path with query": (POOL + 'allowed_paths = ["/v1?x"]\n', ["allowed_paths", "query"]),
    "origin with path": (POOL + 'allowed_origins = ["https://a/"]\n', ["allowed_origins", "https://a/"]),
    "strategy": (POOL + 'strategy = "random"\n', ["strategy", "round_robin", "reset_soonest", "least_used"]),
    "reserve": (POOL + "reserve = 95\n", ["reserve", "from 0 to 1", "95"]),
    "no account": (POOL + "most_accounts = 0\n", ["most_accounts"]),
    "rule without verdict": (POOL + "[[oauth.rules]]\nstatus = 400\n", ["[[oauth.rules]] number 1", "verdict"]),
    "rule with another verdict": (
        POOL + '[[oauth.rules]]\nstatus = 400\nverdict = "ban"\n',
        ["[[oauth.rules]] number 1", "verdict", '"pass_on"', '"ban"'],
    ),
    "rule without condition": (POOL + '[[oauth.rules]]\nverdict = "pass_on"\n', ["number 1", "no condition"]),
    "rule for a good answer": (POOL + '[[oauth.rules]]\nstatus = 200\nverdict = "pass_on"\n', ["status", "400"]),
    "rule with values of nothing": (
        POOL + '[[oauth.rules]]\nstatus = 400\njson_values = ["x"]\nverdict = "pass_on"\n',
        ["json_values", "json_path"],
    ),
    "rule with half a path": (
        POOL + '[[oauth.rules]]\njson_path = "error."\nverdict = "pass_on"\n',
        ["json_path", "error.details.error_code"],
    ),
    "no API server": (PROXY + '[oauth]\nsource = "kubernetes"\n', ["[oauth.kubernetes]", "server", "pod"]),
    "no namespace": (
        PROXY + '[oauth]\nsource = "kubernetes"\n[oauth.kubernetes]\nserver = "https://a"\n',
        ["[oauth.kubernetes]", "namespace", "pod"],
    ),
    "API server with a bad port": (
        PROXY + '[oauth]\nsource = "kubernetes"\n[oauth.kubernetes]\nserver = "https://127.0.0.1:99999"\n',
        ["[oauth.kubernetes]", "server", "65535"],
    ),
    "API server with half an address": (
        PROXY + '[oauth]\nsource = "kubernetes"\n[oauth.kubernetes]\nserver = "http://[::1"\n',
        ["[oauth.kubernetes]", "server"],
    ),
    "API server not a URL": (
        PROXY + '[oauth]\nsource = "kubernetes"\n[oauth.kubernetes]\nserver = "a:6443"\n',
        ["[oauth.kubernetes]", "server"],
    ),
    "no token file": (
        PROXY + '[oauth]\nsource = "kubernetes"\n[oauth.kubernetes]\nserver = "https://a"\nnamespace = "n"\n'
        'token_file = "/nowhere/token"\n',
        ["token_file", "/nowhere/token"],
    ),
    "unknown Kubernetes key": (
        PROXY + '[oauth]\nsource = "kubernetes"\n[oauth.kubernetes]\ncontext = "a"\n',
        ["[oauth.kubernetes]", "context", "unknown key"],
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_used_is_one_line_that_says_what_and_where(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, expected = REFUSED[case]
    file = tmp_path / "proxy.toml"
    file.write_text(text)
    assert main(["--config", str(file), "--check"]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    for part in (str(file), *expected):
        assert part in output.err


def test_a_ca_file_that_holds_no_certificate_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("not PEM")
    with pytest.raises(ConfigInvalid, match="PEM"):
        load(PROXY + f'upstream_ca_file = "{tmp_path}/ca.pem"\n', tmp_path)


def test_a_refused_header_value_is_not_shown(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        load(PROXY + HEADER.format("x-api-key", "sk-secret\\n"), tmp_path)
    assert "secret" not in str(caught.value)


def test_a_file_that_is_not_there_says_how_to_name_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="--config or CONFIG_PATH"):
        load_config(tmp_path / "missing.toml", {})


def test_settings_of_the_other_source_are_ignored_with_a_warning(tmp_path: Path) -> None:
    config = load(POOL + '[oauth.kubernetes]\nserver = "https://a"\n', tmp_path)
    assert "[oauth.kubernetes]" in config.warnings[0]


KUBERNETES = PROXY + '[oauth]\nsource = "kubernetes"\n{}[oauth.kubernetes]\nserver = "https://a"\nnamespace = "n"\n'
POD = {"POD_NAME": "proxy-0", "POD_UID": "an-uid"}


def test_tokens_are_sealed_where_there_is_an_api_server_and_files_elsewhere(tmp_path: Path) -> None:
    assert oauth_of(load(POOL, tmp_path)).sealed is None
    assert oauth_of(load(KUBERNETES.format('tokens = "volume"\n'), tmp_path)).sealed is None
    for text in ("", 'tokens = "sealed"\n'):
        sealed = oauth_of(load(KUBERNETES.format(text), tmp_path, **POD)).sealed
        assert sealed == SealedConfig(Path("/run/oauth-pool"), "proxy-0", "an-uid")


def test_settings_of_the_other_way_of_tokens_are_ignored_with_a_warning(tmp_path: Path) -> None:
    (warning,) = load(KUBERNETES.format('access_dir = "/a"\n'), tmp_path, **POD).warnings
    assert 'access_dir is ignored: it is used with tokens = "volume" only' in warning
    (warning,) = load(POOL + 'key_dir = "/k"\n', tmp_path).warnings
    assert 'key_dir is ignored: it is used with tokens = "sealed" only' in warning


@pytest.mark.parametrize("missing", [["POD_NAME"], ["POD_UID"], ["POD_NAME", "POD_UID"]], ids=" ".join)
def test_a_proxy_that_does_not_know_its_pod_does_not_start_and_says_which_lines_are_missing(
    missing: list[str], tmp_path: Path
) -> None:
    config = load(
        KUBERNETES.format(""), tmp_path, **{name: value for name, value in POD.items() if name not in missing}
    )
    with pytest.raises(ConfigInvalid) as caught:
        require_pod(config)
    message = str(caught.value)
    assert f"the environment lacks {' and '.join(missing)}:" in message and "\n" not in message
    for name, field in (("POD_NAME", "metadata.name"), ("POD_UID", "metadata.uid")):
        line = f"{{name: {name}, valueFrom: {{fieldRef: {{fieldPath: {field}}}}}}}"
        assert (line in message) == (name in missing)


def test_only_sealed_tokens_need_a_pod(tmp_path: Path) -> None:
    for text in (PROXY, POOL, KUBERNETES.format('tokens = "volume"\n')):
        require_pod(load(text, tmp_path))
    require_pod(load(KUBERNETES.format(""), tmp_path, **POD))


def test_a_configuration_needs_no_file() -> None:
    proxy = {"listen_addr": "127.0.0.1:1", "upstream_url": "http://a"}
    assert parse_config({"proxy": proxy}, {}).oauth is None


def test_a_proxy_on_the_way_to_the_upstream_has_its_password_from_a_file_and_never_shows_it(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("s3cret\nrest\n")
    text = f'upstream_proxy = "http://us%40er@[::1]:3128"\nupstream_proxy_password_file = "{tmp_path}/password"\n'
    proxy = load(PROXY + text, tmp_path).proxy.upstream_proxy
    assert proxy is not None
    assert (proxy.host, proxy.port, proxy.credentials) == ("::1", 3128, "us@er:s3cret")
    assert "s3cret" not in repr(proxy) + str(proxy)
    assert str(proxy) == "http://[::1]:3128"


def test_the_room_for_bodies_is_never_less_than_one(tmp_path: Path) -> None:
    assert load(PROXY, tmp_path).proxy.max_buffered_bytes == 48 * 1024 * 1024
    large = load(PROXY + "max_body_bytes = 100000000\n", tmp_path).proxy
    assert large.max_buffered_bytes == 100_000_000


def test_code_defaults_are_the_documented_contract(tmp_path: Path) -> None:
    """Of the service that this one replaces; the shipped configuration recommends others."""
    proxy = load(PROXY, tmp_path).proxy
    assert (proxy.timeout, proxy.max_connections, proxy.attempts) == (60, 1000, 3)
    assert (proxy.max_body_bytes, proxy.drain_timeout, proxy.metrics) == (10 * 1024 * 1024, 5, None)
    assert proxy.retry_late_heads == "all"
    oauth = oauth_of(load(POOL, tmp_path))
    assert (oauth.cooldown, oauth.strategy, oauth.allowed_paths, oauth.rules) == (7200, "round_robin", (), ())
