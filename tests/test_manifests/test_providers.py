"""examples/providers/ and docs/providers/: profiles that work as they stand, and commands that print what the page says."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from oauth_pool_operator.config import load_config
from oauth_pool_proxy.config.settings import OAuthConfig
from tests.support.control_plane import ControlPlane
from tests.test_manifests.manifests import NAMESPACE, ROOT

PROFILES = sorted((ROOT / "examples/providers").glob("*.toml"))
PAGE = ROOT / "docs/providers/anthropic.md"
OPERATOR = Path(sys.executable).parent / "oauth-pool-operator"


@pytest.mark.parametrize("profile", PROFILES, ids=lambda path: path.stem)
def test_a_profile_works_as_it_is_and_has_a_page(profile: Path) -> None:
    check = subprocess.run(
        [OPERATOR, "--check", "--namespace", NAMESPACE, "--config", "/dev/stdin"],
        input=profile.read_text(),
        check=False,
        capture_output=True,
        text=True,
        env={},
    )
    assert (check.returncode, check.stderr) == (0, "")
    page = (ROOT / "docs/providers" / f"{profile.stem}.md").read_text()
    assert check.stdout in page
    assert f"examples/providers/{profile.name}" in page


def test_what_is_commented_out_for_the_reader_to_fill_in_works_too(tmp_path: Path) -> None:
    for profile in PROFILES:
        filled_in = tmp_path / profile.name
        filled_in.write_text(re.sub(r"^# (\w+ = )", r"\1", profile.read_text(), flags=re.MULTILINE))
        (only,) = load_config(filled_in, namespace=NAMESPACE).providers.values()
        assert only.workload_identity
        assert only.workload_identity.organization_ids


def test_the_page_is_about_the_values_of_profile_and_proxy() -> None:
    text = PAGE.read_text()
    (provider,) = load_config(PROFILES[0], namespace=NAMESPACE).providers.values()
    assert provider.workload_identity
    assert f"| audience | `{provider.workload_identity.audience}` |" in text
    defaults = OAuthConfig(source=Path(), access_dir=Path())
    assert f"`anthropic-beta: {b','.join(defaults.beta).decode()}`" in text
    assert f"`anthropic-version: {defaults.version.decode()}`" in text


def test_nothing_of_anybodys_client_is_shipped() -> None:
    for profile in PROFILES:
        assert not re.search(r"client_id|user-agent|scopes|redirect_uri", profile.read_text(), re.IGNORECASE)


def test_the_pages_commands_print_issuer_keys_and_claims(control_plane: ControlPlane, tmp_path: Path) -> None:
    control_plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "inference", "namespace": NAMESPACE}}
    control_plane.apply(account)
    commands = re.findall(r"^\$ (kubectl (?:get --raw|-n \S+ create token).*)$", PAGE.read_text(), re.MULTILINE)
    (tmp_path / "kubectl").symlink_to(control_plane.kubectl_path)
    environment = {"PATH": f"{tmp_path}:{Path(sys.executable).parent}:/bin:/usr/bin"}
    environment["KUBECONFIG"] = str(control_plane.kubeconfig)
    discovery, keys, claims = (
        json.loads(subprocess.check_output(command, shell=True, env=environment)) for command in commands
    )
    assert discovery["issuer"] == claims["iss"]
    assert keys["keys"][0]["kid"]
    assert claims["aud"] == ["https://api.anthropic.com"]
    assert claims["sub"] == f"system:serviceaccount:{NAMESPACE}:inference"
    assert f"`{claims['sub']}`" in PAGE.read_text()
