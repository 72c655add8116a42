"""Which cluster and namespace, and as whom: the kubeconfig, read as kubectl reads it."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from kubernetes.client import ApiClient, Configuration
from kubernetes.config import ConfigException
from kubernetes.config.kube_config import ConfigNode, KubeConfigLoader, KubeConfigMerger
from urllib3 import HTTPHeaderDict
from urllib3.util.ssl_ import create_urllib3_context

from kubectl_oauthaccount.cluster import Cluster
from kubectl_oauthaccount.errors import PluginError, UsageError
from kubectl_oauthaccount.options import ClusterOptions

DEFAULT = "~/.kube/config"
CHOSEN = "chosen by the options of kubectl oauthaccount"  # the name of what is put together here, in memory

# What the library raises for a file that is no kubeconfig, depending on how it is none.
_UNUSABLE = (ConfigException, yaml.YAMLError, OSError, AttributeError, KeyError, TypeError, ValueError)


class Client(ApiClient):
    """Sends every request as somebody else, if one is named; the API server decides whether that may be."""

    def __init__(self, settings: Configuration, as_user: str | None, as_groups: Sequence[str]) -> None:
        super().__init__(settings)
        self.as_user, self.as_groups = as_user, as_groups
        self.user_agent = "kubectl-oauthaccount"

    def call_api(self, method: str, url: str, header_params: Any = None, *more: Any, **others: Any) -> Any:
        headers = HTTPHeaderDict(header_params or {})
        if self.as_user is not None:
            headers.add("Impersonate-User", self.as_user)
        for group in self.as_groups:
            headers.add("Impersonate-Group", group)
        return super().call_api(method, url, headers, *more, **others)


def connect(options: ClusterOptions) -> Cluster:
    """The cluster that the options name, or else the kubeconfig's current context. Sends nothing yet."""
    if options.as_groups and options.as_user is None:
        raise UsageError("--as-group goes with --as: name the user, too")
    path = _path(options.kubeconfig)
    settings = Configuration()
    settings.retries = False  # none: who wants to try again can, and soon knows what is wrong
    with _explained(path):
        merger = KubeConfigMerger(path)
        context, user = _choose(merger.config, options)
        loader = KubeConfigLoader(
            merger.config, active_context=CHOSEN, config_base_path=None, config_persister=merger.save_changes
        )
        loader.load_and_set(settings)
    as_user, as_groups = (options.as_user, options.as_groups) if options.as_user else _impersonated(user)
    client = Client(settings, as_user, as_groups)
    if settings.verify_ssl:  # which urllib3 would make as strict as Python's own
        tls = as_kubectl_verifies(create_urllib3_context())
        client.rest_client.pool_manager.connection_pool_kw["ssl_context"] = tls
    namespace = options.namespace or context.get("namespace") or "default"
    return Cluster(client, namespace, request_timeout=options.request_timeout)


def as_kubectl_verifies(context: ssl.SSLContext) -> ssl.SSLContext:
    """The same context, which verifies as kubectl and every Go program do.

    Python 3.13 and newer also demand the extensions that RFC 5280 asks of an authority. Many a cluster's own CA has not
    got them, and whoever runs the cluster cannot always change that.
    """
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def names_in(kubeconfig: str | None, kind: str) -> list[str]:
    """The names of its `contexts`, `clusters` or `users`."""
    path = _path(kubeconfig)
    with _explained(path):
        return _names(KubeConfigMerger(path).config, kind)


def _path(kubeconfig: str | None) -> str:
    """One file, or several with the system's separator between them; one at least is there."""
    path = kubeconfig or os.environ.get("KUBECONFIG") or DEFAULT
    if not any(Path(part).expanduser().is_file() for part in path.split(os.pathsep)):
        raise PluginError(f"no kubeconfig at {path}: name one with --kubeconfig or KUBECONFIG")
    return path


@contextmanager
def _explained(path: str) -> Iterator[None]:
    try:
        yield
    except _UNUSABLE as error:
        why = (str(error).splitlines() or [""])[0] if isinstance(error, ConfigException) else "it is none"
        raise PluginError(f"the kubeconfig {path} cannot be used: {why}") from None


def _choose(config: ConfigNode, options: ClusterOptions) -> tuple[dict[str, Any], dict[str, Any]]:
    """Add the context `CHOSEN`, which has what the options say and else what the context has; returns it and its user.

    Entries are added and none is changed: the library writes a file that was changed when it has refreshed a token.
    """
    name = options.context or config.value.get("current-context")
    if not name and not options.cluster:
        raise ConfigException("it has no current context: choose one with --context")
    context = dict(_entry(config, "contexts", name).value["context"]) if name else {}
    context["cluster"] = options.cluster or context["cluster"]
    context["user"] = options.user or context.get("user")
    cluster = _entry(config, "clusters", context["cluster"])
    if options.server is not None:
        changed = {"name": CHOSEN, "cluster": {**cluster.value["cluster"], "server": options.server}}
        config.value["clusters"].append(ConfigNode(CHOSEN, changed, cluster.path))
        context["cluster"] = CHOSEN
    users = _names(config, "users")
    user = _entry(config, "users", context["user"]).value["user"] if options.user or context["user"] in users else {}
    config.value["contexts"].append(ConfigNode(CHOSEN, {"name": CHOSEN, "context": context}, cluster.path))
    return context, user or {}


def _entry(config: ConfigNode, kind: str, name: str) -> ConfigNode:
    entries: list[ConfigNode] = config.value[kind]
    for entry in entries:
        if entry["name"] == name:
            return entry
    there_are = ", ".join(_names(config, kind)) or "none"
    raise ConfigException(f"it has no {kind.removesuffix('s')} {name!r}; there are: {there_are}")


def _names(config: ConfigNode, kind: str) -> list[str]:
    return [str(entry["name"]) for entry in config.value[kind]]


def _impersonated(user: dict[str, Any]) -> tuple[str | None, Sequence[str]]:
    """`as` and `as-groups` of the kubeconfig's user."""
    return user.get("as"), user.get("as-groups") or ()
