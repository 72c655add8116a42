"""Handing a credential over when the cluster does not play along; with a real one, see test_handover_on_api_server."""

from datetime import timedelta
from pathlib import Path

import httpx2
import pytest

from oauth_pool_operator.account.spec import FINALIZER, Account
from oauth_pool_operator.cluster.api import Cluster
from oauth_pool_operator.config import Config, OperatorSettings
from oauth_pool_operator.handover import handover
from oauth_pool_operator.handover.credential_files import Entry, Found
from oauth_pool_operator.handover.handover import FAILED, Handover
from oauth_pool_operator.storage.store import Store
from tests.support.builders import NOW, UID, account

FOUND = Found({"": Entry("a-refresh-token", "an-access-token", NOW + timedelta(hours=1))}, {})
KEPT = account(finalizers=(FINALIZER,))


class OneAccount(Cluster):
    """Shows an account, each state once and the last for ever; writes are refused if they are to be."""

    def __init__(self, *states: Account, refuses: bool = False) -> None:
        self._states, self._refuses = list(states), refuses

    async def account(self, name: str) -> Account | None:
        return self._states.pop(0) if len(self._states) > 1 else self._states[0]

    async def annotate(self, account: Account, annotation: str, value: str) -> Account:
        if self._refuses:
            raise httpx2.ConnectError("no API server")
        return account


def handing_over(folder: Path, cluster: Cluster) -> Handover:
    for name in ("state", "access"):
        (folder / name).mkdir()
    store = Store(folder / "state", folder / "access")
    return Handover(store, cluster, Config(OperatorSettings(namespace="pool"), {}), timeout=5)


async def test_a_request_that_could_not_be_made_leaves_no_credential_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = handing_over(tmp_path, OneAccount(KEPT, refuses=True))
    assert await asked.import_one("claude-1", None, FOUND) == FAILED
    assert "could not be written to the object" in capsys.readouterr().err
    assert asked.store.imported(UID) is None


@pytest.mark.parametrize(
    "after",
    [account(finalizers=(FINALIZER,), deleting=True), account(uid="another-uid", finalizers=(FINALIZER,))],
    ids=["being deleted", "another of the same name"],
)
async def test_an_account_that_is_deleted_meanwhile_leaves_no_credential_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, after: Account
) -> None:
    monkeypatch.setattr(handover, "LOOK_SECONDS", 0)
    asked = handing_over(tmp_path, OneAccount(KEPT, after))
    assert await asked.import_one("claude-1", None, FOUND) == FAILED
    assert "it was deleted meanwhile" in capsys.readouterr().err
    assert asked.store.imported(UID) is None


async def test_a_damaged_credential_is_no_reason_to_refuse_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handover, "LOOK_SECONDS", 0)
    done = {"type": "Ready", "status": "True", "reason": "Available", "message": "works"}
    works = account(finalizers=(FINALIZER,), status={"conditions": [done], "token": {"generation": 1}})
    asked = handing_over(tmp_path, OneAccount(KEPT, works))
    (tmp_path / "state" / UID).mkdir()
    (tmp_path / "state" / UID / "credential.json").write_text("{")
    assert await asked.import_one("claude-1", None, FOUND) == handover.DONE, capsys.readouterr().err
