"""The only module of this plugin that talks to the API server. It explains what a person may not do, or cannot.

A pasted code passes through `hand_over_code` and nowhere else. Errors there repeat nothing of the request or the answer.
"""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

import urllib3
from kubernetes.client import CustomObjectsApi
from kubernetes.client.exceptions import ApiException
from kubernetes.watch import Watch
from urllib3.exceptions import HTTPError, ReadTimeoutError

from kubectl_oauthaccount.account import AccountView
from kubectl_oauthaccount.errors import Forbidden, NotFound, PluginError, Unreachable
from kubectl_oauthaccount.harmless import clean, decoded
from kubectl_oauthaccount.names import CODE_ANNOTATION, GROUP, KIND, PLURAL, VERSION

if TYPE_CHECKING:
    from kubectl_oauthaccount.kubeconfig import Client

FIELD_MANAGER = "kubectl-oauthaccount"
CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 30.0
RETRY_SECONDS = 0.5
# Bookmarks come about once a minute: a watch that is silent for longer is dead.
SILENCE_SECONDS = 90.0

Body = dict[str, Any]


class WatchExpired(Unreachable):
    """The version to watch from is too old: list again."""


class Cluster:
    """The accounts of one namespace (of all, where it says so), and what belongs to them.

    `request_timeout` is in seconds, for one request; 0 waits for ever.
    """

    def __init__(self, client: Client, namespace: str, *, request_timeout: float | None = None) -> None:
        self.client = client
        self.namespace = namespace
        self.timeouts = _timeouts(request_timeout)
        self._api = CustomObjectsApi(client)

    # --- reading -----------------------------------------------------------------------------------------------------

    def account(self, name: str, namespace: str | None = None) -> AccountView:
        """The account; `NotFound` suggests similar names."""
        namespace = namespace or self.namespace
        try:
            return AccountView(self._get(name, namespace))
        except NotFound:
            names = [account.name for account in self.accounts()]
        raise NotFound(_no_such_account(name, names, namespace))

    def accounts(self, *, selector: str | None = None, everywhere: bool = False) -> list[AccountView]:
        return self.listed(selector=selector, everywhere=everywhere)[0]

    def listed(self, *, selector: str | None = None, everywhere: bool = False) -> tuple[list[AccountView], str]:
        """The accounts by namespace and name, and the version to watch from."""
        with self._explained("list", PLURAL, None if everywhere else self.namespace):
            call, where = self._list_call(everywhere)
            answer = clean(call(*where, label_selector=selector, _request_timeout=self.timeouts))
        accounts = sorted(map(AccountView, answer["items"]), key=lambda account: (account.namespace, account.name))
        return accounts, str(answer["metadata"]["resourceVersion"])

    def watch(
        self,
        version: str,
        *,
        seconds: float,
        name: str | None = None,
        namespace: str | None = None,
        selector: str | None = None,
        everywhere: bool = False,
    ) -> Iterator[tuple[str, AccountView]]:
        """What changes after `version` (of one account, if named), until `seconds` are over or the server ends it.

        Bookmarks come through, too: they say that the server is there.
        """
        with self._explained("watch", PLURAL, None if everywhere else namespace or self.namespace):
            call, where = self._list_call(everywhere, namespace)
            stream = Watch().stream(
                call,
                *where,
                field_selector=f"metadata.name={name}" if name else None,
                label_selector=selector,
                resource_version=version,
                allow_watch_bookmarks=True,
                timeout_seconds=max(1, int(seconds)),
                _request_timeout=(CONNECT_SECONDS, min(seconds, SILENCE_SECONDS)),
            )
            try:
                for event in stream:
                    yield event["type"], AccountView(clean(event["object"]))
            except ReadTimeoutError:
                return

    def follow(self, account: AccountView, seconds: float) -> Iterator[AccountView]:
        """The account as it is, and again whenever it changes; ends after `seconds`. An API server that is away for a
        while is waited for; an account that is deleted meanwhile is `NotFound`."""
        name, namespace = account.name, account.namespace or self.namespace
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            try:
                current = self.account(name, namespace)
                yield current
                for kind, changed in self.watch(current.resource_version, seconds=left, name=name, namespace=namespace):
                    if kind == "DELETED":
                        raise NotFound(f"{name} was deleted meanwhile")
                    if kind != "BOOKMARK":
                        yield changed
            except Unreachable:
                time.sleep(min(RETRY_SECONDS, left))

    def events(self, account: AccountView) -> list[Body]:
        """The Events about the account that are still kept."""
        namespace = account.namespace or self.namespace
        with self._explained("list", "events", namespace, group="events.k8s.io"):
            answer = self._api.list_namespaced_custom_object(
                *("events.k8s.io", "v1", namespace, "events"),
                field_selector=f"regarding.kind={KIND},regarding.name={account.name}",
                _request_timeout=self.timeouts,
            )
            return list(clean(answer)["items"])

    def _list_call(self, everywhere: bool, namespace: str | None = None) -> tuple[Callable[..., Any], tuple[str, ...]]:
        if everywhere:
            return self._api.list_cluster_custom_object, (GROUP, VERSION, PLURAL)
        return self._api.list_namespaced_custom_object, (GROUP, VERSION, namespace or self.namespace, PLURAL)

    # --- writing -----------------------------------------------------------------------------------------------------

    def annotate(self, account: AccountView, annotation: str, value: str) -> AccountView:
        return self._patch(account, {"metadata": {"annotations": {annotation: value}}})

    def hand_over_code(self, account: AccountView, code: str) -> None:
        """Put the pasted code onto the object. No error of this repeats anything that was sent or answered."""
        with self._explained("patch", PLURAL, account.namespace or self.namespace, is_secret=True):
            self._send_patch(account, {"metadata": {"annotations": {CODE_ANNOTATION: code}}})

    def set_suspend(self, account: AccountView, suspend: bool) -> AccountView:
        return self._patch(account, {"spec": {"suspend": suspend}})

    def _patch(self, account: AccountView, patch: Body) -> AccountView:
        with self._explained("patch", PLURAL, account.namespace or self.namespace):
            return AccountView(clean(self._send_patch(account, patch)))

    def _send_patch(self, account: AccountView, patch: Body) -> Any:
        return self._api.patch_namespaced_custom_object(
            *(GROUP, VERSION, account.namespace or self.namespace, PLURAL, account.name, patch),
            field_manager=FIELD_MANAGER,
            _content_type="application/merge-patch+json",
            _request_timeout=self.timeouts,
        )

    def _get(self, name: str, namespace: str) -> Body:
        with self._explained("get", PLURAL, namespace):
            answer = self._api.get_namespaced_custom_object(
                GROUP, VERSION, namespace, PLURAL, name, _request_timeout=self.timeouts
            )
            return dict(clean(answer))

    # --- errors ------------------------------------------------------------------------------------------------------

    @contextmanager
    def _explained(
        self, verb: str, resource: str, namespace: str | None, *, group: str = GROUP, is_secret: bool = False
    ) -> Iterator[None]:
        where = f"in namespace {namespace}" if namespace is not None else "in all namespaces"
        try:
            yield
        except ApiException as error:
            self.explain(error.status, error.body, verb, f"{resource}.{group}", where, is_secret=is_secret)
        except HTTPError as error:
            raise self.unreachable(error) from None

    def explain(
        self, status: int | None, body: str | None, verb: str, resource: str, where: str, *, is_secret: bool = False
    ) -> NoReturn:
        """Raise what an error answer means for the person; `from None`, because the library's exception has the body."""
        answer = decoded(body)
        if status == 0 or status is None:  # a TLS failure, in this library
            raise self._untrusted() from None
        if status == 401:
            raise PluginError("the API server does not accept your credentials (401): log in to the cluster") from None
        if status == 403:
            role = "ClusterRole" if where == "in all namespaces" else "Role"
            whom = f" as {self.client.as_user}" if self.client.as_user is not None else ""
            raise Forbidden(f"you may not {verb} {resource} {where}{whom}: ask for a {role} with that verb") from None
        if status == 404 and not answer.get("details", {}).get("name"):
            raise PluginError(
                f"this cluster has no {resource}: install the CRD (kubectl apply -k crds/), or choose another --context"
            ) from None
        if status == 404:
            raise NotFound(f"{answer.get('message', 'not found')} {where}") from None
        if status == 410:
            raise WatchExpired("the watch is too old") from None
        said = str(answer.get("reason" if is_secret else "message") or "no reason given")
        text = f"the API server refused to {verb} {resource} ({status}): {said}"
        raise (Unreachable if status in (429, 500, 503, 504) else PluginError)(text) from None

    def unreachable(self, error: Exception) -> PluginError:
        """For a request that had no answer."""
        if isinstance(error, urllib3.exceptions.SSLError):
            return self._untrusted()
        host = self.client.configuration.host
        if isinstance(error, ReadTimeoutError) and self.timeouts is not None:
            seconds = f"{self.timeouts[1]:g} s"
            return Unreachable(
                f"the API server {host} did not answer in {seconds}: is it healthy? --request-timeout waits longer"
            )
        return Unreachable(f"the API server {host} cannot be reached: is it up, and is this the right --context?")

    def _untrusted(self) -> PluginError:
        host = self.client.configuration.host
        return PluginError(f"the certificate of {host} is not one that this kubeconfig trusts: check its CA")


def _timeouts(request_timeout: float | None) -> tuple[float, float] | None:
    """Of connecting and of an answer; None is for ever."""
    if request_timeout == 0:
        return None
    whole = request_timeout or ANSWER_SECONDS
    return min(whole, CONNECT_SECONDS), whole


def _no_such_account(name: str, names: list[str], namespace: str) -> str:
    start = f"no account {name!r} in namespace {namespace}"
    if near := difflib.get_close_matches(name, names, n=3):
        return f"{start}; did you mean {' or '.join(near)}?"
    if names:
        return f"{start}; there are: {', '.join(names[:10])}{', …' if len(names) > 10 else ''}"
    return f"{start}, which has none at all: -n names another namespace"
