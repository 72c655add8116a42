"""What the controller makes of events: the newest version of every account counts, whatever order they come in."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest
from lightkube.core.exceptions import ApiError
from prometheus_client import CollectorRegistry

from oauth_pool_operator.account.documents import Retained
from oauth_pool_operator.account.facts import NEVER
from oauth_pool_operator.account.memory import Memory
from oauth_pool_operator.account.spec import FINALIZER, Account, parse_account
from oauth_pool_operator.cluster.api import Cluster
from oauth_pool_operator.cluster.index import IndexPublisher
from oauth_pool_operator.cluster.leadership import Leadership
from oauth_pool_operator.controller import Controller
from oauth_pool_operator.metrics import Counts, PoolCollector
from oauth_pool_operator.oauth.throttle import Throttle
from oauth_pool_operator.reconcile import Reconciler
from oauth_pool_operator.rotation import Tools
from oauth_pool_operator.rotations import Rotations
from oauth_pool_operator.storage.store import Store
from tests.support.builders import NOW, UID, credential


def body(version: str = "1", *, uid: str = UID, **metadata: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "name": "claude-1",
            "namespace": "pool",
            "uid": uid,
            "resourceVersion": version,
            "finalizers": [FINALIZER],
            **metadata,
        },
        "spec": {"provider": "anthropic", "grant": "AuthorizationCode"},
    }


def changed(version: str, **metadata: Any) -> dict[str, Any]:
    """Somebody has changed the spec in this version."""
    return body(version, generation=int(version), **metadata)


def with_status(document: dict[str, Any], **status: Any) -> dict[str, Any]:
    return {**document, "status": status}


class Seen(Reconciler):
    """Notes what it is given; `answers` are what it returns or raises, else the account as it came. `meanwhile` happens while
    it is at work."""

    def __init__(self) -> None:
        throttle = Throttle(1, clock=lambda: NOW)
        self.rotations = Rotations(Tools(Store(Path("/nowhere"), Path("/nowhere")), {}, {}, throttle, lambda: NOW))
        self.accounts: list[Account] = []
        self.memories: list[Memory] = []
        self.answers: list[Account | Exception] = []
        self.meanwhile: Callable[[], None] = lambda: None
        self.hangs = False

    async def reconcile(self, account: Account, memory: Memory) -> tuple[Account, datetime]:
        self.accounts.append(account)
        self.memories.append(memory)
        if self.hangs:
            await asyncio.Event().wait()
        self.meanwhile()
        answer = self.answers.pop(0) if self.answers else account
        if isinstance(answer, Exception):
            raise answer
        return answer, NEVER

    @property
    def versions(self) -> list[str]:
        return [account.resource_version for account in self.accounts]


class Leads(Leadership):
    """There is only one operator here."""

    def __init__(self) -> None:
        self.is_leader = True

    @property
    def leads(self) -> bool:
        return self.is_leader


class NoCluster(Cluster):
    """Nothing here asks the API server."""

    def __init__(self) -> None:
        pass


@asynccontextmanager
async def running(leadership: Leadership | None = None) -> AsyncIterator[tuple[Controller, Seen]]:
    leadership = leadership or Leads()
    seen, cluster = Seen(), NoCluster()
    index = IndexPublisher(cluster)
    store = Store(Path("/nowhere"), Path("/nowhere"))
    controller = Controller(seen, cluster=cluster, index=index, store=store, leadership=leadership, clock=lambda: NOW)
    task = asyncio.create_task(controller.scheduler.run())
    try:
        yield controller, seen
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def status_words(controller: Controller) -> list[str]:
    return [account.status_word for account in controller.account_conditions()]


async def turns() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def observe(controller: Controller, kind: str | None, *bodies: dict[str, Any]) -> None:
    for one in bodies:
        controller.observe(kind, one)
        await turns()


def watched(controller: Controller, *bodies: dict[str, Any]) -> Callable[[], None]:
    """What tells it of them, all at once."""

    def tell() -> None:
        for one in bodies:
            controller.observe("MODIFIED", one)

    return tell


async def test_an_older_version_that_comes_late_is_not_looked_at() -> None:
    async with running() as (controller, seen):
        await observe(controller, "MODIFIED", changed("9"), changed("8"), changed("10"))
        assert seen.versions == ["9", "10"]


async def test_what_we_wrote_ourselves_is_known_before_its_event() -> None:
    async with running() as (controller, seen):
        await observe(controller, None, changed("1"))
        seen.answers = [msgspec.structs.replace(parse_account(changed("2")), resource_version="5")]
        await observe(controller, "MODIFIED", changed("2"), changed("3"))
        assert seen.versions == ["1", "2"]


async def test_the_events_of_what_we_wrote_ourselves_start_nothing() -> None:
    async with running() as (controller, seen):
        without, written = body("1", finalizers=[]), with_status(body("3"), observedGeneration=1)
        seen.answers = [parse_account(written)]
        seen.meanwhile = watched(controller, body("2"), written)
        await observe(controller, "ADDED", without)
        await observe(controller, "MODIFIED", body("2"), written)
        assert seen.versions == ["1"]


@pytest.mark.parametrize(
    "theirs",
    [
        pytest.param({"annotations": {"oauthpool.dev/refresh-requested": "now"}}, id="annotations"),
        pytest.param({"labels": {"team": "a"}}, id="labels"),
        pytest.param({"generation": 7}, id="spec"),
        pytest.param({"finalizers": []}, id="our finalizer"),
        pytest.param({"annotations": {"example.com/poke": "1"}}, id="annotations of others"),
    ],
)
@pytest.mark.parametrize("is_seen_apart", [True, False])
async def test_what_others_write_during_a_reconcile_is_looked_at_afterwards(
    theirs: dict[str, Any], is_seen_apart: bool
) -> None:
    """The watch may tell of their write, or only of ours, which came after it."""
    async with running() as (controller, seen):
        ours = with_status(body("3", **theirs), observedGeneration=1)
        events = [body("2", **theirs), ours] if is_seen_apart else [ours]
        seen.answers = [parse_account(ours)]
        seen.meanwhile = watched(controller, *events)
        await observe(controller, "ADDED", body("1"))
        assert seen.versions[:2] == ["1", "3"]


async def test_a_report_that_comes_after_our_last_write_is_looked_at_afterwards() -> None:
    async with running() as (controller, seen):
        reports = [{"reporter": "proxy-1", "observedTime": "2026-11-20T12:00:00Z"}]
        later = with_status(body("3"), observedGeneration=1, reports=reports)
        seen.answers = [parse_account(with_status(body("2"), observedGeneration=1))]
        seen.meanwhile = watched(controller, later)
        await observe(controller, "ADDED", body("1"))
        assert seen.versions == ["1", "3"]


async def test_a_version_in_which_nothing_differs_that_is_read_here_is_only_remembered() -> None:
    async with running() as (controller, seen):
        await observe(controller, "ADDED", body("1"))
        await observe(controller, "MODIFIED", body("2"))
        assert seen.versions == ["1"]
        known = controller.known(UID)
        assert known is not None and known.resource_version == "2"


async def test_whoever_wants_an_account_looked_at_may_write_any_annotation() -> None:
    async with running() as (controller, seen):
        await observe(controller, "ADDED", body("1"))
        await observe(controller, "MODIFIED", body("2", annotations={"example.com/poke": "1"}))
        assert seen.versions == ["1", "2"]


async def test_what_is_listed_anew_is_looked_at_whether_it_has_changed_or_not() -> None:
    async with running() as (controller, seen):
        await observe(controller, None, body("1"), body("1"))
        assert seen.versions == ["1", "1"]


async def test_an_event_during_a_reconcile_that_fails_is_not_lost() -> None:
    async with running() as (controller, seen):
        seen.answers = [RuntimeError("odd")]
        seen.meanwhile = watched(controller, body("2"))
        await observe(controller, "ADDED", body("1"))
        assert seen.versions == ["1"]  # again when its time has come
        await observe(controller, "MODIFIED", body("3"))
        assert seen.versions == ["1", "3"]


async def test_the_memory_of_an_account_lasts_from_one_look_to_the_next() -> None:
    async with running() as (controller, seen):
        await observe(controller, "MODIFIED", changed("1"), changed("2"), changed("1", uid="another"))
        assert seen.memories[0] is seen.memories[1]
        assert seen.memories[0] is not seen.memories[2]


async def test_an_object_that_vanishes_with_its_finalizer_is_cleaned_up_after() -> None:
    async with running() as (controller, seen):
        await observe(controller, None, body("1"))
        await observe(controller, "DELETED", body("2"))
        assert [(account.deleting, account.finalizers) for account in seen.accounts] == [
            (False, [FINALIZER]),
            (True, []),
        ]


async def test_an_object_that_we_let_go_is_forgotten_and_its_last_event_starts_nothing() -> None:
    async with running() as (controller, seen):
        await observe(controller, "MODIFIED", body("1", deletionTimestamp="2026-11-20T12:00:00Z"))
        assert controller.account_conditions() == []
        await observe(controller, "DELETED", body("2", deletionTimestamp="2026-11-20T12:00:00Z"))
        assert seen.versions == ["1"]


async def test_a_removal_that_fails_is_not_forgotten() -> None:
    async with running() as (controller, seen):
        seen.answers = [httpx2.ConnectError("no API server")]
        await observe(controller, "MODIFIED", body("1", deletionTimestamp="2026-11-20T12:00:00Z"))
        assert status_words(controller) == ["New"]  # it is tried again when its time has come
        await observe(controller, "DELETED", body("2", deletionTimestamp="2026-11-20T12:00:00Z"))
        assert (seen.versions, status_words(controller)) == (["1", "2"], [])


async def test_what_failed_while_the_api_server_was_away_is_tried_again_as_soon_as_it_is_back() -> None:
    leadership = Leads()
    async with running(leadership) as (controller, seen):
        seen.answers = [httpx2.ConnectError("no API server")]
        await observe(controller, None, body("1"))
        assert seen.versions == ["1"]
        leadership.on_return()
        await turns()
        assert seen.versions == ["1", "1"]


async def test_a_spec_that_is_not_understood_is_reconciled_like_any_other_so_that_somebody_hears_of_it() -> None:
    async with running() as (controller, seen):
        strange = {**body("1", uid="strange", name="strange"), "spec": {"provider": 7}}
        await observe(controller, None, strange, body("2"))
        assert [bool(account.spec_problem) for account in seen.accounts] == [True, False]


async def test_an_account_that_is_gone_is_not_asked_for_again_and_again(caplog: pytest.LogCaptureFixture) -> None:
    async with running() as (controller, seen):
        request = httpx2.Request("PATCH", "https://cluster.example/")
        response = httpx2.Response(404, json={"code": 404}, request=request)
        seen.answers = [ApiError(response=response, request=request)]
        await observe(controller, None, body("1"))
        assert "again at" not in caplog.text


async def test_what_the_objects_say_of_accounts_can_be_scraped() -> None:
    async with running() as (controller, _):
        conditions = [
            {"type": "Ready", "status": "False", "reason": "LoginRequired"},
            {"type": "LoginRequired", "status": "True", "reason": "AwaitingAuthorizationCode"},
        ]
        await observe(controller, None, {**body(), "status": {"conditions": conditions}})
        await observe(controller, None, body(uid="another", name="claude-2"))
        registry = CollectorRegistry()
        registry.register(PoolCollector(lambda: Counts(controller.account_conditions(), 0, 0, 0, 0, 0)))

        def sample(name: str, **labels: str) -> float | None:
            return registry.get_sample_value(name, labels)

        assert [sample("pool_accounts", status=word) for word in ("LoginRequired", "New")] == [1, 1]
        shown = {
            account: [
                sample("pool_account_condition", account_id=account, condition=condition)
                for condition in ("Ready", "LoginRequired", "Stalled")
            ]
            for account in ("claude-1", "claude-2")
        }
        assert shown == {"claude-1": [0, 1, 0], "claude-2": [0, 0, 0]}


async def test_a_deletion_does_not_wait_for_a_reconcile_that_hangs() -> None:
    async with running() as (controller, seen):
        seen.hangs = True
        await observe(controller, "MODIFIED", body("1"))
        seen.hangs = False
        await observe(controller, "MODIFIED", body("2", deletionTimestamp="2026-11-20T12:00:00Z"))
        assert [account.deleting for account in seen.accounts] == [False, True]
        assert controller.account_conditions() == []


async def test_an_account_whose_deletion_nobody_told_of_is_cleaned_up_after_though_its_reconcile_hangs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with running() as (controller, seen):
        seen.hangs = True
        await observe(controller, None, body("1"), body("1", uid="gone", name="gone"))
        seen.hangs = False
        seen.accounts.clear()
        monkeypatch.setattr(controller.upkeep, "_cluster", Lists(body("1")))
        await controller.upkeep.look()
        await turns()
        assert [(account.name, account.deleting, account.finalizers) for account in seen.accounts] == [
            ("gone", True, [])
        ]


class Lists(NoCluster):
    """These objects and no others."""

    def __init__(self, *there: dict[str, Any]) -> None:
        self.there, self.namespace = list(there), "pool"

    async def show_all(self, see: Callable[[dict[str, Any]], None]) -> None:
        for one in self.there:
            see(one)


@pytest.mark.parametrize(("ahead", "is_swept"), [(timedelta(0), True), (timedelta(days=30), False)])
async def test_a_clock_that_jumps_ahead_sweeps_nothing_early(tmp_path: Path, ahead: timedelta, is_swept: bool) -> None:
    for name in ("state", "access"):
        (tmp_path / name).mkdir()
    store, seen, cluster = Store(tmp_path / "state", tmp_path / "access"), Seen(), Lists()
    age = timedelta(days=8) if is_swept else timedelta(days=1)
    store.save_credential(UID, credential(), replaces=0)
    store.retain(UID, Retained("claude-1", "pool", "anthropic", "AuthorizationCode", NOW - age))
    now, elapsed = NOW, 0.0
    controller = Controller(
        seen,
        cluster=cluster,
        index=IndexPublisher(cluster),
        store=store,
        leadership=Leads(),
        clock=lambda: now,
        elapsed=lambda: elapsed,
    )
    now, elapsed = NOW + timedelta(seconds=10) + ahead, 10
    await controller.upkeep.look()
    assert (store.credential(UID) is None) is is_swept
