"""Declares this proxy as an `OAuthProxy` object: its public key, and how many access tokens it holds.

The object is named after the pod and owned by it, so it is deleted with it. It is written at the start and checked now and
then, and soon if tokens do not come. Any change made to it by others is undone. No request ever waits for this.
"""

import asyncio
import logging
from collections.abc import Callable

import msgspec

from oauth_pool_proxy.pool.backoff import Backoff
from oauth_pool_proxy.pool.kube_api import KubeApi, KubeApiError

log = logging.getLogger(__name__)

LOOK_SECONDS = 300.0
"""The interval between checks of the object without a reason."""
DOUBT_SECONDS = 10.0
"""The shortest interval between checks with a reason."""
STATUS_SECONDS = 3.0
"""The shortest interval between writes of the number of tokens."""
MANAGER = "oauth-pool-proxy"


class _Metadata(msgspec.Struct, rename="camel"):
    uid: str = ""
    generation: int = 0
    """Increases with each change of the spec."""


class _Status(msgspec.Struct):
    tokens: int | None = None


class _Object(msgspec.Struct):
    metadata: _Metadata
    status: _Status | None = None


class Registration:
    """`pod` and `pod_uid` are those of this proxy's own pod. Times are in seconds."""

    def __init__(
        self,
        api: KubeApi,
        pod: str,
        pod_uid: str,
        public_key: str,
        version: str,
        *,
        clock: Callable[[], float],
        backoff: Backoff | None = None,
        look: float = LOOK_SECONDS,
        doubt: float = DOUBT_SECONDS,
        status: float = STATUS_SECONDS,
    ) -> None:
        self._api, self._pod, self._clock = api, pod, clock
        self._backoff = backoff or Backoff()
        self._look_seconds, self._doubt_seconds, self._status_seconds = look, doubt, status
        owner = {"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": pod_uid}
        self._object: dict[str, object] = {
            "apiVersion": "oauthpool.dev/v1alpha1",
            "kind": "OAuthProxy",
            "metadata": {"name": pod, "ownerReferences": [owner]},
            "spec": {"publicKey": public_key, "version": version[:64]},
        }
        self._collection = f"/apis/oauthpool.dev/v1alpha1/namespaces/{api.namespace}/oauthproxies"
        self._written: _Metadata | None = None
        self._written_at = float("-inf")
        self._held = 0
        self._told: int | None = None
        self._is_doubted = False
        self._is_failing = False
        self._news = asyncio.Event()

    def doubt(self) -> None:
        """Check the object soon: the operator seems not to know it."""
        self._is_doubted = True
        self._news.set()

    def held(self, tokens: int) -> None:
        """Set the number of accounts whose access tokens this proxy holds now."""
        self._held = tokens
        self._news.set()

    async def run(self) -> None:
        """Keep the object as it should be, forever."""
        while True:
            try:
                await self._declare()
                await self._follow()
            except (KubeApiError, msgspec.DecodeError) as error:
                self._note_failure(error)
                await asyncio.sleep(self._backoff.next())

    async def _follow(self) -> None:
        """Write the number of tokens when it changes, until the next check of the object is due."""
        while (left := self._next_look - self._clock()) > 0:
            if self._told != self._held:
                await self._tell(self._held)
                self._note_success()
                # Changes in the meantime are written together.
                await asyncio.sleep(self._status_seconds)
                continue
            self._note_success()
            self._news.clear()
            try:
                async with asyncio.timeout(left):
                    await self._news.wait()
            except TimeoutError:
                pass

    @property
    def _next_look(self) -> float:
        return self._written_at + (self._doubt_seconds if self._is_doubted else self._look_seconds)

    async def _declare(self) -> None:
        """Write the whole object. If it is already as it should be, the API server changes nothing."""
        self._is_doubted = False
        before = self._written
        try:
            # Not server-side apply: that would keep an owner reference that someone else added beside ours.
            found = await self._write("PATCH", f"{self._collection}/{self._pod}", self._object)
        except KubeApiError as error:
            if error.status != 404:
                raise
            found = await self._create()
        self._written, self._written_at = found.metadata, self._clock()
        self._told = found.status.tokens if found.status else None
        if before is None:
            log.info("declared as an OAuthProxy", extra={"fields": {"proxy": self._pod}})
        elif before != self._written:
            log.warning(
                "the OAuthProxy was changed or deleted, and is put right", extra={"fields": {"proxy": self._pod}}
            )

    async def _create(self) -> _Object:
        try:
            return await self._write("POST", self._collection, self._object)
        except KubeApiError as error:
            if error.status == 404:
                raise KubeApiError("the API server knows no OAuthProxy: apply crds/ first", 404) from None
            raise

    async def _tell(self, held: int) -> None:
        await self._write("PATCH", f"{self._collection}/{self._pod}/status", {"status": {"tokens": held}})
        self._told = held

    async def _write(self, method: str, path: str, document: object) -> _Object:
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        content = msgspec.json.encode(document)
        async with self._api.request(method, path, {"fieldManager": MANAGER}, content, kind) as response:
            return msgspec.json.decode(await response.whole(), type=_Object)

    def _note_failure(self, error: Exception) -> None:
        level = logging.DEBUG if self._is_failing else logging.WARNING
        fields = {"proxy": self._pod, "error": str(error)}
        log.log(level, "the OAuthProxy cannot be written, trying again", extra={"fields": fields})
        self._is_failing = True

    def _note_success(self) -> None:
        """Note that both the object and its status are as they should be."""
        self._backoff.reset()
        if self._is_failing:
            log.info("the OAuthProxy can be written again", extra={"fields": {"proxy": self._pod}})
        self._is_failing = False
