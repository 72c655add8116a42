"""A control plane, the operator, a simulated provider, and proxies that come and go, with tokens that are sealed to them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.support.control_plane import ControlPlane, wait_until
from tests.support.stack import Stack, serve_accounts

from .proxy_process import PROXY, ProxyProcess


class PoolStack(Stack):
    """What is made with `tokens="sealed"`."""

    @property
    def server(self) -> str:
        """How operator and proxies reach the API server."""
        return self.control_plane.server

    def as_operator(self) -> dict[str, str]:
        config = Path(super().as_operator()["KUBECONFIG"]).read_text()
        mine = self.folder / "kubeconfig"
        mine.write_text(config.replace(self.control_plane.server, self.server))
        return {"KUBECONFIG": str(mine)}

    def join(self, name: str, command: Sequence[str] = PROXY) -> ProxyProcess:
        """One more proxy, which listens; tokens come to it later."""
        token, keys, plane = self.folder / f"{name}.token", self.folder / f"{name}.keys", self.control_plane
        keys.mkdir()
        token.write_text(plane.service_account_token(self.namespace, "oauth-pool-proxy", seconds=24 * 3600))
        tables = f"""
[oauth]
source = "kubernetes"
provider = "simulator"
key_dir = "{keys}"

[oauth.kubernetes]
server = "{self.server}"
ca_file = "{plane.ca_file}"
token_file = "{token}"
namespace = "{self.namespace}"
"""
        return ProxyProcess(self._guard, self.folder, name, upstream=self.simulator.url, more=tables, command=command)

    def leave(self, proxy: ProxyProcess) -> int | None:
        """Its end, and then that of its object, as the garbage collector would have it. The exit code."""
        code = proxy.stop()
        path = f"/apis/oauthpool.dev/v1alpha1/namespaces/{self.namespace}/oauthproxies/{proxy.name}"
        self.control_plane.api.delete(path, timeout=30).raise_for_status()
        return code

    def wait_until_it_holds(self, proxy: ProxyProcess, tokens: int) -> None:
        wait_until(lambda: proxy.metrics().get("pool_access_tokens_held") == tokens, f"all tokens in {proxy.name}", 60)


def subject_of(name: str) -> str:
    """Who logs in for the account of that name."""
    return f"{name}@trust.invalid"


@contextmanager
def own_control_plane() -> Iterator[ControlPlane]:
    """Nobody else must notice what is done to it."""
    with ControlPlane() as plane:
        serve_accounts(plane)
        yield plane
