"""Which cluster and namespace: the kubeconfig, read as kubectl reads it."""

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from kubernetes import config
from kubernetes.client import ApiClient, Configuration
from urllib3.util.ssl_ import create_urllib3_context

from kubectl_oauthaccount.cluster import Cluster
from kubectl_oauthaccount.errors import PluginError

DEFAULT = "~/.kube/config"


# What the library raises for a file that is no kubeconfig, depending on how it is none.
_UNUSABLE = (config.ConfigException, yaml.YAMLError, OSError, AttributeError, KeyError, TypeError, ValueError)


def connect(kubeconfig: str | None, context: str | None, namespace: str | None) -> Cluster:
    """The cluster that the options name, or else the kubeconfig's current context. Sends nothing yet."""
    path = _path(kubeconfig)
    settings = Configuration()
    settings.retries = False  # none: who wants to try again can, and soon knows what is wrong
    with _explained(path):
        chosen = _context(path, context)
        config.load_kube_config(path, context=chosen["name"], client_configuration=settings)
    client = ApiClient(settings)
    if settings.verify_ssl:  # which urllib3 would make as strict as Python's own
        client.rest_client.pool_manager.connection_pool_kw["ssl_context"] = as_kubectl_verifies(
            create_urllib3_context()
        )
    client.user_agent = "kubectl-oauthaccount"
    return Cluster(client, namespace or chosen["context"].get("namespace") or "default")


def as_kubectl_verifies(context: ssl.SSLContext) -> ssl.SSLContext:
    """The same context, which verifies as kubectl and every Go program do.

    Python 3.13 and newer also demand the extensions that RFC 5280 asks of an authority. Many a cluster's own CA has not
    got them, and whoever runs the cluster cannot always change that.
    """
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def contexts(kubeconfig: str | None) -> list[str]:
    """The names of the contexts there are."""
    path = _path(kubeconfig)
    with _explained(path):
        found, _ = config.list_kube_config_contexts(path)
        return [str(entry["name"]) for entry in found]


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
        why = (str(error).splitlines() or [""])[0] if isinstance(error, config.ConfigException) else "it is none"
        raise PluginError(f"the kubeconfig {path} cannot be used: {why}") from None


def _context(path: str, name: str | None) -> Any:
    found, active = config.list_kube_config_contexts(path)
    if name is None:
        return active
    for entry in found:
        if entry["name"] == name:
            return entry
    names = ", ".join(str(entry["name"]) for entry in found)
    raise PluginError(f"the kubeconfig {path} has no context {name!r}; there are: {names}")
