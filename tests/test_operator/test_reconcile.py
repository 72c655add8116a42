"""One account, step by step: the store is real, the token endpoint and the cluster are the test's, and so is the clock."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest
from lightkube.core.exceptions import ApiError
from prometheus_client import REGISTRY

from oauth_pool_operator import metrics, rotation
from oauth_pool_operator.account.documents import AccessFile, Credential, Journal, LoginSession, fingerprint
from oauth_pool_operator.account.facts import NEVER
from oauth_pool_operator.account.memory import Memory
from oauth_pool_operator.account.spec import (
    CLEAR_ANNOTATION,
    CODE_ANNOTATION,
    FINALIZER,
    LOGIN_ANNOTATION,
    Account,
    WorkloadIdentity,
)
from oauth_pool_operator.cluster.api import Cluster
from oauth_pool_operator.cluster.config_maps import SharedMap
from oauth_pool_operator.cluster.index import IndexPublisher
from oauth_pool_operator.cluster.shards import NoRoom, Shards
from oauth_pool_operator.config import AuthorizationCodeProfile, DeviceCodeProfile, Profile, WorkloadIdentityProfile
from oauth_pool_operator.delivery import AccessFiles, Delivery
from oauth_pool_operator.errors import (
    ClusterUnavailable,
    ExchangeRejected,
    GrantRejected,
    ProviderHeld,
    StoreFailed,
    TokenEndpointUnavailable,
)
from oauth_pool_operator.oauth import login
from oauth_pool_operator.oauth.answer import DeviceAuthorization, TokenAnswer
from oauth_pool_operator.oauth.endpoint import TokenEndpoint
from oauth_pool_operator.oauth.throttle import Throttle
from oauth_pool_operator.reconcile import Reconciler
from oauth_pool_operator.storage.store import Store
from tests.support.builders import (
    NOW,
    UID,
    account,
    answer,
    credential,
    report,
    session,
)

SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)
GOOD_CODE = "the-code#state-of-a-test"
DUE = credential(expires_in=5 * MINUTE)
EXPIRED = credential(expires_in=-MINUTE)
NOT_REACHED = TokenEndpointUnavailable("the token endpoint cannot be reached", may_be_done=False)
LOST = TokenEndpointUnavailable("the connection to the token endpoint was cut", may_be_done=True)
DEAD = GrantRejected("the token endpoint answered invalid_grant")
REFUSED = ExchangeRejected("the token endpoint answered 400 invalid_client")
NO_API_SERVER = httpx2.ConnectError("no API server")


def not_found() -> ApiError:
    response = httpx2.Response(404, json={"code": 404}, request=httpx2.Request("PATCH", "https://cluster.example/"))
    return ApiError(response=response, request=response.request)


class RecordedStore(Store):
    """The real one; what is written is also noted in `steps`."""

    def __init__(self, folder: Path, steps: list[str]) -> None:
        self.state_dir, self.access_dir, self.steps = folder / "state", folder / "access", steps
        for path in (self.state_dir, self.access_dir):
            path.mkdir()
        self.failures = 0
        super().__init__(self.state_dir, self.access_dir)

    def begin_exchange(self, uid: str, journal: Journal | None) -> None:
        super().begin_exchange(uid, journal)
        self.steps.append("room" if journal is None else "room and journal")

    def save_credential(self, uid: str, credential: Credential, *, replaces: int) -> None:
        if self.failures:
            self.failures -= 1
            raise StoreFailed("no space left on device")
        super().save_credential(uid, credential, replaces=replaces)
        self.steps.append("credential")

    def save_session(self, uid: str, session: LoginSession) -> None:
        super().save_session(uid, session)
        self.steps.append("session")

    def save_access(self, uid: str, access: AccessFile) -> None:
        super().save_access(uid, access)
        self.steps.append("access file")

    def remove_access(self, uid: str) -> None:
        if self.access(uid) is not None:
            self.steps.append("access file removed")
        super().remove_access(uid)

    def remove_state(self, uid: str) -> None:
        super().remove_state(uid)
        self.steps.append("state removed")


class ScriptedEndpoint(TokenEndpoint):
    """Answers what the test says, in that order."""

    def __init__(self, steps: list[str]) -> None:
        self.steps = steps
        self.answers: list[TokenAnswer | Exception] = []
        self.authorizations: list[DeviceAuthorization | Exception] = []
        self.sent: list[str] = []
        self.meanwhile: Callable[[], Awaitable[object]] | None = None

    def authorization_url(self, session: LoginSession) -> str:
        return f"https://provider.example/authorize?state={session.state}"

    async def exchange_code(self, code: str, session: LoginSession) -> TokenAnswer:
        return await self._asked("exchange", f"{code} {session.verifier}")

    async def authorize_device(self) -> DeviceAuthorization:
        self.steps.append("authorize device")
        given = self.authorizations.pop(0)
        if isinstance(given, Exception):
            raise given
        return given

    async def exchange_device_code(self, device_code: str) -> TokenAnswer:
        return await self._asked("ask", device_code)

    async def refresh(self, refresh_token: str, grant: str = "AuthorizationCode") -> TokenAnswer:
        return await self._asked("refresh", refresh_token)

    async def exchange_assertion(self, assertion: str, workload: WorkloadIdentity) -> TokenAnswer:
        return await self._asked("exchange", assertion)

    async def revoke(self, token: str, grant: str = "AuthorizationCode") -> None:
        await self._asked("revoke", token)

    async def _asked(self, step: str, sent: str) -> TokenAnswer:
        self.steps.append(step)
        self.sent.append(sent)
        if self.meanwhile is not None:
            await self.meanwhile()
        given = self.answers.pop(0)
        if isinstance(given, Exception):
            raise given
        return given


class ScriptedCluster(Cluster):
    """One object and one ConfigMap; whatever is named in `failures` fails."""

    def __init__(self, of: Account, steps: list[str]) -> None:
        self.object, self.steps = of, steps
        self.index: dict[str, str] = {}
        self.patches: list[dict[str, Any]] = []
        self.events: list[str] = []
        self.failures: dict[str, Exception] = {}

    async def patch_metadata(self, account: Account, metadata: dict[str, Any]) -> Account:
        return self._written("finalizers", finalizers=metadata["finalizers"] or [])

    async def remove_annotation(self, account: Account, annotation: str) -> Account:
        rest = {name: value for name, value in self.object.annotations.items() if name != annotation}
        return self._written("annotation removed", annotations=rest)

    async def remove_reports(self, account: Account, reporters: Collection[str]) -> Account:
        rest = [report for report in self.object.reports if report.reporter not in reporters]
        return self._written("reports removed", reports=rest)

    async def patch_status(self, account: Account, changes: dict[str, Any]) -> Account:
        self.patches.append(changes)
        return self._written("status", status=merged(self.object.status, changes))

    async def post_event(self, account: Account, kind: str, reason: str, message: str, now: datetime) -> None:
        if "event" in self.failures:
            raise self.failures["event"]
        self.events.append(reason)

    async def service_account_token(self, name: str, audience: str) -> str:
        if "service account token" in self.failures:
            raise self.failures["service account token"]
        return f"token of {name} for {audience}"

    async def read_index(self, shard: int) -> SharedMap:
        return SharedMap(dict(self.index) if shard == 0 else {})

    async def write_index(
        self, shard: int, changes: Mapping[str, str | None], *, whole: Mapping[str, str], shards: int
    ) -> None:
        if "index" in self.failures:
            raise self.failures["index"]
        self.steps.append("index")
        self.index = dict(whole)

    def _written(self, step: str, **changes: Any) -> Account:
        if step in self.failures:
            raise self.failures[step]
        self.steps.append(step)
        version = str(int(self.object.resource_version) + 1)
        self.object = msgspec.structs.replace(self.object, resource_version=version, **changes)
        return self.object


def merged(document: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    """RFC 7396, as the API server does it."""
    result = dict(document)
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        elif isinstance(value, dict):
            result[name] = merged(result.get(name) or {}, value)
        else:
            result[name] = value
    return result


class World:
    """An account, everything around it, and what happened, in `steps`."""

    def __init__(self, folder: Path, of: Account) -> None:
        self.now = NOW
        self.steps: list[str] = []
        self.store = RecordedStore(folder, self.steps)
        self.endpoint = ScriptedEndpoint(self.steps)
        self.cluster = ScriptedCluster(of, self.steps)
        self.shards = Shards()
        self.index = IndexPublisher(self.cluster, self.shards)
        self.delivery: Delivery = AccessFiles(self.store)
        code_settings = AuthorizationCodeProfile(
            client_id="me",
            authorization_endpoint="https://provider.example/authorize",
            token_endpoint="https://provider.example/token",
            redirect_uri="https://provider.example/callback",
            subject_claim="account.email_address",
        )
        profile = Profile(
            authorization_code=code_settings,
            device_code=DeviceCodeProfile(
                client_id="me",
                device_authorization_endpoint="https://provider.example/device_authorization",
                token_endpoint="https://provider.example/token",
                subject_claim="account.email_address",
            ),
            workload_identity=WorkloadIdentityProfile("https://provider.example/token", "https://provider.example"),
        )
        self.profiles = {
            "anthropic": profile,
            "for-people": msgspec.structs.replace(profile, workload_identity=None, device_code=None),
            "bare-codes": msgspec.structs.replace(
                profile,
                authorization_code=msgspec.structs.replace(code_settings, allow_code_without_state=True),
            ),
        }
        self.restart()

    def restart(self) -> None:
        """Another life of the operator: what is on the disk is all that it knows."""
        self.memory = Memory()
        self.throttle = Throttle(4, clock=lambda: self.now)
        self.reconciler = Reconciler(
            store=self.store,
            profiles=self.profiles,
            broken_profiles={"broken": "providers.broken.authorization_code.client_id: must not be empty"},
            endpoints=dict.fromkeys(self.profiles, self.endpoint),
            delivery=self.delivery,
            index=self.index,
            cluster=self.cluster,
            throttle=self.throttle,
            clock=lambda: self.now,
            elapsed=lambda: (self.now - NOW).total_seconds(),
        )

    async def reconcile(self, *answers: TokenAnswer | Exception) -> datetime:
        """As often as there is news, with the token endpoint answering these; returns when it is due again."""
        self.steps.clear()
        self.endpoint.answers.extend(answers)
        while True:
            try:
                due = await self.look()
            except Exception:
                if not self.has_news:
                    raise
            if not self.has_news:
                return due
            await self.reconciler.rotations.ended(UID)

    @property
    def has_news(self) -> bool:
        """A rotation is under way, or has ended, and the controller would have the account looked at again."""
        rotations = self.reconciler.rotations
        return rotations.of(UID) is not None or rotations.outcome(UID) is not None

    async def look(self) -> datetime:
        """Reconcile once."""
        _, due = await self.reconciler.reconcile(self.cluster.object, self.memory)
        return due

    async def bury(self) -> datetime:
        """The provider says that the grant is dead, and says so again."""
        self.now = await self.reconcile(DEAD)
        return await self.reconcile(DEAD)

    def observed(self, **changes: Any) -> None:
        """The object is changed by somebody else."""
        self.cluster.object = msgspec.structs.replace(self.cluster.object, **changes)

    def observed_meanwhile(self, **changes: Any) -> None:
        """The same while a reconcile is under way: the controller tells it."""
        version = str(int(self.cluster.object.resource_version) + 1)
        self.observed(resource_version=version, **changes)

    def deleted_meanwhile(self) -> None:
        self.observed_meanwhile(deleting=True)

    def steps_of(self, *names: str) -> list[str]:
        """Those of them that were taken, in order: publishing goes on beside a rotation."""
        return [step for step in self.steps if step in names]

    @property
    def credential(self) -> Credential:
        found = self.store.credential(UID)
        assert found is not None
        return found

    @property
    def session(self) -> LoginSession:
        found = self.store.session(UID)
        assert found is not None
        return found

    def reason_or_none(self, kind: str) -> str | None:
        """The same, also before anything was written."""
        return self.reason(kind) if "conditions" in self.cluster.object.status else None

    def reason(self, kind: str) -> str | None:
        conditions = self.cluster.object.status["conditions"]
        return next((entry["reason"] for entry in conditions if entry["type"] == kind), None)

    def published(self) -> dict[str, Any]:
        """The account's entry of the index."""
        entry: dict[str, Any] = msgspec.json.decode(self.cluster.index["claude-1"])
        return entry


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until it is so."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 (nobody could say that it is so)
            await asyncio.sleep(0)


@asynccontextmanager
async def world(
    folder: Path,
    of: Account | None = None,
    *,
    credential: Credential | None = None,
    session: LoginSession | None = None,
    has_finalizer: bool = True,
) -> AsyncIterator[World]:
    of = of if of is not None else account()
    if has_finalizer and not of.finalizers:
        of = msgspec.structs.replace(of, finalizers=[FINALIZER])
    made = World(folder, of)
    if credential is not None:
        made.store.save_credential(UID, credential, replaces=0)
    if session is not None:
        made.store.save_session(UID, session)
    await made.index.load({of.name})
    task = asyncio.create_task(made.index.run())
    try:
        yield made
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


# --- the order of the steps ------------------------------------------------------------------------------------------


async def test_nothing_is_stored_before_the_finalizer_is_there(tmp_path: Path) -> None:
    async with world(tmp_path, has_finalizer=False) as w:
        await w.reconcile()
        assert w.steps == ["finalizers", "session", "index", "status"]


async def test_a_refresh_is_journaled_first_stored_next_and_told_last(tmp_path: Path) -> None:
    async with world(tmp_path, credential=credential()) as w:
        await w.reconcile()
        w.now += 6 * HOUR
        await w.reconcile(answer())
        assert w.steps == ["room and journal", "refresh", "credential", "access file", "index", "status"]


async def test_a_code_is_on_the_volume_before_it_leaves_the_object_and_is_kept_until_its_tokens_are_stored(
    tmp_path: Path,
) -> None:
    async with world(tmp_path, account(annotations={CODE_ANNOTATION: GOOD_CODE}), session=session()) as w:
        await w.reconcile(answer())
        taken, told = ["session", "annotation removed"], ["access file", "index"]
        assert w.steps_of("session", "annotation removed", "room", "exchange", "credential") == [
            *taken,
            *("room", "exchange", "credential", "session"),
        ]
        assert w.steps_of("session", "access file")[-2:] == ["session", "access file"]
        assert w.steps_of(*told)[-2:] == told
        assert w.steps[-1] == "status"  # there may be one before, of the reconcile that began the exchange


async def test_an_assertion_is_exchanged_only_with_room_for_the_answer(tmp_path: Path) -> None:
    async with world(tmp_path, account(grant="WorkloadIdentity")) as w:
        await w.reconcile(answer(refresh_token=None))
        assert w.steps_of("room", "exchange", "credential") == ["room", "exchange", "credential"]
        assert w.steps_of("credential", "access file") == ["credential", "access file"]
        assert w.steps_of("access file", "index")[-2:] == ["access file", "index"]
        assert w.steps[-1] == "status"  # there may be one before, of the reconcile that began the exchange
        assert w.endpoint.sent == ["token of inference for https://provider.example"]


async def test_a_second_look_changes_nothing(tmp_path: Path) -> None:
    async with world(tmp_path, credential=DUE) as w:
        await w.reconcile(answer())
        await w.reconcile()
        assert w.steps == []


@pytest.mark.parametrize(
    ("policy", "steps"),
    [
        pytest.param(
            "Revoke", ["index", "access file removed", "revoke", "state removed", "finalizers"], id="revoke the grant"
        ),
        pytest.param("Retain", ["index", "access file removed", "finalizers"], id="retain the credential"),
    ],
)
async def test_removal_begins_with_what_proxies_see_and_ends_with_the_finalizer(
    tmp_path: Path, policy: str, steps: list[str]
) -> None:
    async with world(tmp_path, account(deletion_policy=policy), credential=credential()) as w:
        await w.reconcile()
        w.observed(deleting=True)
        assert await w.reconcile(answer()) == NEVER
        assert w.steps == steps


# --- removal ---------------------------------------------------------------------------------------------------------


def deleted(**spec: Any) -> Account:
    return account(deleting=True, finalizers=("example.com/theirs", FINALIZER), **spec)


async def test_finalizers_of_others_stay(tmp_path: Path) -> None:
    async with world(tmp_path, account(finalizers=("example.com/theirs",))) as w:
        await w.reconcile()
        assert w.cluster.object.finalizers == ["example.com/theirs", FINALIZER]
        w.observed(deleting=True)
        await w.reconcile()
        assert w.cluster.object.finalizers == ["example.com/theirs"]


async def test_a_revocation_that_is_refused_does_not_keep_the_object(tmp_path: Path) -> None:
    async with world(tmp_path, deleted(), credential=credential()) as w:
        assert await w.reconcile(REFUSED) == NEVER
        assert w.cluster.object.finalizers == ["example.com/theirs"]
        assert w.store.credential(UID) is None


async def test_a_revocation_that_fails_is_tried_again_for_a_while_and_then_keeps_nobody(tmp_path: Path) -> None:
    async with world(tmp_path, deleted(), credential=credential()) as w:
        while (due := await w.reconcile(NOT_REACHED)) != NEVER:
            assert (FINALIZER in w.cluster.object.finalizers, "claude-1" in w.cluster.index) == (True, False)
            w.now = due
        assert len(w.endpoint.sent) > 5
        assert w.now - NOW < 30 * SECOND
        assert not (w.store.state_dir / UID).exists()
        assert w.cluster.object.finalizers == ["example.com/theirs"]


async def test_a_revocation_that_works_the_second_time_ends_the_removal(tmp_path: Path) -> None:
    async with world(tmp_path, deleted(), credential=credential()) as w:
        w.now = await w.reconcile(NOT_REACHED)
        assert await w.reconcile(answer()) == NEVER
        assert not (w.store.state_dir / UID).exists()


async def test_a_volume_that_cannot_be_written_keeps_an_object_only_for_a_while(tmp_path: Path) -> None:
    async with world(tmp_path, deleted(deletion_policy="Retain"), credential=credential()) as w:
        (w.store.state_dir / UID / "retained.json.new").mkdir()
        while (due := await w.reconcile()) != NEVER:
            w.now = due
        assert w.now - NOW < 30 * SECOND
        assert w.cluster.object.finalizers == ["example.com/theirs"]


async def test_an_index_that_cannot_be_written_does_not_keep_the_grant_alive(tmp_path: Path) -> None:
    async with world(tmp_path, account(), credential=credential(refresh_token="refresh-1")) as w:
        await w.reconcile()
        w.observed(deleting=True)
        w.cluster.failures["index"] = NO_API_SERVER
        while (due := await w.reconcile(answer())) != NEVER:
            assert w.endpoint.sent == []  # for as long as a proxy may still pick it
            w.endpoint.answers.clear()
            w.now = due
        assert w.now - NOW < 30 * SECOND
        assert w.endpoint.sent == ["refresh-1"]
        assert not (w.store.state_dir / UID).exists()
        assert not (w.store.access_dir / f"{UID}.json").exists()
        assert w.cluster.object.finalizers == []


async def test_what_is_retained_says_whose_it_is_and_since_when(tmp_path: Path) -> None:
    async with world(tmp_path, deleted(deletion_policy="Retain"), credential=credential()) as w:
        w.cluster.failures["finalizers"] = NO_API_SERVER
        with pytest.raises(httpx2.ConnectError):
            await w.reconcile()
        w.cluster.failures.clear()
        w.now += HOUR
        await w.reconcile()
        assert msgspec.json.decode((w.store.state_dir / UID / "retained.json").read_bytes()) == {
            "name": "claude-1",
            "namespace": "pool",
            "provider": "anthropic",
            "grant": "AuthorizationCode",
            "since": "2026-11-20T12:00:00Z",
        }


async def test_an_account_whose_new_credential_cannot_be_stored_can_be_deleted_and_that_one_is_revoked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rotation, "SAVE_RETRY_SECONDS", 0)
    async with world(tmp_path, credential=DUE) as w:
        w.store.failures = 10**6
        w.endpoint.answers = [answer(), answer()]
        await w.look()
        await until(lambda: w.reconciler.rotations.trouble(UID) is not None)
        await w.look()
        assert w.reason("Stalled") == "StorageUnavailable"
        w.deleted_meanwhile()
        assert await w.look() == NEVER
        assert w.endpoint.sent == ["refresh-token-of-a-test", "refresh-token-2-of-a-test"]  # refreshed, revoked
        assert FINALIZER not in w.cluster.object.finalizers


# --- meanwhile -------------------------------------------------------------------------------------------------------


async def test_a_suspension_does_not_wait_for_a_slow_token_endpoint_nor_is_it_forgotten_afterwards(
    tmp_path: Path,
) -> None:
    async with world(tmp_path, credential=DUE) as w:
        published = []

        async def somebody_suspends() -> None:
            w.observed_meanwhile(spec=msgspec.structs.replace(w.cluster.object.spec, suspend=True))
            await w.look()
            published.append(w.published())

        w.endpoint.meanwhile = somebody_suspends
        await w.reconcile(answer())
        published.append(w.published())
        assert [(entry["status"], entry["generation"]) for entry in published] == [("Suspended", 1), ("Suspended", 2)]
        assert w.reason("Ready") == "Suspended"


async def test_a_full_disk_is_still_told_of_when_something_else_happens_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rotation, "SAVE_RETRY_SECONDS", 0)
    async with world(tmp_path, credential=DUE) as w:
        w.store.failures = 10**6
        w.endpoint.answers = [answer()]
        await w.look()
        await until(lambda: w.reconciler.rotations.trouble(UID) is not None)
        w.observed_meanwhile(reports=[report("RateLimited", until=HOUR)])
        await w.look()
        assert (w.reason("Ready"), w.reason("Stalled")) == ("CoolingDown", "StorageUnavailable")
        w.store.failures = 0
        await w.reconcile()
        assert (w.reason("Stalled"), w.credential.generation) == (None, 2)


# --- damaged files ---------------------------------------------------------------------------------------------------


def damage(w: World, name: str) -> None:
    (w.store.state_dir / UID / name).write_text('{"refresh_token": "half')


def set_aside(w: World) -> list[str]:
    return sorted(path.name for path in (w.store.state_dir / UID).glob("*.corrupt-*"))


async def test_a_damaged_credential_is_set_aside_and_its_access_token_used_up_while_a_person_is_asked_to_log_in(
    tmp_path: Path,
) -> None:
    async with world(tmp_path, credential=credential(), session=login.end_session(session())) as w:
        await w.reconcile()
        before = w.published()
        damage(w, "credential.json")
        for _ in range(3):
            due = await w.reconcile()
        assert set_aside(w) == ["credential.json.corrupt-20261120T120000Z"]
        assert (w.reason("Ready"), w.reason("LoginRequired")) == ("Available", "StateCorrupt")
        assert (w.published(), w.store.access(UID) is not None) == (before, True)
        status = w.cluster.object.status
        assert status["login"]["authorizationURL"]
        assert status["token"]["generation"] == 1
        assert not {"refreshTime", "nextRefreshTime"} & set(status["token"])
        while w.now < credential().expires:
            w.now = due
            due = await w.reconcile()
        assert (w.reason("Ready"), w.reason("LoginRequired")) == ("LoginRequired", "StateCorrupt")
        assert (w.published()["status"], w.store.access(UID)) == ("LoginRequired", None)
        assert w.endpoint.sent == []


async def test_an_access_token_that_proxies_were_refused_with_is_not_used_up(tmp_path: Path) -> None:
    async with world(tmp_path, credential=credential()) as w:
        await w.reconcile()
        damage(w, "credential.json")
        await w.reconcile()
        w.observed(reports=[report("Unauthorized", token_generation=1)])
        await w.reconcile()
        assert (w.published()["status"], w.store.access(UID)) == ("LoginRequired", None)


@pytest.mark.parametrize("garbage", ["{", '{"generation": 1, "access_token": "t", "expires": "tomorrow"}'])
async def test_an_access_file_that_is_damaged_as_well_is_of_no_use(tmp_path: Path, garbage: str) -> None:
    async with world(tmp_path, credential=credential()) as w:
        await w.reconcile()
        damage(w, "credential.json")
        (w.store.access_dir / f"{UID}.json").write_text(garbage)
        await w.reconcile()
        assert (w.reason("Ready"), w.store.access(UID)) == ("LoginRequired", None)


async def test_after_a_damaged_credential_the_next_login_counts_on(tmp_path: Path) -> None:
    async with world(tmp_path, credential=credential(generation=7), session=session()) as w:
        await w.reconcile()
        damage(w, "credential.json")
        await w.reconcile()
        w.observed(annotations={CODE_ANNOTATION: GOOD_CODE})
        await w.reconcile(answer())
        assert (w.credential.generation, w.reason("Ready")) == (8, "Available")
        assert w.reason("LoginRequired") == "NotRequired"
        assert "refreshTime" in w.cluster.object.status["token"]


async def test_a_workload_with_a_damaged_credential_exchanges_anew_and_works_meanwhile(tmp_path: Path) -> None:
    async with world(tmp_path, account(grant="WorkloadIdentity"), credential=credential()) as w:
        await w.reconcile()
        damage(w, "credential.json")
        w.now = await w.reconcile(NOT_REACHED)
        assert (w.published()["generation"], w.reason("Ready")) == (1, "Available")
        await w.reconcile(answer(refresh_token=None))
        assert (w.credential.generation, w.reason("Ready")) == (2, "Available")


@pytest.mark.parametrize("before", [credential(), DUE], ids=["good for hours", "due"])
async def test_a_damaged_journal_is_taken_for_a_refresh_of_unknown_outcome(tmp_path: Path, before: Credential) -> None:
    async with world(tmp_path, credential=before) as w:
        damage(w, "journal.json")
        await w.bury()
        assert (w.credential.dead, w.store.journal(UID)) == ("RefreshOutcomeUnknown", None)


async def test_a_credential_that_is_damaged_while_its_successor_is_on_its_way_is_succeeded(tmp_path: Path) -> None:
    async with world(tmp_path, credential=DUE) as w:

        async def meanwhile() -> None:
            damage(w, "credential.json")

        w.endpoint.meanwhile = meanwhile
        await w.reconcile(answer())
        assert (w.credential.generation, w.reason("Ready")) == (2, "Available")
        assert len(set_aside(w)) == 1


async def test_a_damaged_credential_does_not_keep_the_object(tmp_path: Path) -> None:
    async with world(tmp_path, deleted(), credential=credential()) as w:
        (w.store.state_dir / UID / "credential.json").write_text("{")
        await w.reconcile()
        assert w.cluster.object.finalizers == ["example.com/theirs"]


async def test_a_grant_that_is_dead_is_not_revoked(tmp_path: Path) -> None:
    async with world(tmp_path, deleted(), credential=credential(dead="GrantRevoked")) as w:
        await w.reconcile()
        assert (w.endpoint.sent, w.store.credential(UID)) == ([], None)


async def test_an_object_that_is_gone_already_is_removed_all_the_same(tmp_path: Path) -> None:
    async with world(tmp_path, deleted(), credential=credential()) as w:
        w.cluster.failures["finalizers"] = not_found()
        assert await w.reconcile(answer()) == NEVER


async def test_a_finalizer_that_could_not_be_removed_is_removed_next_time(tmp_path: Path) -> None:
    async with world(tmp_path, deleted(), credential=credential()) as w:
        w.cluster.failures["finalizers"] = NO_API_SERVER
        with pytest.raises(httpx2.ConnectError):
            await w.reconcile(answer())
        w.cluster.failures.clear()
        await w.reconcile()
        assert w.cluster.object.finalizers == ["example.com/theirs"]


# --- logging in ------------------------------------------------------------------------------------------------------


async def test_an_old_event_that_shows_a_used_code_again_starts_nothing(tmp_path: Path) -> None:
    async with world(tmp_path, account(annotations={CODE_ANNOTATION: GOOD_CODE}), session=session()) as w:
        await w.reconcile(answer())
        w.observed(annotations={CODE_ANNOTATION: GOOD_CODE})
        await w.reconcile()
        assert (w.session.is_over, w.session.problem) == (True, None)
        assert w.steps == ["annotation removed"]


async def test_an_old_event_that_shows_a_refused_code_again_does_not_change_what_the_person_reads(
    tmp_path: Path,
) -> None:
    async with world(tmp_path, account(annotations={CODE_ANNOTATION: GOOD_CODE}), session=session()) as w:
        await w.reconcile(DEAD)
        fresh = w.session
        assert fresh.state not in ("", "state-of-a-test")
        w.observed(annotations={CODE_ANNOTATION: GOOD_CODE})
        await w.reconcile()
        assert w.session == fresh


async def test_an_exchange_that_was_not_answered_is_repeated_with_the_same_code_when_its_time_has_come(
    tmp_path: Path,
) -> None:
    async with world(tmp_path, account(annotations={CODE_ANNOTATION: GOOD_CODE}), session=session()) as w:
        due = await w.reconcile(NOT_REACHED)
        assert w.reason("Reconciling") == "Exchanging"
        await w.reconcile()  # an event before its time asks nobody
        assert w.endpoint.sent == ["the-code verifier-of-a-test"]
        w.now = due
        await w.reconcile(answer())
        assert w.endpoint.sent == ["the-code verifier-of-a-test"] * 2
        assert w.reason("Ready") == "Available"


async def test_a_login_request_is_answered_once(tmp_path: Path) -> None:
    async with world(tmp_path, account(annotations={LOGIN_ANNOTATION: "1"}), credential=credential()) as w:
        await w.reconcile()
        opened = w.session
        await w.reconcile()
        assert w.session == opened
        assert w.cluster.object.status["lastHandledLoginRequest"] == "1"


async def test_a_login_request_that_status_says_was_answered_is_not_answered_again(tmp_path: Path) -> None:
    answered = account(annotations={LOGIN_ANNOTATION: "1"}, status={"lastHandledLoginRequest": "1"})
    async with world(tmp_path, answered, credential=credential()) as w:
        await w.reconcile()
        assert w.store.session(UID) is None


async def test_a_second_login_replaces_the_account_and_keeps_nothing_of_the_first(tmp_path: Path) -> None:
    pasted = account(annotations={CODE_ANNOTATION: GOOD_CODE})
    before = credential(generation=7, subject="alice", dead="GrantRevoked")
    async with world(tmp_path, pasted, session=session(), credential=None) as w:
        w.store.save_credential(UID, before, replaces=0)
        await w.reconcile(answer(subject=None))
        assert (w.credential.generation, w.credential.dead) == (8, None)
        assert (w.credential.subject, w.credential.previous_refresh_token) == (None, None)


@pytest.mark.parametrize(
    ("of", "reason"),
    [
        pytest.param(account(provider="nobody"), "UnknownProvider", id="unknown provider"),
        pytest.param(account(provider="broken"), "InvalidProfile", id="broken profile"),
        pytest.param(
            account(provider="for-people", grant="WorkloadIdentity"), "InvalidSpec", id="grant that is not offered"
        ),
        pytest.param(account(suspend=True), None, id="suspended"),
    ],
)
async def test_nobody_is_sent_to_log_in_when_that_would_not_help(
    tmp_path: Path, of: Account, reason: str | None
) -> None:
    async with world(tmp_path, of) as w:
        assert await w.reconcile() == NEVER
        assert w.store.session(UID) is None
        assert w.reason("Stalled") == reason


@pytest.mark.parametrize(
    ("provider", "sent"),
    [
        pytest.param("bare-codes", ["the-code verifier-of-a-test"], id="allowed"),
        pytest.param("anthropic", [], id="not allowed"),
    ],
)
async def test_a_code_without_its_state_is_exchanged_only_where_the_profile_allows_it(
    tmp_path: Path, provider: str, sent: list[str]
) -> None:
    pasted = account(provider=provider, annotations={CODE_ANNOTATION: "the-code"})
    async with world(tmp_path, pasted, session=session()) as w:
        await w.reconcile(answer())
        assert w.endpoint.sent == sent
        assert w.cluster.object.annotations == {}


@pytest.mark.parametrize(
    "subject",
    [pytest.param("Alice@Example.com", id="as expected"), pytest.param("alice@example.com", id="in other letters")],
)
async def test_the_expected_subject_is_taken(tmp_path: Path, subject: str) -> None:
    expecting = account(expected_subject="Alice@Example.com", annotations={CODE_ANNOTATION: GOOD_CODE})
    async with world(tmp_path, expecting, session=session()) as w:
        await w.reconcile(answer(subject=subject))
        assert (w.reason("Ready"), w.cluster.object.status["subject"]) == ("Available", subject)


@pytest.mark.parametrize(
    ("subject", "named"),
    [
        pytest.param("mallory@example.com", "mallory@example.com logged in", id="somebody else"),
        pytest.param(None, "somebody whom the provider did not name logged in", id="nobody knows who"),
    ],
)
@pytest.mark.parametrize("revocation", [answer(), NOT_REACHED, REFUSED], ids=["revoked", "away", "not revoked"])
async def test_another_subject_is_refused_and_given_back_and_the_next_login_is_open(
    tmp_path: Path, subject: str | None, named: str, revocation: TokenAnswer | Exception
) -> None:
    expecting = account(expected_subject="alice@example.com", annotations={CODE_ANNOTATION: GOOD_CODE})
    async with world(tmp_path, expecting, session=session()) as w:
        await w.reconcile(answer(subject=subject), revocation)
        assert w.endpoint.sent[1:] == ["refresh-token-2-of-a-test"]
        assert w.store.credential(UID) is None
        assert w.reason("LoginRequired") == "SubjectMismatch"
        message = next(e["message"] for e in w.cluster.object.status["conditions"] if e["type"] == "LoginRequired")
        assert named in message and "alice@example.com" in message
        assert w.session.state not in ("", "state-of-a-test")


async def test_a_live_account_keeps_what_it_has_when_another_subject_logs_in(tmp_path: Path) -> None:
    expecting = account(expected_subject="alice", annotations={CODE_ANNOTATION: GOOD_CODE})
    before = credential(subject="alice")
    async with world(tmp_path, expecting, credential=before, session=session()) as w:
        await w.reconcile(answer(subject="mallory"), answer())
        assert w.credential == before
        assert (w.reason("Ready"), w.reason("LoginRequired")) == ("Available", "SubjectMismatch")
        assert "SubjectMismatch" in w.cluster.events


async def test_a_broken_profile_leaves_an_account_the_token_it_has(tmp_path: Path) -> None:
    async with world(tmp_path, account(provider="broken"), credential=DUE) as w:
        await w.reconcile()
        assert (w.reason("Ready"), w.reason("Stalled")) == ("Available", "InvalidProfile")
        stalled = next(e["message"] for e in w.cluster.object.status["conditions"] if e["type"] == "Stalled")
        assert stalled.endswith("client_id: must not be empty")


async def test_a_suspended_account_keeps_the_code_for_later(tmp_path: Path) -> None:
    suspended = account(suspend=True, annotations={CODE_ANNOTATION: GOOD_CODE})
    async with world(tmp_path, suspended, session=session()) as w:
        await w.reconcile()
        assert (w.endpoint.sent, w.session.code) == ([], "the-code")
        assert CODE_ANNOTATION not in w.cluster.object.annotations


async def test_an_open_login_at_a_provider_that_is_no_longer_configured_shows_no_url(tmp_path: Path) -> None:
    async with world(tmp_path, account(provider="nobody"), session=session()) as w:
        await w.reconcile()
        assert "login" not in w.cluster.object.status


# --- refreshing ------------------------------------------------------------------------------------------------------


async def test_the_new_credential_is_what_was_answered(tmp_path: Path) -> None:
    async with world(tmp_path, credential=msgspec.structs.replace(DUE, subject="alice")) as w:

        async def takes_a_while() -> None:
            w.now += MINUTE

        w.endpoint.meanwhile = takes_a_while
        await w.reconcile(answer())
        assert w.credential == Credential(
            generation=2,
            access_token="access-token-2-of-a-test",
            expires=NOW + 8 * HOUR,  # counted from the request, not from the answer
            obtained=NOW,
            refresh_token="refresh-token-2-of-a-test",
            previous_refresh_token="refresh-token-of-a-test",
            subject="alice",
        )


async def test_a_volume_that_fails_after_the_request_does_not_lose_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rotation, "SAVE_RETRY_SECONDS", 0)
    async with world(tmp_path, credential=DUE) as w:
        w.store.failures = 3
        await w.reconcile(answer())
        assert w.credential.refresh_token == "refresh-token-2-of-a-test"


async def test_an_account_that_cannot_be_used_says_that_it_is_being_refreshed(tmp_path: Path) -> None:
    async with world(tmp_path, credential=EXPIRED) as w:
        gate = asyncio.Event()

        async def hold() -> None:
            await gate.wait()

        w.endpoint.meanwhile = hold
        await w.look()  # the request is beside it, and may be sent before the status is written
        said = w.reason("Ready")
        gate.set()
        await w.reconcile(answer())
        assert (said, w.reason("Ready")) == ("Refreshing", "Available")


async def test_a_refresh_does_not_depend_on_saying_so(tmp_path: Path) -> None:
    async with world(tmp_path, credential=EXPIRED) as w:
        w.cluster.failures["status"] = NO_API_SERVER
        with pytest.raises(ClusterUnavailable):
            await w.reconcile(answer())
        assert w.credential.generation == 2


async def test_a_token_endpoint_that_fails_is_asked_later_each_time_and_never_sooner(tmp_path: Path) -> None:
    async with world(tmp_path, credential=EXPIRED) as w:
        waits = []
        for _ in range(11):
            due = await w.reconcile(LOST)
            waits.append((due - w.now) / SECOND)
            w.now = due - SECOND / 2
            await w.reconcile()  # an event in between asks nobody
            w.now = due
        assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]


async def test_a_server_that_says_when_is_believed(tmp_path: Path) -> None:
    async with world(tmp_path, credential=EXPIRED) as w:
        busy = TokenEndpointUnavailable("answered 429", may_be_done=False, retry_after=90 * SECOND)
        assert await w.reconcile(busy) == NOW + 90 * SECOND


async def test_what_a_provider_told_another_account_counts_for_this_one_too(tmp_path: Path) -> None:
    async with world(tmp_path, credential=DUE) as w:
        w.throttle.hold("anthropic", NOW + 90 * SECOND)
        w.now = await w.reconcile()
        assert (w.endpoint.sent, w.store.journal(UID)) == ([], None)
        assert 90 * SECOND <= w.now - NOW <= 100 * SECOND
        assert (w.reason("Reconciling"), w.reason("Ready")) == ("Refreshing", "Available")
        await w.reconcile(answer())
        assert w.credential.generation == 2


async def test_what_a_provider_tells_this_account_counts_for_all(tmp_path: Path) -> None:
    async with world(tmp_path, credential=DUE) as w:
        await w.reconcile(TokenEndpointUnavailable("answered 429", may_be_done=False, is_throttled=True))
        with pytest.raises(ProviderHeld):
            async with w.throttle.turn("anthropic", "another"):
                raise AssertionError
        async with w.throttle.turn("for-people", "another"):
            pass


async def test_an_account_that_is_suspended_while_it_waits_for_its_turn_is_not_refreshed(tmp_path: Path) -> None:
    async with world(tmp_path, credential=DUE) as w, AsyncExitStack() as others:
        for _ in range(4):
            await others.enter_async_context(w.throttle.turn("anthropic", "another"))
        await w.look()
        await until(lambda: w.throttle.waiting == 1)
        w.observed_meanwhile(spec=msgspec.structs.replace(w.cluster.object.spec, suspend=True))
        await w.look()
        await others.aclose()
        await w.reconcile()
        assert (w.endpoint.sent, w.published()["status"]) == ([], "Suspended")


async def test_an_operator_that_ends_while_an_account_waits_for_its_turn_spends_nothing(tmp_path: Path) -> None:
    async with world(tmp_path, credential=DUE) as w:
        w.throttle.close()
        await w.reconcile()
        assert (w.endpoint.sent, w.reason("Ready"), w.reason("Stalled")) == ([], "Available", None)


async def test_an_account_that_is_resumed_with_a_token_that_has_expired_gets_no_traffic_before_it_is_refreshed(
    tmp_path: Path,
) -> None:
    async with world(tmp_path, account(suspend=True), credential=EXPIRED) as w:
        await w.reconcile()
        assert (w.endpoint.sent, w.published()["status"]) == ([], "Suspended")
        w.observed(spec=msgspec.structs.replace(w.cluster.object.spec, suspend=False))

        async def nobody_uses_it() -> None:
            assert w.published()["status"] != "Available"

        w.endpoint.meanwhile = nobody_uses_it
        await w.reconcile(answer())
        assert (w.published()["status"], w.credential.generation) == ("Available", 2)


async def test_after_a_success_the_next_failure_is_the_first_again(tmp_path: Path) -> None:
    async with world(tmp_path, credential=EXPIRED) as w:
        for failure in (LOST, LOST, LOST):
            w.now = await w.reconcile(failure)
        await w.reconcile(answer(lifetime=HOUR))
        w.now += 2 * HOUR
        assert await w.reconcile(LOST) == w.now + SECOND


async def test_requests_are_counted_by_what_became_of_them(tmp_path: Path) -> None:
    async with world(tmp_path, account(name="counted"), credential=EXPIRED) as w:
        for given in (LOST, LOST, answer()):
            w.now = await w.reconcile(given)
        counts = {
            result: metrics.TOKEN_REFRESHES.labels("counted", result)._value.get() for result in ("failure", "success")
        }
        assert counts == {"failure": 2, "success": 1}


async def test_the_end_of_an_access_token_is_a_metric_for_as_long_as_it_is_kept_fresh(tmp_path: Path) -> None:
    def ends_at() -> float | None:
        return REGISTRY.get_sample_value("pool_token_expiry_timestamp_seconds", {"account_id": "watched"})

    end = (NOW + 7 * HOUR).timestamp()
    async with world(tmp_path, account(name="watched"), credential=credential(expires_in=7 * HOUR)) as w:
        await w.reconcile()
        assert ends_at() == end
        for is_suspended, expected in ((True, None), (False, end)):
            w.observed(spec=msgspec.structs.replace(w.cluster.object.spec, suspend=is_suspended))
            await w.reconcile()
            assert ends_at() == expected
        w.now = NOW + 7 * HOUR
        await w.bury()
        assert (w.reason("Ready"), ends_at()) == ("Disabled", None)


async def test_a_changed_spec_is_tried_at_once(tmp_path: Path) -> None:
    async with world(tmp_path, account(grant="WorkloadIdentity")) as w:
        await w.reconcile(REFUSED)
        assert w.reason("Stalled") == "ExchangeRejected"
        w.observed(generation=2)
        await w.reconcile(answer(refresh_token=None))
        assert w.reason("Ready") == "Available"


async def test_a_token_that_is_refused_again_right_after_its_refresh_waits(tmp_path: Path) -> None:
    refused = account(reports=(report("Unauthorized"),))
    async with world(tmp_path, refused, credential=credential()) as w:
        await w.reconcile(answer())
        w.observed(reports=[report("Unauthorized", token_generation=2)])
        w.now += MINUTE
        assert await w.reconcile() == NOW + 5 * MINUTE
        assert w.credential.generation == 2


@pytest.mark.parametrize(
    ("before", "reason"),
    [
        pytest.param([], "GrantRevoked", id="the first request is refused"),
        pytest.param([NOT_REACHED], "GrantRevoked", id="nothing was sent the first time"),
        pytest.param([REFUSED], "GrantRevoked", id="refused for another reason the first time"),
        pytest.param([LOST], "RefreshOutcomeUnknown", id="the answer was lost"),
        pytest.param([LOST, NOT_REACHED], "RefreshOutcomeUnknown", id="the answer was lost, and then nothing was sent"),
        pytest.param([LOST, REFUSED], "RefreshOutcomeUnknown", id="the answer was lost, and then it was refused"),
    ],
)
async def test_why_a_grant_is_dead(tmp_path: Path, before: list[Exception], reason: str) -> None:
    async with world(tmp_path, credential=EXPIRED) as w:
        for failure in before:
            w.now = await w.reconcile(failure)
        await w.bury()
        assert w.credential.dead == reason
        assert w.reason("LoginRequired") == reason
        assert w.store.access(UID) is None
        assert w.published()["status"] == "Disabled"


async def test_a_journal_of_another_token_says_nothing_of_this_one(tmp_path: Path) -> None:
    async with world(tmp_path, credential=DUE) as w:
        w.store.begin_exchange(UID, Journal(NOW, 1, fingerprint("another")))
        await w.bury()
        assert w.credential.dead == "GrantRevoked"


async def test_a_refresh_that_a_kill_cut_short_is_ended_at_once_however_long_its_token_lives(tmp_path: Path) -> None:
    async with world(tmp_path, credential=credential()) as w:
        w.store.begin_exchange(UID, Journal.of(credential(), NOW))
        await w.reconcile(answer())
        assert (w.endpoint.sent, w.credential.generation) == (["refresh-token-of-a-test"], 2)
        await w.reconcile()
        assert w.steps == []  # and that was all


async def test_while_its_outcome_is_unknown_a_refresh_is_tried_again_and_again_and_the_token_used(
    tmp_path: Path,
) -> None:
    async with world(tmp_path, credential=credential()) as w:
        w.store.begin_exchange(UID, Journal.of(credential(), NOW))
        waits = []
        for failure in (NOT_REACHED, LOST, NOT_REACHED):
            due = await w.reconcile(failure)
            waits.append((due - w.now) / SECOND)
            w.now = due
            assert w.reason("Ready") == "Available"
        assert waits == [1, 2, 4]
        await w.reconcile(answer())
        assert w.credential.generation == 2


@pytest.mark.parametrize(
    ("of", "journal"),
    [
        pytest.param(account(suspend=True), Journal.of(credential(), NOW), id="suspended"),
        pytest.param(account(), Journal.of(credential(refresh_token="another"), NOW), id="the refresh was stored"),
    ],
)
async def test_no_refresh_is_ended_that_must_not_or_need_not_be(tmp_path: Path, of: Account, journal: Journal) -> None:
    async with world(tmp_path, of, credential=credential()) as w:
        w.store.begin_exchange(UID, journal)
        await w.reconcile()
        assert (w.endpoint.sent, w.credential) == ([], credential())


async def test_a_grant_is_not_dead_when_somebody_stored_a_newer_one_meanwhile(tmp_path: Path) -> None:
    imported = credential(generation=2, refresh_token="imported", access_token="imported")
    async with world(tmp_path, credential=DUE) as w:

        async def somebody_imports() -> None:
            w.store.save_credential(UID, imported, replaces=1)

        w.endpoint.meanwhile = somebody_imports
        await w.reconcile(DEAD)
        assert w.credential == imported
        assert w.store.journal(UID) is None
        assert w.published()["fingerprint"] == fingerprint("imported")


async def test_an_answer_is_not_written_over_what_somebody_stored_meanwhile(tmp_path: Path) -> None:
    imported = credential(generation=2, refresh_token="imported", access_token="imported")
    async with world(tmp_path, credential=DUE) as w:

        async def somebody_imports() -> None:
            w.store.save_credential(UID, imported, replaces=1)

        w.endpoint.meanwhile = somebody_imports
        w.now = await w.reconcile(answer())
        assert w.credential == imported
        await w.reconcile()
        assert w.published()["fingerprint"] == fingerprint("imported")


# --- publishing ------------------------------------------------------------------------------------------------------


async def test_a_lost_access_file_is_written_again(tmp_path: Path) -> None:
    async with world(tmp_path, credential=credential()) as w:
        await w.reconcile()
        w.store.remove_access(UID)
        await w.reconcile()
        assert w.steps == ["access file"]


def fill(shards: Shards) -> str:
    """Until there is no room for anybody; returns somebody who is in."""
    for size in (1000, 0):
        with pytest.raises(NoRoom):
            for number in range(10**6):
                shards.put(f"{size}-{number}", "x" * size)
    return "1000-0"


async def test_an_account_that_the_index_has_no_room_for_says_so_stays_alive_and_gets_in_when_there_is(
    tmp_path: Path,
) -> None:
    async with world(tmp_path, credential=DUE) as w:
        other = fill(w.shards)
        w.now = await w.reconcile(answer())
        assert w.now == NOW + MINUTE
        assert (w.reason("Ready"), w.reason("Stalled"), w.credential.generation) == ("IndexFull", "IndexFull", 2)
        assert w.cluster.events == ["IndexFull"]
        w.now = await w.reconcile()
        assert w.steps == []  # a thousand such accounts cost nothing
        w.shards[0].want(other, None)
        w.shards.forget(other)
        await w.reconcile()
        assert (w.reason("Ready"), w.reason("Stalled"), w.published()["generation"]) == ("Available", None, 2)


@pytest.mark.parametrize(
    ("of", "credential_", "reason"),
    [
        pytest.param(account(suspend=True), credential(), "Suspended", id="suspended"),
        pytest.param(account(), None, "LoginRequired", id="not logged in yet"),
        pytest.param(account(reports=(report(until=HOUR),)), credential(), "IndexFull", id="cooling down"),
    ],
)
async def test_what_matters_more_than_a_full_index(
    tmp_path: Path, of: Account, credential_: Credential | None, reason: str
) -> None:
    async with world(tmp_path, of, credential=credential_) as w:
        fill(w.shards)
        await w.reconcile()
        assert (w.reason("Ready"), w.reason("Stalled")) == (reason, "IndexFull")


async def test_the_index_sends_nobody_to_an_access_file_that_could_not_be_written(tmp_path: Path) -> None:
    async with world(tmp_path, credential=credential()) as w:
        await w.reconcile()

        async def volume_goes() -> None:
            w.store.access_dir.rename(tmp_path / "elsewhere")

        w.endpoint.meanwhile = volume_goes
        w.now += 6 * HOUR
        await w.reconcile(answer())
        assert w.published()["generation"] == 1
        assert (w.credential.generation, w.reason("Stalled")) == (2, "StorageUnavailable")


async def test_after_a_kill_between_two_files_the_index_names_no_token_before_its_own_file_is_there(
    tmp_path: Path,
) -> None:
    async with world(tmp_path, credential=credential(generation=5)) as w:
        await w.reconcile()
        killed = credential(generation=6, access_token="sixth", expires_in=-MINUTE)
        w.store.save_credential(UID, killed, replaces=5)
        seen: list[AccessFile | None] = []

        async def something_is_told() -> None:
            w.observed_meanwhile(reports=[report("RateLimited", until=HOUR)])
            await w.look()
            assert w.published()["generation"] == 6
            seen.append(w.store.access(UID))

        w.endpoint.meanwhile = something_is_told
        await w.reconcile(answer())
        assert [access.generation for access in seen if access is not None] == [6]


async def test_an_access_volume_that_fails_delays_no_refresh_and_the_index_names_what_proxies_have(
    tmp_path: Path,
) -> None:
    async with world(tmp_path, credential=DUE) as w:
        obstacle = w.store.access_dir / f"{UID}.json"
        obstacle.mkdir()
        w.now = await w.reconcile(answer())
        assert (w.credential.generation, w.reason("Stalled"), w.cluster.index) == (2, "StorageUnavailable", {})
        assert w.reason("AccessFailing") == "StorageUnavailable"
        obstacle.rmdir()
        await w.reconcile()
        assert (w.published()["generation"], w.reason("Stalled"), w.reason("AccessFailing")) == (2, None, None)


async def test_no_token_is_spent_while_the_state_volume_takes_no_answer(tmp_path: Path) -> None:
    async with world(tmp_path, account(reports=(report("Unauthorized"),)), credential=credential()) as w:
        obstacle = w.store.state_dir / UID / "credential.json.new"
        obstacle.mkdir()
        w.now = await w.reconcile()
        assert (w.endpoint.sent, w.store.journal(UID)) == ([], None)
        assert (w.reason("Stalled"), w.reason("Ready")) == ("StorageUnavailable", "Available")
        assert w.reason("StorageFailing") == "StorageUnavailable"
        obstacle.rmdir()
        await w.reconcile(answer())
        assert (w.credential.generation, w.reason("Stalled")) == (2, None)


def make_unreadable(w: World) -> None:
    """As a volume that is gone: this refuses root, too."""
    path = w.store.state_dir / UID / "credential.json"
    path.unlink()
    path.mkdir()


TOKEN_MEMBERS = ("generation", "fingerprint", "expires")


async def test_a_state_volume_that_cannot_be_read_leaves_proxies_the_token_they_have(tmp_path: Path) -> None:
    async with world(tmp_path, credential=credential()) as w:
        await w.reconcile()
        before = w.published()
        make_unreadable(w)
        await w.reconcile()
        assert (w.reason("Ready"), w.published()["status"]) == ("StorageUnavailable", "StorageUnavailable")
        assert [w.published()[name] for name in TOKEN_MEMBERS] == [before[name] for name in TOKEN_MEMBERS]
        assert w.store.access(UID) is not None


@pytest.mark.parametrize("damaged", ["state", "access"])
async def test_suspending_works_while_a_volume_does_not(tmp_path: Path, damaged: str) -> None:
    async with world(tmp_path, credential=credential()) as w:
        await w.reconcile()
        if damaged == "state":
            make_unreadable(w)
        else:
            w.store.access_dir.rename(tmp_path / "elsewhere")
        w.observed(spec=msgspec.structs.replace(w.cluster.object.spec, suspend=True))
        await w.reconcile()
        assert w.published()["status"] == "Suspended"


async def test_looks_between_two_tries_do_not_put_the_next_try_off(tmp_path: Path) -> None:
    async with world(tmp_path, credential=credential()) as w:
        w.store.access_dir.rename(tmp_path / "elsewhere")
        for _ in range(10):  # each status patch is an event that makes the operator look again
            due = await w.reconcile()
        assert due == NOW + SECOND
        (tmp_path / "elsewhere").rename(w.store.access_dir)
        w.now = due
        await w.reconcile()
        assert w.reason("Stalled") is None


async def test_a_code_is_not_sent_twice_when_the_session_could_not_be_ended(tmp_path: Path) -> None:
    pasted = account(annotations={CODE_ANNOTATION: GOOD_CODE})
    async with world(tmp_path, pasted, session=session()) as w:
        obstacle = w.store.state_dir / UID / "login.json.new"

        async def block() -> None:
            obstacle.mkdir()

        w.endpoint.meanwhile = block
        await w.reconcile(answer())
        assert (w.credential.generation, w.session.code) == (1, "the-code")
        obstacle.rmdir()
        w.endpoint.meanwhile = None
        w.now += SECOND
        await w.reconcile()  # with nothing to answer, another exchange would fail here
        assert (w.session.is_over, w.reason("Ready")) == (True, "Available")


async def test_a_damaged_login_does_not_cost_the_account(tmp_path: Path) -> None:
    async with world(tmp_path, credential=DUE, session=session()) as w:
        damage(w, "login.json")
        await w.reconcile(answer())
        assert (w.reason("Ready"), w.credential.generation) == ("Available", 2)
        assert set_aside(w) == ["login.json.corrupt-20261120T120000Z"]


async def test_an_account_that_was_created_suspended_and_given_a_code_gets_its_first_login(tmp_path: Path) -> None:
    early = account(suspend=True, annotations={CODE_ANNOTATION: GOOD_CODE})
    async with world(tmp_path, early) as w:
        await w.reconcile()
        w.observed(spec=msgspec.structs.replace(w.cluster.object.spec, suspend=False))
        await w.reconcile()
        assert w.reason("LoginRequired") == "AwaitingAuthorizationCode"


async def test_an_exchange_that_fails_is_tried_again_in_time_before_the_token_expires(tmp_path: Path) -> None:
    token = credential(expires_in=2 * MINUTE, lifetime=HOUR, refresh_token=None)
    async with world(tmp_path, account(grant="WorkloadIdentity"), credential=token) as w:
        tries = []
        while w.now < token.expires:
            tries.append((w.now - NOW) / SECOND)
            w.now = await w.reconcile(NOT_REACHED)
            assert w.published()["status"] == "Available"
        assert tries == [0, 1, 3, 7, 15, 31, 63, 90]


async def test_another_workload_gets_a_token_of_its_own_at_once(tmp_path: Path) -> None:
    async with world(tmp_path, account(grant="WorkloadIdentity")) as w:
        await w.reconcile(answer(refresh_token=None))
        assert w.credential.workload is not None
        await w.reconcile()
        workload = WorkloadIdentity("batch", "fdrl_1", "00000000-0000-0000-0000-000000000000")
        w.observed(generation=2, spec=msgspec.structs.replace(w.cluster.object.spec, workload_identity=workload))
        await w.reconcile(answer(3, refresh_token=None))
        assert w.endpoint.sent[1:] == ["token of batch for https://provider.example"]
        await w.reconcile()
        assert w.credential.generation == 2


async def test_a_code_is_taken_off_an_account_that_needs_none(tmp_path: Path) -> None:
    pasted = account(grant="WorkloadIdentity", annotations={CODE_ANNOTATION: GOOD_CODE})
    async with world(tmp_path, pasted, credential=credential()) as w:
        await w.reconcile()
        assert w.cluster.object.annotations == {}


async def test_an_api_server_that_gives_no_service_account_token_for_now_is_a_condition(tmp_path: Path) -> None:
    async with world(tmp_path, account(grant="WorkloadIdentity"), credential=EXPIRED) as w:
        w.cluster.failures["service account token"] = NO_API_SERVER
        due = await w.reconcile()
        assert (w.reason("Reconciling"), w.published()["status"]) == ("Exchanging", "Refreshing")
        assert due == NOW + SECOND


async def test_an_answer_that_waits_for_the_disk_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rotation, "SAVE_RETRY_SECONDS", 0)
    async with world(tmp_path, credential=DUE) as w:
        w.store.failures = 10**6
        w.endpoint.answers = [answer()]
        await w.look()
        await until(lambda: w.reconciler.rotations.trouble(UID) is not None)
        await w.look()
        assert w.reason("Stalled") == "StorageUnavailable"
        w.store.failures = 0
        await w.reconcile()
        assert (w.reason("Stalled"), w.credential.generation) == (None, 2)


async def test_a_code_is_not_judged_by_a_state_volume_that_cannot_be_read(tmp_path: Path) -> None:
    pasted = account(annotations={CODE_ANNOTATION: GOOD_CODE})
    async with world(tmp_path, pasted, credential=credential(dead="GrantRevoked"), session=session()) as w:
        make_unreadable(w)
        await w.reconcile()
        assert w.session == session()
        assert w.cluster.object.annotations == {}  # public no longer; it can be given again


async def test_a_code_that_cannot_be_kept_leaves_the_object_all_the_same(tmp_path: Path) -> None:
    async with world(tmp_path, account(annotations={CODE_ANNOTATION: GOOD_CODE}), session=session()) as w:
        obstacle = w.store.state_dir / UID / "login.json.new"
        obstacle.mkdir()
        await w.reconcile()
        assert (w.reason("Stalled"), w.endpoint.sent) == ("StorageUnavailable", [])
        assert w.cluster.object.annotations == {}
        obstacle.rmdir()
        w.now += SECOND
        w.observed(annotations={CODE_ANNOTATION: GOOD_CODE})
        await w.reconcile(answer())
        assert w.reason("Ready") == "Available"


async def test_with_the_api_server_away_tokens_are_refreshed_and_the_next_refresh_is_known(tmp_path: Path) -> None:
    async with world(tmp_path, credential=DUE) as w:
        w.cluster.failures["index"] = NO_API_SERVER
        with pytest.raises(ClusterUnavailable) as caught:
            await w.reconcile(answer())
        assert w.credential.generation == 2
        assert NOW + 6 * HOUR < caught.value.next_check < NOW + 7 * HOUR


async def test_what_proxies_wrote_is_never_part_of_a_patch(tmp_path: Path) -> None:
    reported = account(status={"reports": [{"reporter": "proxy-a"}]})
    async with world(tmp_path, reported, credential=credential()) as w:
        await w.reconcile()
        assert all("reports" not in patch for patch in w.cluster.patches)
        assert w.cluster.object.status["reports"] == [{"reporter": "proxy-a"}]


async def test_a_patch_of_status_holds_only_what_differs(tmp_path: Path) -> None:
    async with world(tmp_path, credential=credential()) as w:
        await w.reconcile()
        w.observed(reports=[report("RateLimited", until=HOUR)])
        w.cluster.patches.clear()
        await w.reconcile()
        (patch,) = w.cluster.patches
        assert patch.keys() == {"conditions", "cooldown", "columns"}


async def test_what_somebody_else_wrote_into_our_status_meanwhile_is_put_right_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event of our own patch, which has their words in it, starts no other look."""
    async with world(tmp_path, credential=credential()) as w:
        patch_status = w.cluster.patch_status

        async def after_somebody_else(account: Account, changes: dict[str, Any]) -> Account:
            if not w.cluster.patches:
                w.observed(status={**w.cluster.object.status, "subject": "mallory"})
            return await patch_status(account, changes)

        await w.reconcile()
        subject = w.cluster.object.status.get("subject")
        w.observed(reports=[report("RateLimited", until=HOUR)])
        w.cluster.patches.clear()
        monkeypatch.setattr(w.cluster, "patch_status", after_somebody_else)
        await w.reconcile()
        assert len(w.cluster.patches) == 2
        assert w.cluster.object.status.get("subject") == subject != "mallory"


async def test_an_event_that_is_not_taken_costs_nothing_else(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        w.cluster.failures["event"] = NO_API_SERVER
        await w.reconcile()
        assert w.reason("LoginRequired") == "AwaitingAuthorizationCode"


async def test_a_transition_is_one_event_however_often_it_is_looked_at(tmp_path: Path) -> None:
    async with world(tmp_path, account(reports=(report(until=HOUR),)), credential=credential()) as w:
        for _ in range(3):
            await w.reconcile()
            w.now += MINUTE
        assert w.cluster.events == ["CoolingDown"]


# --- cooldowns -------------------------------------------------------------------------------------------------------


def published_share(w: World) -> tuple[str, int, int, str | None]:
    entry = w.published()
    return entry["status"], entry["weight"], entry["maxConcurrentRequests"], entry["cooldownUntil"]


async def test_a_probe_during_a_cooldown_is_between_the_operator_and_the_proxies(tmp_path: Path) -> None:
    exhausted = account(weight=5, reports=(report(until=48 * HOUR),))
    async with world(tmp_path, exhausted, credential=credential(expires_in=72 * HOUR, lifetime=72 * HOUR)) as w:
        w.now = await w.reconcile()
        assert published_share(w) == ("CoolingDown", 5, 0, "2026-11-22T12:00:00Z")
        assert 6 * HOUR <= w.now - NOW < 12 * HOUR
        w.now = await w.reconcile()
        assert published_share(w) == ("Available", 1, 1, None)
        assert w.reason("Ready") == "CoolingDown"
        await w.reconcile()
        assert published_share(w) == ("CoolingDown", 5, 0, "2026-11-22T12:00:00Z")
        assert w.cluster.events == ["CoolingDown"]


async def test_after_a_long_cooldown_an_account_gets_its_full_share_only_after_a_probe(tmp_path: Path) -> None:
    exhausted = account(weight=5, max_concurrent_requests=7, reports=(report(until=5 * HOUR),))
    async with world(tmp_path, exhausted, credential=credential()) as w:
        await w.reconcile()
        w.now += 5 * HOUR
        w.now = await w.reconcile()
        assert published_share(w) == ("Available", 1, 1, None)
        assert w.cluster.events == ["CoolingDown", "Recovered"]
        await w.reconcile()
        assert published_share(w) == ("Available", 5, 7, None)


async def test_a_suspended_account_is_not_probed(tmp_path: Path) -> None:
    exhausted = account(suspend=True, reports=(report(until_time=NOW, observed_time=NOW - 5 * HOUR),))
    async with world(tmp_path, exhausted, credential=credential()) as w:
        await w.reconcile()
        assert w.published()["status"] == "Suspended"


async def test_a_cooldown_is_ended_by_hand_once_for_every_new_value(tmp_path: Path) -> None:
    exhausted = account(annotations={CLEAR_ANNOTATION: "one"}, reports=(report(until=48 * HOUR),))
    async with world(tmp_path, exhausted, credential=credential()) as w:
        await w.reconcile()
        assert (w.reason("Ready"), w.cluster.object.status["lastHandledClearRequest"]) == ("Available", "one")
        assert published_share(w) == ("Available", 1, 0, None)
        w.observed(reports=[report(until=HOUR)])
        await w.reconcile()
        assert w.reason("Ready") == "CoolingDown"
        w.observed(annotations={CLEAR_ANNOTATION: "two"})
        await w.reconcile()
        assert (w.reason("Ready"), w.cluster.object.status["lastHandledClearRequest"]) == ("Available", "two")


async def test_an_api_server_that_is_away_does_not_make_a_refresh_wait_for_a_cooldown_to_be_cleared(
    tmp_path: Path,
) -> None:
    exhausted = account(annotations={CLEAR_ANNOTATION: "one"}, reports=(report(until=HOUR),))
    async with world(tmp_path, exhausted, credential=DUE) as w:
        w.cluster.failures["reports removed"] = NO_API_SERVER
        with pytest.raises(ClusterUnavailable):
            await w.reconcile(answer())
        assert w.credential.generation == 2
        w.cluster.failures.clear()
        await w.reconcile()
        assert w.cluster.object.status["lastHandledClearRequest"] == "one"


async def test_reports_that_say_nothing_any_more_are_removed_and_others_stay(tmp_path: Path) -> None:
    gone = report(reporter="gone", observed_time=NOW - 3 * HOUR, until_time=NOW - 2 * HOUR)
    async with world(tmp_path, account(reports=(gone, report(until=HOUR))), credential=credential()) as w:
        await w.reconcile()
        assert [one.reporter for one in w.cluster.object.reports] == ["proxy-a"]
        await w.reconcile()
        assert w.steps == []


async def test_a_report_is_removed_when_its_time_has_come(tmp_path: Path) -> None:
    async with world(tmp_path, account(reports=(report(until=MINUTE),)), credential=credential()) as w:
        while w.cluster.object.reports:
            w.now = await w.reconcile()
        assert w.now >= NOW + HOUR
