"""The plugin and the operator are distributions of their own: neither needs what the other does."""

import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from kopf._core.intents.causes import Activity
from kopf._core.intents.registries import SmartOperatorRegistry

from oauth_pool_operator.cluster.watch import WatchPulse
from oauth_pool_operator.controller import Controller
from oauth_pool_operator.handlers import register

ROOT = Path(__file__).parents[2]
# as in the image, where the package is not installed
WITHOUT = "import sys; sys.modules.update(dict.fromkeys({missing!r})); "


def run(code: str, *missing: str) -> subprocess.CompletedProcess[str]:
    program = WITHOUT.format(missing=list(missing)) + code
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)


def packages(lock: str) -> set[str]:
    """What the lock of that name has installed."""
    return set(re.findall(r"^([a-z0-9-]+)==", (ROOT / f"requirements/{lock}.txt").read_text(), re.MULTILINE))


def test_the_operator_starts_without_the_plugin_s_packages() -> None:
    code = "from oauth_pool_operator.cli import main; main(['--version'])"
    ended = run(code, "kubernetes", "rich", "urllib3", "websocket")
    assert ended.stdout.startswith("oauth-pool-operator "), ended.stderr


def test_the_plugin_starts_where_nothing_of_the_operator_is_installed() -> None:
    """Every module of it is imported, and a command run."""
    code = (
        "import importlib, pkgutil; import kubectl_oauthaccount as plugin; "
        "[importlib.import_module(f'kubectl_oauthaccount.{m.name}') for m in pkgutil.iter_modules(plugin.__path__)]; "
        "from kubectl_oauthaccount.cli import main; sys.exit(main(['--version']))"
    )
    operators = (
        "oauth_pool_operator",
        "oauth_pool_proxy",
        "kopf",
        "lightkube",
        "authlib",
        "httpx2",
        "msgspec",
    )
    ended = run(code, *operators, "prometheus_client")
    assert (ended.returncode, ended.stdout) == (0, f"kubectl oauthaccount {version('kubectl-oauthaccount')}\n"), (
        ended.stderr
    )


def test_the_plugin_installs_nothing_that_only_the_operator_needs() -> None:
    of_plugin, of_operator = packages("plugin"), packages("operator")
    assert {"kubernetes", "click", "rich"} <= of_plugin
    assert {"kopf", "authlib", "lightkube", "msgspec", "prometheus-client"} <= of_operator - of_plugin


def test_help_and_completion_come_without_the_client_library() -> None:
    """It takes half a second, for every Tab that is pressed."""
    code = "from kubectl_oauthaccount.cli import complete; complete(['logi'])"
    assert run(code, "kubernetes", "rich").stdout == "login\tlog an account in\n:4\n"
    ended = run("from kubectl_oauthaccount.cli import main; sys.exit(main(['top', '--help']))", "kubernetes", "rich")
    assert (ended.returncode, ended.stdout.startswith("Usage: kubectl oauthaccount top")) == (0, True)


@pytest.mark.parametrize("missing", ["kubernetes", "rich"])
def test_half_an_installation_says_how_to_mend_it(missing: str) -> None:
    ended = run("from kubectl_oauthaccount.cli import main; sys.exit(main(['top']))", missing)
    assert ended.returncode == 1
    assert ended.stderr == (
        f"error: the package {missing} is missing: reinstall this program (uv tool install --reinstall kubectl-oauthaccount)\n"
    )


def test_the_images_get_none_of_the_plugin_s_packages() -> None:
    for lock in ("operator", "proxy"):
        assert len(packages(lock)) > 5
        assert {"kubernetes", "rich", "websocket-client"}.isdisjoint(packages(lock))


def test_the_operator_logs_in_to_the_api_server_by_its_own_handler_although_kubernetes_is_here() -> None:
    """Kopf would add handlers of its own for client libraries that it finds, if the operator used its default registry."""
    controller = Controller.__new__(Controller)
    controller.pulse, controller._tokens = WatchPulse(), None
    registry = register(controller)
    logins = [h for h in registry._activities.get_all_handlers() if h.activity is Activity.AUTHENTICATION]
    assert [handler.id for handler in logins] == ["Logins.log_in"]
    assert [h.id for h in SmartOperatorRegistry()._activities.get_all_handlers()] == ["login_via_client"]
