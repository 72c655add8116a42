"""The plugin and the operator share a distribution and names, but not what they import."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from kopf._core.intents.causes import Activity
from kopf._core.intents.registries import SmartOperatorRegistry

from oauth_pool_operator.controller import Controller
from oauth_pool_operator.handlers import register

ROOT = Path(__file__).parents[2]
# as in the image, where the package is not installed
WITHOUT = "import sys; sys.modules.update(dict.fromkeys({missing!r})); "


def run(code: str, *missing: str) -> subprocess.CompletedProcess[str]:
    program = WITHOUT.format(missing=list(missing)) + code
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)


def test_the_operator_starts_without_the_plugin_s_packages() -> None:
    code = "from oauth_pool_operator.cli import main; main(['--version'])"
    ended = run(code, "kubernetes", "rich", "urllib3", "websocket")
    assert ended.stdout.startswith("oauth-pool-operator "), ended.stderr


def test_the_plugin_loads_nothing_of_the_operator_s_server_side() -> None:
    code = (
        "import json; import kubectl_oauthaccount.kubeconfig, kubectl_oauthaccount.operator_pod; "
        "from kubectl_oauthaccount.cli import build_parser; build_parser(); print(json.dumps(sorted(sys.modules)))"
    )
    ended = run(code, "kopf", "lightkube", "authlib", "httpx2", "prometheus_client")
    loaded = json.loads(ended.stdout)
    assert "kubernetes" in loaded
    assert "oauth_pool_operator.cli" not in loaded


def test_help_comes_without_the_client_library() -> None:
    """It takes half a second, for every Tab that is pressed."""
    code = "from kubectl_oauthaccount.cli import complete; complete(['lo'])"
    assert run(code, "kubernetes").stdout == "login\tlog an account in\n:4\n"


@pytest.mark.parametrize("missing", ["kubernetes", "rich"])
def test_without_the_extra_the_plugin_says_how_to_install_it(missing: str) -> None:
    ended = run("from kubectl_oauthaccount.cli import main; sys.exit(main(['top']))", missing)
    assert ended.returncode == 1
    assert ended.stderr == f"error: {missing} is missing: pip install kubectl-oauthaccount\n"


def test_the_images_get_none_of_the_plugin_s_packages() -> None:
    for lock in ("operator", "proxy"):
        packages = re.findall(r"^([a-z0-9-]+)==", (ROOT / f"requirements/{lock}.txt").read_text(), re.MULTILINE)
        assert len(packages) > 5
        assert {"kubernetes", "rich", "websocket-client"}.isdisjoint(packages)


def test_the_operator_logs_in_to_the_api_server_by_its_own_handler_although_kubernetes_is_here() -> None:
    """Kopf would add handlers of its own for client libraries that it finds, if the operator used its default registry."""
    registry = register(Controller.__new__(Controller))
    logins = [h for h in registry._activities.get_all_handlers() if h.activity is Activity.AUTHENTICATION]
    assert [handler.id for handler in logins] == ["register.<locals>.log_in"]
    assert [h.id for h in SmartOperatorRegistry()._activities.get_all_handlers()] == ["login_via_client"]
