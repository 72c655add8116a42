"""The API server, for this plugin: the only module that talks to it. What a person may not do, or cannot, is explained.

A pasted code passes through `hand_over_code` and nowhere else. Whatever goes wrong there, its error repeats nothing of
the request or of the answer.
"""

import difflib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import urllib3
from kubernetes.client import ApiClient, CustomObjectsApi
from kubernetes.client.exceptions import ApiException
from kubernetes.watch import Watch
from urllib3.exceptions import HTTPError, ReadTimeoutError

from kubectl_oauthaccount.account import AccountView
from kubectl_oauthaccount.errors import Forbidden, NotFound, PluginError, Unreachable
from kubectl_oauthaccount.names import CODE_ANNOTATION, GROUP, KIND, PLURAL, VERSION

FIELD_MANAGER = "kubectl-oauthaccount"
TIMEOUTS = (5.0, 30.0)  # connect, read
RETRY_SECONDS = 0.5
# Bookmarks come about once a minute: a watch that is silent for longer is dead.
SILENCE_SECONDS = 90.0

Body = dict[str, Any]


class WatchExpired(Unreachable):
    """The version to watch from is too old: list again."""


class Cluster:
    """The accounts of one namespace, and what belongs to them."""

    def __init__(self, client: ApiClient, namespace: str) -> None:
        self.client = client
        self.namespace = namespace
        self._api = CustomObjectsApi(client)

    # --- reading -----------------------------------------------------------------------------------------------------

    def account(self, name: str) -> AccountView:
        """The account; `NotFound` tells what it may be called instead."""
        try:
            return AccountView(self._get(name))
        except NotFound:
            names = [account.name for account in self.accounts()]
        raise NotFound(_no_such_account(name, names, self.namespace))

    def accounts(self) -> list[AccountView]:
        return self.listed()[0]

    def listed(self) -> tuple[list[AccountView], str]:
        """The accounts by name, and the version to watch from."""
        with self._explained("list", PLURAL):
            answer = _clean(
                self._api.list_namespaced_custom_object(
                    GROUP, VERSION, self.namespace, PLURAL, _request_timeout=TIMEOUTS
                )
            )
        accounts = sorted(map(AccountView, answer["items"]), key=lambda account: account.name)
        return accounts, str(answer["metadata"]["resourceVersion"])

    def watch(self, version: str, *, seconds: float, name: str | None = None) -> Iterator[tuple[str, AccountView]]:
        """What changes after `version` (of one account, if named), until `seconds` are over or the server ends it."""
        with self._explained("watch", PLURAL):
            stream = Watch().stream(
                self._api.list_namespaced_custom_object,
                *(GROUP, VERSION, self.namespace, PLURAL),
                field_selector=f"metadata.name={name}" if name else None,
                resource_version=version,
                allow_watch_bookmarks=True,
                timeout_seconds=max(1, int(seconds)),
                _request_timeout=(TIMEOUTS[0], min(seconds, SILENCE_SECONDS)),
            )
            try:
                for event in stream:
                    if event["type"] in ("ADDED", "MODIFIED", "DELETED"):
                        yield event["type"], AccountView(_clean(event["object"]))
            except ReadTimeoutError:
                return

    def follow(self, name: str, seconds: float) -> Iterator[AccountView]:
        """The account as it is, and again whenever it changes; ends after `seconds`. An API server that is away for a
        while is waited for; an account that is deleted meanwhile is `NotFound`."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            try:
                account = self.account(name)
                yield account
                for kind, changed in self.watch(account.resource_version, seconds=left, name=name):
                    if kind == "DELETED":
                        raise NotFound(f"{name} was deleted meanwhile")
                    yield changed
            except Unreachable:
                time.sleep(min(RETRY_SECONDS, left))

    def events(self, name: str) -> list[Body]:
        """The Events about the account that are still kept."""
        with self._explained("list", "events", group="events.k8s.io"):
            answer = self._api.list_namespaced_custom_object(
                *("events.k8s.io", "v1", self.namespace, "events"),
                field_selector=f"regarding.kind={KIND},regarding.name={name}",
                _request_timeout=TIMEOUTS,
            )
            return list(_clean(answer)["items"])

    # --- writing -----------------------------------------------------------------------------------------------------

    def annotate(self, name: str, annotation: str, value: str) -> AccountView:
        return self._patch(name, {"metadata": {"annotations": {annotation: value}}})

    def hand_over_code(self, name: str, code: str) -> None:
        """Put the pasted code onto the object. No error of this repeats anything that was sent or answered."""
        with self._explained("patch", PLURAL, is_secret=True):
            self._send_patch(name, {"metadata": {"annotations": {CODE_ANNOTATION: code}}})

    def set_suspend(self, name: str, suspend: bool) -> AccountView:
        return self._patch(name, {"spec": {"suspend": suspend}})

    def _patch(self, name: str, patch: Body) -> AccountView:
        with self._explained("patch", PLURAL):
            return AccountView(_clean(self._send_patch(name, patch)))

    def _send_patch(self, name: str, patch: Body) -> Any:
        return self._api.patch_namespaced_custom_object(
            *(GROUP, VERSION, self.namespace, PLURAL, name, patch),
            field_manager=FIELD_MANAGER,
            _content_type="application/merge-patch+json",
            _request_timeout=TIMEOUTS,
        )

    def _get(self, name: str) -> Body:
        with self._explained("get", PLURAL):
            return dict(
                _clean(
                    self._api.get_namespaced_custom_object(
                        GROUP, VERSION, self.namespace, PLURAL, name, _request_timeout=TIMEOUTS
                    )
                )
            )

    # --- errors ------------------------------------------------------------------------------------------------------

    @contextmanager
    def _explained(self, verb: str, resource: str, *, group: str = GROUP, is_secret: bool = False) -> Iterator[None]:
        try:
            yield
        except ApiException as error:
            self.explain(error.status, error.body, verb, f"{resource}.{group}", is_secret=is_secret)
        except HTTPError as error:
            raise self.unreachable(error) from None

    def explain(
        self, status: int | None, body: str | None, verb: str, resource: str, *, is_secret: bool = False
    ) -> NoReturn:
        """Raise what an error answer means for the person; `from None`, because the library's exception has the body."""
        answer = _decoded(body)
        if status == 0 or status is None:  # a TLS failure, in this library
            raise self._untrusted() from None
        if status == 401:
            raise PluginError("the API server does not accept your credentials (401): log in to the cluster") from None
        if status == 403:
            where = f"{resource} in namespace {self.namespace}"
            raise Forbidden(f"you may not {verb} {where}: ask for a Role with that verb") from None
        if status == 404 and not answer.get("details", {}).get("name"):
            raise PluginError(
                f"this cluster has no {resource}: install the CRD (kubectl apply -k crds/), or choose another --context"
            ) from None
        if status == 404:
            raise NotFound(f"{answer.get('message', 'not found')} in namespace {self.namespace}") from None
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
        return Unreachable(f"the API server {host} cannot be reached: is it up, and is this the right --context?")

    def _untrusted(self) -> PluginError:
        host = self.client.configuration.host
        return PluginError(f"the certificate of {host} is not one that this kubeconfig trusts: check its CA")


def _no_such_account(name: str, names: list[str], namespace: str) -> str:
    start = f"no account {name!r} in namespace {namespace}"
    if near := difflib.get_close_matches(name, names, n=3):
        return f"{start}; did you mean {' or '.join(near)}?"
    if names:
        return f"{start}; there are: {', '.join(names[:10])}{', …' if len(names) > 10 else ''}"
    return f"{start}, which has none at all: -n names another namespace"


def _decoded(body: str | None) -> Body:
    try:
        answer = json.loads(body or "")
    except ValueError:
        return {}
    return _clean(answer) if isinstance(answer, dict) else {}


# Text of the cluster is printed on a terminal, which must not take any of it for a command.
_HARMLESS = {code: "�" for code in (*range(32), *range(127, 160)) if code not in (9, 10)}


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return value.translate(_HARMLESS)
    if isinstance(value, dict):
        return {key: _clean(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_clean(inner) for inner in value]
    return value
