"""The only module that talks to the API server, except for the watch, which is Kopf's.

Whatever it raises is an `httpx2.HTTPError` (an answer of the API server, or none), a time-out, or one of `errors`; callers
try again later. That includes answers that are not the API server's: some clusters have a gateway in front of it.
"""

import os
from collections.abc import AsyncIterable, Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import wraps
from http import HTTPStatus
from typing import Any, ParamSpec, TypeVar, cast

import httpx2
import msgspec
from lightkube.config.client_adapter import verify_cluster
from lightkube.config.kubeconfig import KubeConfig, SingleConfig
from lightkube.config.models import User
from lightkube.core.async_client import AsyncClient
from lightkube.core.exceptions import ApiError
from lightkube.core.exceptions import ConfigError as LightkubeConfigError
from lightkube.generic_resource import create_namespaced_resource
from lightkube.models.authentication_v1 import TokenRequestSpec
from lightkube.models.core_v1 import EventSource, ObjectReference
from lightkube.models.meta_v1 import ObjectMeta, StatusCause
from lightkube.resources import coordination_v1
from lightkube.resources.core_v1 import ConfigMap, Event, ServiceAccountToken
from lightkube.types import PatchType

from oauth_pool_operator.account.conditions import of_others
from oauth_pool_operator.account.spec import GROUP, KIND, PLURAL, VERSION, Account, parse_account
from oauth_pool_operator.certificates import as_others_verify
from oauth_pool_operator.cluster import config_maps
from oauth_pool_operator.cluster.answers import GarbledAnswer, is_forbidden, is_gone
from oauth_pool_operator.cluster.config_maps import INDEX_LABEL, TOKENS_CONFIG_MAP, TOKENS_LABEL, SharedMap
from oauth_pool_operator.cluster.lease import LEASE_NAME, Lease, parsed, rendered
from oauth_pool_operator.cluster.proxies import PROXY_KIND, PROXY_PLURAL
from oauth_pool_operator.errors import ConfigError, ServiceAccountTokenRefused

FIELD_MANAGER = "oauth-pool-operator"
OAuthAccount = create_namespaced_resource(GROUP, VERSION, KIND, PLURAL)
OAuthProxy = create_namespaced_resource(GROUP, VERSION, PROXY_KIND, PROXY_PLURAL)

# The API server's word for why nothing new may be made in a namespace.
NAMESPACE_TERMINATING = "NamespaceTerminating"

_P = ParamSpec("_P")
_T = TypeVar("_T")

# Objects per answer, so that a list takes a bounded amount of memory: with many proxies, an object has many reports.
LIST_CHUNK = 50

# The shortest life that the API server grants (TokenRequest: at least 10 minutes); it is used once, at once.
_ASSERTION_SECONDS = 600


def _translated(call: Callable[_P, Coroutine[Any, Any, _T]]) -> Callable[_P, Coroutine[Any, Any, _T]]:
    """Make the call raise only what callers expect.

    lightkube assumes that every answer is a well-formed one of the API server, and raises `KeyError`, `JSONDecodeError` and
    more for a gateway's.
    """

    @wraps(call)
    async def translated(*arguments: _P.args, **keywords: _P.kwargs) -> _T:
        try:
            return await call(*arguments, **keywords)
        except (httpx2.HTTPError, TimeoutError, ServiceAccountTokenRefused):
            raise
        except Exception as error:
            if isinstance(
                error.__context__, httpx2.HTTPStatusError
            ):  # it failed over an error's body; the status is news
                raise error.__context__ from error
            raise GarbledAnswer(type(error).__name__) from error

    return translated


class Cluster:
    """The operator's namespace."""

    def __init__(self, namespace: str, config_map: str) -> None:
        self.namespace = namespace
        self._config_map = config_map
        config = _connection()
        self._client = AsyncClient(
            config=config,
            namespace=namespace,
            timeout=httpx2.Timeout(30, connect=5),
            field_manager=FIELD_MANAGER,
            trust_env=True,
            transport=httpx2.AsyncHTTPTransport(
                verify=as_others_verify(verify_cluster(config.cluster, config.user or User(), config.abs_file))
            ),
        )

    async def close(self) -> None:
        await self._client.aclose()

    @_translated
    async def is_being_deleted(self) -> bool:
        """True when the namespace is being deleted, which is final: the API server lets nobody create anything in it."""
        probe = ConfigMap(metadata=ObjectMeta(generateName="is-the-namespace-going-"))
        try:
            await self._client.create(probe, dry_run=True)
        except ApiError as error:
            if any(cause.reason == NAMESPACE_TERMINATING for cause in _causes(error)):
                return True
            if is_forbidden(error):
                raise  # without permission, the answer does not say why
        return False

    @_translated
    async def account_names(self) -> set[str]:
        listed = self._listed(OAuthAccount)
        return {item.metadata.name async for item in listed if item.metadata and item.metadata.name}

    @_translated
    async def show_all(self, see: Callable[[dict[str, Any]], None]) -> None:
        """Call `see` with every account as the API server has it now, including those that this operator does not understand. They
        are not there all at the same time: of thousands, that would take a lot of memory."""
        async for item in self._listed(OAuthAccount):
            see(item)

    @_translated
    async def listed_proxies(self) -> list[dict[str, Any]]:
        """All proxies that have declared themselves, as the API server has them now."""
        return [item async for item in self._listed(OAuthProxy)]

    @_translated
    async def accounts(self) -> list[Account]:
        """All accounts that this operator understands."""
        found = []
        async for item in self._listed(OAuthAccount):
            with suppress(msgspec.ValidationError):
                found.append(parse_account(item))
        return found

    @_translated
    async def account(self, name: str) -> Account | None:
        try:
            return parse_account(await self._client.get(OAuthAccount, name))
        except ApiError as error:
            if is_gone(error):
                return None
            raise

    @_translated
    async def annotate(self, account: Account, annotation: str, value: str) -> Account:
        """Set an annotation of this very object, whatever else has changed."""
        patch = {"metadata": {"uid": account.uid, "annotations": {annotation: value}}}
        return parse_account(await self._client.patch(OAuthAccount, account.name, patch, patch_type=PatchType.MERGE))

    @_translated
    async def patch_metadata(self, account: Account, metadata: dict[str, Any]) -> Account:
        """Merge into metadata; refused (409) when the object has changed since `account` was observed."""
        patch = {"metadata": {**metadata, "resourceVersion": account.resource_version}}
        return parse_account(await self._client.patch(OAuthAccount, account.name, patch, patch_type=PatchType.MERGE))

    @_translated
    async def remove_annotation(self, account: Account, annotation: str) -> Account:
        """Remove it as it was observed, whatever else has changed; a newer value stays for the next look."""
        path = f"/metadata/annotations/{annotation.replace('~', '~0').replace('/', '~1')}"  # RFC 6901
        patch = [
            {"op": "test", "path": path, "value": account.annotations[annotation]},
            {"op": "remove", "path": path},
        ]
        return await self._patch_as_observed(OAuthAccount, account, patch)

    @_translated
    async def remove_reports(self, account: Account, reporters: Collection[str]) -> Account:
        """Remove these entries of `status.reports` as they were observed; all of them stay if one has changed meanwhile.

        Each belongs to a proxy's field manager. A JSON patch takes it from that one; an apply brings it back.
        """
        patch: list[dict[str, Any]] = []
        for number, report in reversed(list(enumerate(account.status["reports"]))):
            if report.get("reporter") in reporters:
                path = f"/status/reports/{number}"
                patch += [
                    {"op": "test", "path": f"{path}/reporter", "value": report["reporter"]},
                    {"op": "test", "path": f"{path}/observedTime", "value": report["observedTime"]},
                    {"op": "remove", "path": path},
                ]
        return await self._patch_as_observed(OAuthAccount.Status, account, patch)

    async def _patch_as_observed(self, kind: Any, account: Account, patch: list[dict[str, Any]]) -> Account:
        """A JSON patch of this very object; when one of its tests fails, the object as it is now."""
        patch = [{"op": "test", "path": "/metadata/uid", "value": account.uid}, *patch]
        try:
            return parse_account(await self._client.patch(kind, account.name, patch, patch_type=PatchType.JSON))
        except ApiError as error:
            if error.response.status_code != HTTPStatus.UNPROCESSABLE_ENTITY:
                raise
        return parse_account(await self._client.get(OAuthAccount, account.name))

    @_translated
    async def patch_status(self, account: Account, changes: dict[str, Any]) -> Account:
        """Merge into status, never into reports, which belong to proxies.

        A merge replaces all conditions. If some are another controller's, it is refused (409) when the object has changed
        since `account` was observed: theirs may have changed.
        """
        metadata = {"uid": account.uid}
        if "conditions" in changes and of_others(account.conditions):
            metadata["resourceVersion"] = account.resource_version
        patch = {"metadata": metadata, "status": changes}
        return parse_account(
            await self._client.patch(OAuthAccount.Status, account.name, patch, patch_type=PatchType.MERGE)
        )

    @_translated
    async def post_event(self, account: Account, kind: str, reason: str, message: str, now: datetime) -> None:
        """One Event about the account; `kind` is Normal or Warning."""
        await self._client.create(
            Event(
                metadata=ObjectMeta(generateName=f"{account.name}.", namespace=account.namespace),
                involvedObject=ObjectReference(
                    apiVersion=f"{GROUP}/{VERSION}",
                    kind=KIND,
                    name=account.name,
                    namespace=account.namespace,
                    uid=account.uid,
                ),
                type=kind,
                reason=reason,
                message=message,
                source=EventSource(component=FIELD_MANAGER),
                reportingComponent=FIELD_MANAGER,
                reportingInstance=os.environ.get("POD_NAME", FIELD_MANAGER),
                firstTimestamp=now,
                lastTimestamp=now,
                count=1,
            )
        )

    @_translated
    async def service_account_token(self, name: str, audience: str) -> str:
        """A fresh token of the ServiceAccount for the audience (TokenRequest)."""
        try:
            answer = await self._client.create(
                ServiceAccountToken(
                    metadata=ObjectMeta(),
                    spec=TokenRequestSpec(audiences=[audience], expirationSeconds=_ASSERTION_SECONDS),
                ),
                name,
            )
        except ApiError as error:
            raise self._explained(error, name) from error
        assert answer.status is not None and answer.status.token is not None
        return answer.status.token

    @_translated
    async def read_index(self, shard: int) -> SharedMap:
        """One ConfigMap of the pool index."""
        return await config_maps.read(self._client, self._config_map, INDEX_LABEL, shard)

    @_translated
    async def write_index(
        self, shard: int, changes: Mapping[str, str | None], *, whole: Mapping[str, str], shards: int
    ) -> None:
        """Merge the changes into one ConfigMap of the pool index: see `config_maps.write`."""
        family = (self._config_map, INDEX_LABEL)
        await config_maps.write(self._client, *family, shard, changes, whole=whole, shards=shards)

    @_translated
    async def read_tokens(self, shard: int) -> SharedMap:
        """One ConfigMap of the sealed tokens."""
        return await config_maps.read(self._client, TOKENS_CONFIG_MAP, TOKENS_LABEL, shard)

    @_translated
    async def write_tokens(
        self, shard: int, changes: Mapping[str, str | None], *, whole: Mapping[str, str], shards: int
    ) -> None:
        """Merge the changes into one ConfigMap of the sealed tokens: see `config_maps.write`."""
        family = (TOKENS_CONFIG_MAP, TOKENS_LABEL)
        await config_maps.write(self._client, *family, shard, changes, whole=whole, shards=shards)

    @_translated
    async def read_lease(self) -> Lease | None:
        try:
            found = await self._client.get(coordination_v1.Lease, LEASE_NAME)
        except ApiError as error:
            if is_gone(error):
                return None
            raise
        return parsed(found)

    @_translated
    async def write_lease(self, lease: Lease) -> Lease:
        """Write it as it is to be; refused (409) when somebody has written it since it was read."""
        body = rendered(lease)
        if not lease.version:
            new = cast("coordination_v1.Lease", coordination_v1.Lease.from_dict(body))
            return parsed(await self._client.create(new))
        patched = await self._client.patch(coordination_v1.Lease, LEASE_NAME, body, patch_type=PatchType.MERGE)
        return parsed(patched)

    def _listed(self, kind: Any) -> AsyncIterable[Any]:
        return self._client.list(kind, chunk_size=LIST_CHUNK)

    def _explained(self, error: ApiError, name: str) -> Exception:
        where = f"ServiceAccount {name} in namespace {self.namespace}"
        if is_gone(error):
            return ServiceAccountTokenRefused(f"there is no {where}; create it, or correct spec.workloadIdentity")
        if error.response.status_code == HTTPStatus.FORBIDDEN:
            return ServiceAccountTokenRefused(
                f"the operator may not create a token for {where}; its Role needs the verb create on "
                f"serviceaccounts/token with resourceNames [{name}]"
            )
        passes = error.response.status_code in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.CONFLICT)
        if error.response.status_code < HTTPStatus.INTERNAL_SERVER_ERROR and not passes:
            return ServiceAccountTokenRefused(
                f"the API server refused a token for {where} ({error.response.status_code} {error.status.reason})"
            )
        return error


def _connection() -> SingleConfig:
    try:
        found = KubeConfig.from_env().get()
        assert found is not None  # there is no default
        return found
    except LightkubeConfigError as error:
        raise ConfigError(
            f"no cluster to work with: {str(error).splitlines()[0]}; run in a pod, or set KUBECONFIG"
        ) from error


def _causes(error: ApiError) -> Sequence[StatusCause]:
    details = error.status.details
    return (details.causes if details is not None else None) or ()
