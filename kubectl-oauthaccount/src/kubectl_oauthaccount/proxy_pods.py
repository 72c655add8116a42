"""The proxies' pods, and their metrics, read through the API server (`pods/proxy`): nothing has to be reachable from here."""

from typing import Any

from kubernetes import client
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from kubectl_oauthaccount.cluster import Cluster
from kubectl_oauthaccount.errors import NotFound
from kubectl_oauthaccount.names import METRICS_PORT, PROXY_SELECTOR

DEFAULT_PORT = 9090


def metrics_texts(cluster: Cluster) -> list[str]:
    """Of every proxy that runs, as it is; `NotFound` if none does."""
    pods = [pod for pod in _pods(cluster) if pod.status and pod.status.phase == "Running"]
    if not pods:
        raise NotFound(
            f"no proxy runs in namespace {cluster.namespace} (no pod has {PROXY_SELECTOR}): -n names another"
        )
    return [_metrics(cluster, pod) for pod in pods]


def _pods(cluster: Cluster) -> list[Any]:
    where = f"in namespace {cluster.namespace}"
    try:
        answer = client.CoreV1Api(cluster.client).list_namespaced_pod(
            cluster.namespace, label_selector=PROXY_SELECTOR, _request_timeout=cluster.timeouts
        )
    except ApiException as error:
        cluster.explain(error.status, error.body, "list", "pods", where)
    except HTTPError as error:
        raise cluster.unreachable(error) from None
    return list(answer.items)


def _metrics(cluster: Cluster, pod: Any) -> str:
    name = f"{pod.metadata.name}:{_port(pod)}"
    try:
        answer: Any = client.CoreV1Api(cluster.client).connect_get_namespaced_pod_proxy_with_path(
            name, cluster.namespace, "metrics", _preload_content=False, _request_timeout=cluster.timeouts
        )
    except ApiException as error:
        cluster.explain(error.status, error.body, "get", "pods/proxy", f"in namespace {cluster.namespace}")
    except HTTPError as error:
        raise cluster.unreachable(error) from None
    text: str = answer.data.decode(errors="replace")
    return text


def _port(pod: Any) -> int:
    """The one that is called `metrics`."""
    ports = [port for container in pod.spec.containers for port in container.ports or ()]
    return next((port.container_port for port in ports if port.name == METRICS_PORT), DEFAULT_PORT)
