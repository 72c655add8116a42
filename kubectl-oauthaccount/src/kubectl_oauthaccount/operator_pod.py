"""The operator's pod: finding it, saying why it does not answer, and running a command in it.

A command's standard input ends only if the exec subprotocol can say so: v5.channel.k8s.io, which API servers offer since
Kubernetes 1.30. With an older one nothing is sent.
"""

import json
import ssl
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, BinaryIO

from kubernetes import client
from kubernetes.client.exceptions import ApiException
from kubernetes.stream import stream
from kubernetes.stream.ws_client import (
    ERROR_CHANNEL,
    STDERR_CHANNEL,
    STDIN_CHANNEL,
    STDOUT_CHANNEL,
    V5_CHANNEL_PROTOCOL,
)
from urllib3.exceptions import HTTPError
from websocket import WebSocketBadStatusException, WebSocketException

from kubectl_oauthaccount.cluster import Cluster
from kubectl_oauthaccount.errors import NotFound, PluginError, Unreachable
from kubectl_oauthaccount.names import OPERATOR_SELECTOR

CHUNK_BYTES = 32 * 1024


def find_pod(cluster: Cluster) -> str:
    """The name of the pod that works as the operator."""
    pods = _pods(cluster, cluster.namespace)
    for pod in pods:
        if _is_ready(pod):
            return str(pod.metadata.name)
    if pods:
        raise NotFound(f"the operator's pod {pods[0].metadata.name} is not ready: {_phase(pods[0])}")
    raise NotFound(
        f"no operator runs in namespace {cluster.namespace} (no pod has {OPERATOR_SELECTOR}): --pod names another"
    )


def why_silent(cluster: Cluster, namespace: str) -> str:
    """What to check when the operator does not answer. It ends an error message, so it never fails."""
    namespace = namespace or cluster.namespace
    log = f"kubectl -n {namespace} logs -l {OPERATOR_SELECTOR}"
    try:
        pods = _pods(cluster, namespace)
    except PluginError:
        return f"is the operator running? see {log}"
    if not pods:
        return f"no operator runs in namespace {namespace} (no pod has {OPERATOR_SELECTOR})"
    if not any(map(_is_ready, pods)):
        return f"the operator's pod {pods[0].metadata.name} is not ready: {_phase(pods[0])}"
    return f"the operator is running; see {log}"


def run_in_pod(
    cluster: Cluster, pod: str, container: str, command: Sequence[str], given: bytes, out: BinaryIO, err: BinaryIO
) -> int:
    """Run it with `given` as its standard input, pass on what it prints as it comes; returns its exit code."""
    by_hand = f"-n {cluster.namespace} exec -i {pod} -c {container} -- {' '.join(command)}"
    if cluster.client.as_user is not None:  # which the client library would not pass on here
        raise PluginError(f"this plugin cannot exec as somebody else; use kubectl --as=… {by_hand} < FILE")
    channel = _open(cluster, pod, container, command)
    try:
        if channel.subprotocol != V5_CHANNEL_PROTOCOL:
            raise PluginError(
                f"this API server cannot end the input of an exec (before 1.30); use kubectl {by_hand} < FILE"
            )
        _give(channel, given)
        while channel.is_open():
            channel.update(timeout=1)
            _pass_on(channel, out, err)
    except (WebSocketException, OSError):
        pass  # what came before it counts: without an exit code among it, this was no success
    finally:
        channel.close()
        channel.sock.shutdown()  # which `close` leaves out when the other side was first
    _pass_on(channel, out, err)
    return _exit_code(channel.read_channel(ERROR_CHANNEL))


def _open(cluster: Cluster, pod: str, container: str, command: Sequence[str]) -> Any:
    try:
        return stream(
            client.CoreV1Api(cluster.client).connect_get_namespaced_pod_exec,
            *(pod, cluster.namespace),
            container=container,
            command=list(command),
            stdin=True,
            stdout=True,
            stderr=True,
            tty=False,
            binary=True,
            _preload_content=False,
        )
    except ApiException as error:
        cause = error.__context__
        if isinstance(cause, WebSocketBadStatusException):
            body = cause.resp_body.decode(errors="replace") if cause.resp_body else None
            cluster.explain(cause.status_code, body, "create", "pods/exec", _where(cluster.namespace))
        if isinstance(cause, ssl.SSLError):
            cluster.explain(0, None, "create", "pods/exec", _where(cluster.namespace))
        raise cluster.unreachable(error) from None


def _give(channel: Any, given: bytes) -> None:
    """The whole input and its end. A command that ends before it has read all of it has said why."""
    with suppress(WebSocketException, OSError):
        for start in range(0, len(given), CHUNK_BYTES):
            channel.write_channel(STDIN_CHANNEL, given[start : start + CHUNK_BYTES])
        channel.close_channel(STDIN_CHANNEL)


def _pass_on(channel: Any, out: BinaryIO, err: BinaryIO) -> None:
    for number, target in ((STDOUT_CHANNEL, out), (STDERR_CHANNEL, err)):
        if text := channel.read_channel(number):
            target.write(text)
            target.flush()


def _exit_code(raw: bytes) -> int:
    """What the error channel said: a Status, whose causes name the exit code."""
    try:
        status = json.loads(raw)
    except ValueError:
        raise Unreachable("the connection ended before the command did; look at the account") from None
    if status.get("status") == "Success":
        return 0
    causes = (status.get("details") or {}).get("causes") or ()
    for cause in causes:
        if cause.get("reason") == "ExitCode" and str(cause.get("message")).isdecimal():
            return int(cause["message"])
    raise PluginError(f"the command did not run: {status.get('message', 'no reason given')}")


def _pods(cluster: Cluster, namespace: str) -> list[Any]:
    """Those that are not going away."""
    try:
        answer = client.CoreV1Api(cluster.client).list_namespaced_pod(
            namespace, label_selector=OPERATOR_SELECTOR, _request_timeout=cluster.timeouts
        )
    except ApiException as error:
        cluster.explain(error.status, error.body, "list", "pods", _where(namespace))
    except HTTPError as error:
        raise cluster.unreachable(error) from None
    return [pod for pod in answer.items if pod.metadata is None or pod.metadata.deletion_timestamp is None]


def _is_ready(pod: Any) -> bool:
    conditions = (pod.status.conditions if pod.status else None) or ()
    return any(condition.type == "Ready" and condition.status == "True" for condition in conditions)


def _phase(pod: Any) -> str:
    """The most telling word: why its container waits, or else its phase."""
    for status in (pod.status.container_statuses if pod.status else None) or ():
        if status.state is not None and status.state.waiting is not None and status.state.waiting.reason:
            return str(status.state.waiting.reason)
    return str((pod.status.phase if pod.status else None) or "Unknown")


def _where(namespace: str) -> str:
    return f"in namespace {namespace}"
