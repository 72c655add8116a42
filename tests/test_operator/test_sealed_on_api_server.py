"""Sealed tokens by the real operator process, with its own Role, on a real API server."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.support.api_relay import ApiRelay, Request, refusal
from tests.support.control_plane import ControlPlane, wait_until
from tests.support.declared_proxies import OF_SMALL_ORDER, DeclaredProxy
from tests.support.relayed_stack import RelayedStack

NAMES = ("alice", "bob")


class SealedStack(RelayedStack):
    """No access volume; two accounts that work."""

    def begin(self) -> None:
        self.access_dir.rmdir()
        self.start(with_proxy=False)
        for name in NAMES:
            self.apply(self.workload_account(name))
        for name in NAMES:
            self.wait_for_reason(name, "Ready", "Available")

    def declare(self, *declared: DeclaredProxy, **changes: Any) -> None:
        for one in declared:
            self.kubectl("apply", "-f", "-", stdin=json.dumps(one.manifest | changes))

    def withdraw(self, one: DeclaredProxy) -> None:
        """As the garbage collector does when the pod is gone."""
        path = f"/apis/oauthpool.dev/v1alpha1/namespaces/{self.namespace}/oauthproxies/{one.pod}"
        assert self.control_plane.api.delete(path).is_success

    @property
    def config_maps(self) -> list[dict[str, Any]]:
        """Those of the tokens."""
        path = f"/api/v1/namespaces/{self.namespace}/configmaps?labelSelector=oauthpool.dev/tokens=1"
        found: list[dict[str, Any]] = self.control_plane.api.get(path).json()["items"]
        return found

    @property
    def entries(self) -> dict[str, str]:
        return {name: value for one in self.config_maps for name, value in (one.get("data") or {}).items()}

    @property
    def pods(self) -> set[str]:
        """Whom anything is sealed to."""
        return {pod for value in self.entries.values() for pod in json.loads(value)["sealed"]}

    def has_all(self, one: DeclaredProxy) -> bool:
        """The proxy can open every account's token, and it is the one that the index names."""
        entries, index = self.entries, self.index()
        tokens = {name: one.opened(entries.get(name)) for name in NAMES}
        named = {name: (index[name]["generation"], index[name]["fingerprint"]) for name in NAMES}
        written = {
            name: (entry["generation"], entry["fingerprint"])
            for name, entry in ((name, json.loads(entries[name])) for name in NAMES if name in entries)
        }
        return all(tokens.values()) and named == written

    def wait_for(self, *declared: DeclaredProxy) -> None:
        wait_until(lambda: all(self.has_all(one) for one in declared), "every proxy to have all tokens")

    def metric(self, name: str) -> float:
        text = httpx2.get(f"{self.metrics_url}/metrics").text
        return float(text.partition(f"\n{name} ")[2].split()[0])

    def refresh(self, name: str, request: str) -> None:
        self.kubectl("annotate", "oauthaccount", name, f"oauthpool.dev/refresh-requested={request}", "--overwrite")


@contextmanager
def running(control_plane: ControlPlane, folder: Path) -> Iterator[SealedStack]:
    with ApiRelay(control_plane.server, control_plane.tls).running() as relay:
        stack = SealedStack(control_plane, folder, tokens="sealed")
        stack.relay = relay
        try:
            stack.begin()
            yield stack
        finally:
            relay.faults = []
            stack.close()


@pytest.fixture(scope="module")
def shared(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SealedStack]:
    with running(control_plane, tmp_path_factory.mktemp("sealed")) as stack:
        yield stack


@pytest.fixture
def stack(shared: SealedStack) -> Iterator[SealedStack]:
    """Without a proxy at the beginning."""
    yield shared
    shared.relay.faults = []
    shared.kubectl("delete", "oauthproxies", "--all")
    wait_until(lambda: shared.entries == {}, "what was sealed to them to go")


def test_proxies_join_leave_and_change_their_keys(stack: SealedStack) -> None:
    first, second = DeclaredProxy("proxy-1"), DeclaredProxy("proxy-2")
    stack.declare(first)
    stack.wait_for(first)
    stack.declare(second)
    stack.wait_for(first, second)
    second.renew_key()
    stack.declare(second)
    stack.wait_for(first, second)
    stack.withdraw(first)
    wait_until(lambda: stack.pods == {"proxy-2"}, "what was sealed to the first to go")
    assert stack.has_all(second)
    assert not stack.access_dir.exists()


def test_a_new_token_reaches_every_proxy(stack: SealedStack) -> None:
    proxies = [DeclaredProxy("proxy-1"), DeclaredProxy("proxy-2")]
    stack.declare(*proxies)
    stack.wait_for(*proxies)
    before = stack.index()["alice"]["generation"]
    stack.refresh("alice", "now")
    wait_until(lambda: stack.index()["alice"]["generation"] > before, "the next token")
    assert all(stack.has_all(one) for one in proxies)  # the index names nothing that they do not have


def test_the_index_names_no_token_before_it_is_sealed(stack: SealedStack) -> None:
    def writes_tokens(request: Request) -> bool:
        return request.method in ("PATCH", "POST") and "/configmaps/oauth-tokens" in request.target

    one = DeclaredProxy("proxy-1")
    stack.declare(one)
    stack.wait_for(one)
    before = stack.index()["alice"]["generation"]
    with stack.relay.fault(writes_tokens, answers=refusal(500, "InternalError")) as fault:
        stack.refresh("alice", "while tokens cannot be written")
        wait_until(lambda: len(fault.met) > 1, "it to be tried")
        assert stack.index()["alice"]["generation"] == before
    wait_until(lambda: stack.index()["alice"]["generation"] > before, "the next token")
    assert stack.has_all(one)


def test_an_account_that_is_logged_out_or_deleted_has_no_entry(stack: SealedStack) -> None:
    stack.declare(DeclaredProxy("proxy-1"))
    stack.apply(stack.account("carol"))
    stack.log_in("carol", "carol@example.com")
    wait_until(lambda: "carol" in stack.entries, "her entry")
    stack.kubectl("annotate", "oauthaccount", "carol", "oauthpool.dev/logout-requested=now")
    wait_until(lambda: "carol" not in stack.entries, "her entry to go")
    stack.kubectl("delete", "oauthaccount", "carol", "--timeout=30s")
    stack.apply(stack.workload_account("dave"))
    wait_until(lambda: "dave" in stack.entries, "his entry")
    stack.kubectl("delete", "oauthaccount", "dave", "--timeout=30s")
    assert "dave" not in stack.entries


def test_after_a_restart_nothing_is_sealed_and_nothing_written(stack: SealedStack) -> None:
    proxies = [DeclaredProxy("proxy-1"), DeclaredProxy("proxy-2")]
    stack.declare(*proxies)
    stack.wait_for(*proxies)
    before = [one["metadata"]["resourceVersion"] for one in stack.config_maps]
    stack.operator.stop()
    stack.start_operator()
    wait_until(
        lambda: stack.metric('pool_reconciles_total{result="success"}') >= len(NAMES), "every account to be looked at"
    )
    assert stack.metric("pool_tokens_sealed_total") == 0
    assert [one["metadata"]["resourceVersion"] for one in stack.config_maps] == before


def test_who_came_and_went_while_no_operator_ran_is_known_after_the_start(stack: SealedStack) -> None:
    goes, comes = DeclaredProxy("goes"), DeclaredProxy("comes")
    stack.declare(goes)
    stack.wait_for(goes)
    stack.operator.stop()
    stack.withdraw(goes)
    stack.declare(comes)
    stack.start_operator()
    stack.wait_for(comes)
    wait_until(lambda: stack.pods == {"comes"}, "what was sealed to the other to go")


def test_a_proxy_whose_going_the_watch_does_not_tell_of_leaves_no_ghost(stack: SealedStack) -> None:
    stays, ghost = DeclaredProxy("stays"), DeclaredProxy("ghost")
    stack.declare(stays, ghost)
    stack.wait_for(stays, ghost)
    with stack.relay.fault(lambda request: request.is_watch and "/oauthproxies" in request.target, stalls=True):
        stack.withdraw(ghost)
        wait_until(lambda: stack.pods == {"stays"}, "the ghost to go")


@pytest.mark.parametrize(
    "drift",
    [
        pytest.param(["delete", "configmap", "oauth-tokens"], id="deleted"),
        pytest.param(
            ["patch", "configmap", "oauth-tokens", "--type=merge", '-p={"data": {"alice": "rubbish", "ghost": "x"}}'],
            id="rubbish",
        ),
        pytest.param(["label", "configmap", "oauth-tokens", "oauthpool.dev/tokens-"], id="label"),
    ],
)
def test_what_somebody_does_to_the_config_map_is_mended(stack: SealedStack, drift: list[str]) -> None:
    one = DeclaredProxy("proxy-1")
    stack.declare(one)
    stack.wait_for(one)
    right = stack.entries
    stack.kubectl(*drift)
    wait_until(lambda: stack.entries == right, "the tokens as they were")


def test_a_rollback_of_the_config_map_is_mended(stack: SealedStack) -> None:
    one = DeclaredProxy("proxy-1")
    stack.declare(one)
    stack.wait_for(one)
    (old,) = stack.config_maps
    before = stack.index()["alice"]["generation"]
    stack.refresh("alice", "before the rollback")
    wait_until(lambda: stack.index()["alice"]["generation"] > before, "the next token")
    stack.kubectl(*("patch", "configmap", "oauth-tokens", "--type=merge", "-p", json.dumps({"data": old["data"]})))
    stack.wait_for(one)


def test_hostile_objects_get_nothing_and_harm_nobody(stack: SealedStack) -> None:
    good, nobodys, of_another = DeclaredProxy("good"), DeclaredProxy("nobodys"), DeclaredProxy("of-another")
    stack.declare(nobodys, metadata={"name": "nobodys"})
    owner = good.manifest["metadata"]["ownerReferences"]
    stack.declare(of_another, metadata={"name": "of-another", "ownerReferences": owner})
    stack.declare(DeclaredProxy("small-order"), spec={"publicKey": OF_SMALL_ORDER})
    stack.declare(good)
    stack.wait_for(good)
    assert stack.pods == {"good"}
    wait_until(lambda: stack.metric('pool_proxies{state="refused"}') == 3, "the metric")
    assert stack.metric('pool_proxies{state="served"}') == 1
    refused = [line for line in stack.operator.lines if "gets no tokens" in line]
    assert len(refused) == 3
    keys = (nobodys.public_key, of_another.public_key, good.public_key, OF_SMALL_ORDER)
    assert not [key for key in keys if key in stack.operator.output]


def test_no_token_is_in_what_the_operator_says_and_publishes(stack: SealedStack) -> None:
    stack.declare(DeclaredProxy("proxy-1"))
    stack.wait_for()
    wait_until(lambda: stack.pods == {"proxy-1"}, "the tokens")
    said = stack.operator.output + json.dumps(stack.config_maps) + stack.kubectl("get", "events", "-o", "json")
    said += stack.kubectl("get", "oauthaccounts", "-o", "json") + httpx2.get(f"{stack.metrics_url}/metrics").text
    assert not [secret for secret in stack.simulator.secrets() if secret in said]
