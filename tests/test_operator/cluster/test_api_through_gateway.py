"""The API server behind a gateway that answers for it: callers see nothing but HTTP errors and time-outs."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import httpx2
import pytest

from oauth_pool_operator.cluster.answers import describe, is_gone
from oauth_pool_operator.cluster.api import Cluster
from oauth_pool_operator.cluster.leadership import Leadership
from oauth_pool_operator.cluster.lease import Lease
from oauth_pool_operator.storage.lock import VolumeLock
from tests.support.api_relay import BARE_502, ApiRelay, Fault, answer, every
from tests.support.builders import account
from tests.support.control_plane import ControlPlane

NOW = datetime(2026, 11, 20, 12, 0, 0, tzinfo=UTC)


@pytest.fixture
def relay(control_plane: ControlPlane) -> Iterator[ApiRelay]:
    with ApiRelay(control_plane.server, control_plane.tls).running() as relay:
        yield relay


@pytest.fixture
async def cluster(
    control_plane: ControlPlane, namespace: str, relay: ApiRelay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Cluster]:
    config = relay.kubeconfig(control_plane.kubeconfig, tmp_path / "kubeconfig")
    monkeypatch.setenv("KUBECONFIG", str(config))
    cluster = Cluster(namespace, "oauth-pool")
    yield cluster
    await cluster.close()


CALLS: dict[str, Callable[[Cluster], Awaitable[object]]] = {
    "is_being_deleted": lambda cluster: cluster.is_being_deleted(),
    "accounts": lambda cluster: cluster.accounts(),
    "account": lambda cluster: cluster.account("alice"),
    "annotate": lambda cluster: cluster.annotate(account(name="alice"), "a.example/b", "1"),
    "patch_metadata": lambda cluster: cluster.patch_metadata(account(name="alice"), {"finalizers": ["a.example/b"]}),
    "patch_status": lambda cluster: cluster.patch_status(account(name="alice"), {"subject": "alice"}),
    "post_event": lambda cluster: cluster.post_event(account(name="alice"), "Normal", "R", "m", NOW),
    "service_account_token": lambda cluster: cluster.service_account_token("default", "https://provider.example"),
    "read_index": lambda cluster: cluster.read_index(0),
    "write_index": lambda cluster: cluster.write_index(0, {"a": "1"}, whole={"a": "1"}, shards=1),
    "read_lease": lambda cluster: cluster.read_lease(),
    "write_lease": lambda cluster: cluster.write_lease(Lease("me", NOW, NOW, 15, 0, "")),
}
ANSWERS = {
    "a bare 502": BARE_502,
    "an error without a body": answer(503),
    "an error whose JSON is cut": answer(500, b'{"kind": "Stat'),
    "an error that is a list": answer(503, b"[]"),
    "an error that is a page": answer(502, b"<html>", "text/html"),
    "success that is a page": answer(200, b"<html>", "text/html"),
    "success without a body": answer(200),
    "success that is garbled": answer(200, b'{"metadata": 7, "items": {"a": 1}, "status": []}'),
    "success in bytes that are no text": answer(200, b'{"metadata": {"name": "\xff\xfe"}}'),
}


@pytest.mark.parametrize("said", ANSWERS.values(), ids=ANSWERS.keys())
async def test_whatever_a_gateway_answers_only_http_errors_leave_the_cluster(
    cluster: Cluster, relay: ApiRelay, said: bytes
) -> None:
    relay.faults = [Fault(answers=said)]
    for call in CALLS.values():
        with suppress(httpx2.HTTPError):
            await call(cluster)
    assert len(relay.faults[0].met) >= len(CALLS)


async def test_the_status_of_a_bare_502_is_what_people_read(cluster: Cluster, relay: ApiRelay) -> None:
    relay.faults = [Fault(answers=BARE_502)]
    with pytest.raises(httpx2.HTTPError) as raised:
        await cluster.read_lease()
    assert describe(raised.value) == "the API server answered 502"


async def test_an_object_of_a_later_version_is_an_http_error_at_most(
    cluster: Cluster, relay: ApiRelay, control_plane: ControlPlane, namespace: str
) -> None:
    metadata = {"name": "alice", "namespace": namespace}
    spec = {"provider": "simulator", "grant": "AuthorizationCode"}
    kind = {"apiVersion": "oauthpool.dev/v1alpha1", "kind": "OAuthAccount"}
    control_plane.apply({**kind, "metadata": metadata, "spec": spec})
    found = await cluster.account("alice")
    assert found is not None
    relay.faults = [Fault(rewrites=(b'"grant":"AuthorizationCode"', b'"grant":"GrantOfTomorrow00"'))]
    with suppress(httpx2.HTTPError):
        await cluster.patch_status(found, {"subject": "alice"})
    assert len(await cluster.accounts()) <= 1
    assert len(relay.faults[0].met) == 2


@pytest.mark.parametrize(
    "said",
    [answer(404, b"404 page not found", "text/plain"), answer(404, b'{"message": "no Route matched"}')],
    ids=["a page", "JSON of the gateway"],
)
async def test_a_gateway_s_404_does_not_say_that_an_object_is_gone(
    cluster: Cluster, relay: ApiRelay, said: bytes
) -> None:
    assert await cluster.account("alice") is None  # the API server's own word
    relay.faults = [Fault(answers=said)]
    for call in (cluster.account("alice"), cluster.read_index(0)):
        with pytest.raises(httpx2.HTTPError) as raised:
            await call
        assert not is_gone(raised.value)


async def test_a_leader_behind_a_gateway_that_answers_502_goes_on(
    cluster: Cluster, relay: ApiRelay, tmp_path: Path
) -> None:
    leadership = Leadership(VolumeLock(tmp_path), cluster)
    await leadership.look()
    assert leadership.leads
    for said in ANSWERS.values():
        relay.faults = [Fault(every, answers=said)]
        await leadership.look()
        assert leadership.leads
    relay.faults = []
    await leadership.look()
    await leadership.release()


async def test_an_answer_that_does_not_come_is_a_time_out_of_the_caller_s(cluster: Cluster, relay: ApiRelay) -> None:
    with relay.fault(stalls=True), pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await cluster.read_lease()
    assert await cluster.read_lease() is None


@pytest.mark.parametrize("digits", [5000, 5])
async def test_a_number_of_shards_that_nobody_can_mean_counts_as_none(
    cluster: Cluster, control_plane: ControlPlane, namespace: str, digits: int
) -> None:
    annotations = {"oauthpool.dev/shards": "9" * digits}
    metadata = {"name": "oauth-pool", "namespace": namespace, "labels": {"oauthpool.dev/index": "1"}}
    control_plane.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata | {"annotations": annotations}})
    assert (await cluster.read_index(0)).shards == 1
