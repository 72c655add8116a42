"""Which cluster and namespace: the kubeconfig, read as kubectl reads it."""

import os
from pathlib import Path
from typing import Any

import yaml
from kubernetes import config
from kubernetes.client import ApiClient, Configuration

from .cluster import Cluster
from .errors import PluginError

DEFAULT = "~/.kube/config"


def connect(kubeconfig: str | None, context: str | None, namespace: str | None) -> Cluster:
    """The cluster that the options name, or else the kubeconfig's current context. Sends nothing yet."""
    path = kubeconfig or os.environ.get("KUBECONFIG") or DEFAULT
    if not any(Path(part).expanduser().is_file() for part in path.split(os.pathsep)):
        raise PluginError(f"no kubeconfig at {path}: name one with --kubeconfig or KUBECONFIG")
    settings = Configuration()
    settings.retries = False  # none: who wants to try again can, and soon knows what is wrong
    try:
        chosen = _context(path, context)
        config.load_kube_config(path, context=chosen["name"], client_configuration=settings)
    except (config.ConfigException, yaml.YAMLError, OSError) as error:
        raise PluginError(f"the kubeconfig {path} cannot be used: {_first_line(error)}") from None
    client = ApiClient(settings)
    client.user_agent = "kubectl-oauthaccount"
    return Cluster(client, namespace or chosen["context"].get("namespace") or "default")


def contexts(kubeconfig: str | None) -> list[str]:
    """The names of the contexts there are."""
    found, _ = config.list_kube_config_contexts(kubeconfig or os.environ.get("KUBECONFIG") or DEFAULT)
    return [str(entry["name"]) for entry in found]


def _context(path: str, name: str | None) -> Any:
    found, active = config.list_kube_config_contexts(path)
    if name is None:
        return active
    for entry in found:
        if entry["name"] == name:
            return entry
    names = ", ".join(str(entry["name"]) for entry in found)
    raise PluginError(f"the kubeconfig {path} has no context {name!r}; there are: {names}")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
