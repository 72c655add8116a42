"""What reconciles make of tokens that are sealed: who hears of what in which order, and when there is no room."""

from pathlib import Path

import httpx2
import pytest

from oauth_pool_operator.account.documents import AccessFile
from oauth_pool_operator.account.spec import Account
from oauth_pool_operator.errors import ClusterUnavailable, TokensFull
from tests.support.builders import NOW, UID, answer, credential
from tests.test_operator.test_reconcile import DUE, MINUTE, NO_API_SERVER, World, world

MESSAGE = "the sealed tokens are full: 2000 accounts times 12 proxies in 10 ConfigMaps of 900 KiB"


class ScriptedDelivery:
    """Notes what it is asked for in the world's `steps`; raises `failure`, if there is one."""

    def __init__(self, steps: list[str]) -> None:
        self.steps = steps
        self.token: AccessFile | None = None
        self.failure: Exception | None = None

    async def publish(self, account: Account, access: AccessFile) -> None:
        if isinstance(self.failure, TokensFull) and not self.failure.nobody_has_it:
            self.token = access
        if self.failure is not None:
            raise self.failure
        if self.token != access:
            self.steps.append("token")
            self.token = access

    async def withdraw(self, account: Account) -> None:
        if self.token is not None:
            self.steps.append("token withdrawn")
        self.token = None

    async def held(self, uid: str) -> AccessFile | None:
        return self.token if uid == UID else None


def sealed(w: World) -> ScriptedDelivery:
    """From now on the world's tokens are sealed."""
    delivery = ScriptedDelivery(w.steps)
    w.delivery = delivery
    w.restart()
    return delivery


def message(w: World, kind: str) -> str:
    found: str = next(one["message"] for one in w.cluster.object.status["conditions"] if one["type"] == kind)
    return found


async def test_a_token_is_sealed_before_the_index_names_it_and_no_file_is_written(tmp_path: Path) -> None:
    async with world(tmp_path, credential=DUE) as w:
        sealed(w)
        await w.reconcile(answer())
        assert w.steps_of("credential", "token", "index") == ["token", "index", "credential", "token", "index"]
        assert list(w.store.access_dir.iterdir()) == []


async def test_a_token_that_nobody_could_be_told_of_is_not_named(tmp_path: Path) -> None:
    async with world(tmp_path, credential=credential()) as w:
        delivery = sealed(w)
        await w.reconcile()
        delivery.failure = NO_API_SERVER
        w.store.save_credential(UID, credential(generation=2, access_token="second"), replaces=1)
        with pytest.raises(ClusterUnavailable) as caught:
            await w.look()
        assert isinstance(caught.value.__cause__, httpx2.HTTPError)
        assert w.published()["generation"] == 1
        delivery.failure = None
        await w.look()
        assert w.published()["generation"] == 2


async def test_a_dead_grant_s_token_that_was_refused_is_withdrawn(tmp_path: Path) -> None:
    async with world(tmp_path, credential=credential(expires_in=-MINUTE)) as w:
        delivery = sealed(w)
        await w.bury()
        assert (delivery.token, w.published()["status"]) == (None, "Disabled")


async def test_a_deleted_account_s_token_goes_after_its_entry_of_the_index(tmp_path: Path) -> None:
    async with world(tmp_path, credential=credential()) as w:
        sealed(w)
        await w.reconcile()
        w.observed(deleting=True)
        await w.reconcile(answer())
        assert w.steps[:2] == ["index", "token withdrawn"]


async def test_what_is_left_of_a_damaged_credential_is_the_token_that_was_sealed(tmp_path: Path) -> None:
    async with world(tmp_path, credential=credential()) as w:
        delivery = sealed(w)
        await w.reconcile()
        (w.store.state_dir / UID / "credential.json").write_text("rubbish")
        await w.reconcile()
        assert (w.reason("Ready"), w.published()["generation"], delivery.token is not None) == ("Available", 1, True)


async def test_an_account_that_some_proxies_lack_is_used_by_the_others_and_says_so(tmp_path: Path) -> None:
    async with world(tmp_path, credential=credential()) as w:
        delivery = sealed(w)
        delivery.failure = TokensFull(MESSAGE, nobody_has_it=False)
        w.now = await w.reconcile()
        assert w.now == NOW + MINUTE
        assert (w.reason("Ready"), w.reason("Stalled"), w.reason("AccessFailing")) == (
            *("Available", "TokensFull", "TokensFull"),
        )
        assert MESSAGE in message(w, "Ready")
        assert (w.published()["status"], w.published()["generation"]) == ("Available", 1)
        w.now = await w.reconcile()
        assert w.steps == []  # a thousand such accounts cost nothing
        delivery.failure = None
        await w.reconcile()
        assert w.reason("Stalled") is None


async def test_an_account_that_no_proxy_can_have_is_not_ready_and_the_index_names_no_token_of_it(
    tmp_path: Path,
) -> None:
    async with world(tmp_path, credential=credential()) as w:
        delivery = sealed(w)
        delivery.failure = TokensFull(MESSAGE, nobody_has_it=True)
        w.now = await w.reconcile()
        assert (w.reason("Ready"), w.reason("Stalled"), w.cluster.index) == ("TokensFull", "TokensFull", {})
        delivery.failure = None
        await w.reconcile()
        assert (w.reason("Ready"), w.published()["generation"]) == ("Available", 1)
