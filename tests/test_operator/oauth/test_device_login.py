"""A device's login, step by step: opened, asked about, and what becomes of it."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from oauth_pool_operator import metrics
from oauth_pool_operator.account.memory import Memory
from oauth_pool_operator.account.spec import LOGIN_ANNOTATION, Account
from oauth_pool_operator.errors import (
    AuthorizationEnded,
    AuthorizationPending,
    ExchangeRejected,
    GrantRejected,
    ProviderHeld,
    TokenEndpointUnavailable,
)
from tests.support.builders import (
    NOW,
    UID,
    account,
    answer,
    credential,
    device_authorization,
    device_session,
)
from tests.test_operator.test_reconcile import DEAD, DUE, LOST, NOT_REACHED, REFUSED, World, world

SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)
PENDING, SLOW_DOWN = AuthorizationPending(slow_down=False), AuthorizationPending(slow_down=True)
BY_DEVICE = account(grant="DeviceCode")


def message(w: World, kind: str) -> str:
    conditions = w.cluster.object.status["conditions"]
    return str(next(entry["message"] for entry in conditions if entry["type"] == kind))


async def test_a_login_is_on_the_volume_before_anybody_hears_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path, BY_DEVICE) as w:
        is_stored: list[bool] = []  # at each status that tells of the login
        tell = w.cluster.patch_status

        async def patch_status(account: Account, changes: dict[str, Any]) -> Account:
            if changes.get("login"):
                is_stored.append("session" in w.steps)
            return await tell(account, changes)

        monkeypatch.setattr(w.cluster, "patch_status", patch_status)
        w.endpoint.authorizations = [device_authorization()]
        due = await w.reconcile()
        assert w.steps_of("authorize device", "session") == ["authorize device", "session"]
        assert is_stored == [True]
        assert due == NOW + 5 * SECOND
        assert (w.reason("Ready"), w.reason("LoginRequired")) == ("LoginRequired", "AwaitingDeviceApproval")
        assert w.cluster.object.status["login"]["expirationTime"] == "2026-11-20T12:30:00Z"
        assert "device-code" not in str(w.cluster.patches)


async def test_the_provider_is_asked_as_often_as_it_wants_and_no_oftener(tmp_path: Path) -> None:
    async with world(tmp_path, BY_DEVICE, session=device_session()) as w:
        waits = []
        for given in (PENDING, SLOW_DOWN, PENDING):
            due = await w.reconcile()  # an event in between asks nobody
            waits.append((due - w.now) / SECOND)
            w.now = due
            await w.reconcile(given)
        assert waits == [5, 5, 10]
        assert w.endpoint.sent == ["device-code-of-a-test"] * 3
        assert w.session.poll_seconds == 10  # also after a restart


async def test_an_approved_login_is_stored_with_room_for_it_and_the_session_ends(tmp_path: Path) -> None:
    async with world(tmp_path, BY_DEVICE, session=device_session(request="1")) as w:
        w.now = await w.reconcile()
        await w.reconcile(answer(subject="alice"))
        assert w.steps == ["room", "ask", "credential", "session", "access file", "index", "status"]
        assert (w.session.is_over, w.session.device_code, w.session.user_code) == (True, "", "")
        assert (w.credential.generation, w.credential.refresh_token) == (1, "refresh-token-2-of-a-test")
        status = w.cluster.object.status
        assert (w.reason("Ready"), status["subject"], status["lastHandledLoginRequest"]) == ("Available", "alice", "1")
        assert "login" not in status


async def test_after_a_restart_the_same_login_goes_on(tmp_path: Path) -> None:
    async with world(tmp_path, BY_DEVICE, session=device_session()) as w:
        w.now = await w.reconcile()
        await w.reconcile(PENDING)
        w.memory = Memory()
        assert await w.reconcile() == w.now + 5 * SECOND  # the provider may have been asked a moment ago
        w.now += 5 * SECOND
        await w.reconcile(answer())
        assert w.reason("Ready") == "Available"


async def test_a_credential_that_is_stored_is_not_asked_for_again(tmp_path: Path) -> None:
    async with world(tmp_path, BY_DEVICE, session=device_session()) as w:
        w.now = await w.reconcile()
        obstacle = w.store.state_dir / UID / "login.json.new"

        async def block() -> None:
            obstacle.mkdir()

        w.endpoint.meanwhile = block
        due = await w.reconcile(answer())
        assert (w.credential.generation, w.session.is_over) == (1, False)
        obstacle.rmdir()
        w.now = due
        await w.reconcile()  # with nothing to answer, another question would fail here
        assert (w.session.is_over, w.reason("Ready")) == (True, "Available")


@pytest.mark.parametrize(
    ("ended", "reason", "says"),
    [
        pytest.param(AuthorizationEnded(has_expired=False), "AccessDenied", "was refused on the page", id="denied"),
        pytest.param(AuthorizationEnded(has_expired=True), "LoginExpired", "not completed in time", id="expired"),
        pytest.param(DEAD, "CodeRejected", "invalid_grant", id="unknown code"),
        pytest.param(REFUSED, "CodeRejected", "invalid_client", id="a mistake in the configuration"),
    ],
)
async def test_a_login_that_comes_to_nothing_says_why_and_what_to_do(
    tmp_path: Path, ended: Exception, reason: str, says: str
) -> None:
    async with world(tmp_path, BY_DEVICE, session=device_session()) as w:
        w.now = await w.reconcile()
        await w.reconcile(ended)
        assert (w.reason("LoginRequired"), w.session.is_over) == (reason, True)
        assert says.replace("on the page", "on the provider's page") in message(w, "LoginRequired")
        assert "oauthpool.dev/login-requested=" in message(w, "LoginRequired")
        assert "login" not in w.cluster.object.status
        await w.reconcile()  # and nobody is asked any more
        w.observed(annotations={LOGIN_ANNOTATION: "again"})
        w.endpoint.authorizations = [device_authorization()]
        await w.reconcile()
        assert w.reason("LoginRequired") == "AwaitingDeviceApproval"


async def test_another_subject_is_not_taken(tmp_path: Path) -> None:
    expecting = account(grant="DeviceCode", expected_subject="alice")
    async with world(tmp_path, expecting, session=device_session()) as w:
        w.now = await w.reconcile()
        await w.reconcile(answer(subject="mallory"), answer())
        assert w.endpoint.sent == ["device-code-of-a-test", "refresh-token-2-of-a-test"]  # the second is revoked
        assert (w.reason("LoginRequired"), w.store.credential(UID)) == ("SubjectMismatch", None)


async def test_a_provider_that_does_not_answer_is_asked_less_and_less_often(tmp_path: Path) -> None:
    async with world(tmp_path, BY_DEVICE, session=device_session(expires=NOW + 60 * MINUTE)) as w:
        w.now = await w.reconcile()
        waits = []
        for _ in range(8):
            due = await w.reconcile(LOST)
            waits.append((due - w.now) / SECOND)
            assert w.reason("Reconciling") == "Exchanging"
            w.now = due
        assert waits == [5, 10, 20, 40, 80, 160, 300, 300]
        due = await w.reconcile(PENDING)
        assert (due - w.now, w.reason("Reconciling")) == (5 * SECOND, None)


async def test_a_provider_that_says_when_is_believed(tmp_path: Path) -> None:
    busy = TokenEndpointUnavailable("answered 429", may_be_done=False, retry_after=90 * SECOND)
    async with world(tmp_path, BY_DEVICE, session=device_session()) as w:
        w.now = await w.reconcile()
        assert await w.reconcile(busy) == w.now + 90 * SECOND


@pytest.mark.parametrize(
    ("failure", "kind", "reason"),
    [
        pytest.param(NOT_REACHED, "Reconciling", "Exchanging", id="away"),
        pytest.param(ExchangeRejected("answered 400 invalid_scope"), "Stalled", "ExchangeRejected", id="refuses"),
        pytest.param(GrantRejected("answered invalid_grant"), "Stalled", "ExchangeRejected", id="makes no sense"),
    ],
)
async def test_a_login_that_cannot_be_opened_is_tried_again(
    tmp_path: Path, failure: Exception, kind: str, reason: str
) -> None:
    async with world(tmp_path, BY_DEVICE) as w:
        w.endpoint.authorizations = [failure, failure, device_authorization()]
        due = await w.reconcile()
        assert (due, w.reason(kind)) == (NOW + SECOND, reason)
        assert await w.reconcile() == due  # an event before its time asks nobody
        w.now = due
        w.now = await w.reconcile()
        assert w.now == NOW + 3 * SECOND
        await w.reconcile()
        assert (w.reason("LoginRequired"), w.reason(kind)) == ("AwaitingDeviceApproval", None)


async def test_a_live_account_is_refreshed_while_its_new_login_cannot_be_opened(tmp_path: Path) -> None:
    asking = account(grant="DeviceCode", annotations={LOGIN_ANNOTATION: "1"})
    async with world(tmp_path, asking, credential=DUE) as w:
        w.endpoint.authorizations = [NOT_REACHED]
        await w.reconcile(answer())
        assert (w.credential.generation, w.reason("Ready")) == (2, "Available")
        assert "cannot be reached" in message(w, "LoginRequired")


async def test_a_new_login_ends_the_one_before(tmp_path: Path) -> None:
    asking = account(grant="DeviceCode", annotations={LOGIN_ANNOTATION: "2"})
    async with world(tmp_path, asking, session=device_session(request="1")) as w:
        w.endpoint.authorizations = [device_authorization(device_code="the-second", user_code="WXYZ-WXYZ")]
        w.now = await w.reconcile()
        assert w.cluster.object.status["login"]["userCode"] == "WXYZ-WXYZ"
        await w.reconcile(PENDING)
        assert w.endpoint.sent == ["the-second"]


@pytest.mark.parametrize(
    "silent",
    [
        pytest.param(account(grant="DeviceCode", suspend=True), id="suspended"),
        pytest.param(account(grant="DeviceCode", provider="broken"), id="broken profile"),
        pytest.param(account(grant="DeviceCode", provider="for-people"), id="grant that is not offered"),
    ],
)
async def test_nobody_is_asked_for_an_account_that_cannot_be_used(tmp_path: Path, silent: object) -> None:
    async with world(tmp_path, silent, session=device_session()) as w:  # type: ignore[arg-type]
        await w.reconcile()
        w.now += MINUTE
        await w.reconcile()
        assert w.endpoint.sent == []


async def test_a_login_whose_time_is_over_is_not_asked_about(tmp_path: Path) -> None:
    async with world(tmp_path, BY_DEVICE, session=device_session(age=11 * MINUTE)) as w:
        for _ in range(2):
            await w.reconcile()
            assert (w.reason("LoginRequired"), w.endpoint.sent) == ("LoginExpired", [])
            w.now += MINUTE


async def test_waiting_is_neither_a_refresh_nor_a_failure_of_one(tmp_path: Path) -> None:
    async with world(tmp_path, account(name="waiting", grant="DeviceCode"), session=device_session()) as w:
        for given in (PENDING, PENDING, answer()):
            w.now = await w.reconcile()
            await w.reconcile(given)
        counts = [metrics.TOKEN_REFRESHES.labels("waiting", word)._value.get() for word in ("failure", "success")]
        assert counts == [0, 1]


async def test_a_dead_grant_is_revived_by_a_device_login(tmp_path: Path) -> None:
    dead = credential(generation=7, dead="GrantRevoked", expires_in=-MINUTE)
    async with world(tmp_path, BY_DEVICE, credential=dead, session=device_session()) as w:
        w.now = await w.reconcile()
        assert w.reason("Ready") == "LoginRequired"
        await w.reconcile(answer())
        assert (w.credential.generation, w.credential.dead, w.reason("Ready")) == (8, None, "Available")


async def test_a_damaged_credential_asks_for_a_device_login_once_and_not_again_after_it_was_denied(
    tmp_path: Path,
) -> None:
    async with world(tmp_path, BY_DEVICE, credential=credential()) as w:
        await w.reconcile()
        (w.store.state_dir / UID / "credential.json").write_text("{")
        w.endpoint.authorizations = [device_authorization()]
        w.now = await w.reconcile()
        assert (w.reason("LoginRequired"), "status.login.userCode" in message(w, "LoginRequired")) == (
            "StateCorrupt",
            True,
        )
        await w.reconcile(AuthorizationEnded(has_expired=False))
        await w.reconcile()  # with nothing to answer, another login would fail here
        assert w.reason("LoginRequired") == "AccessDenied"


# --- in turn with all other requests ---------------------------------------------------------------------------------


async def test_a_provider_that_has_enough_of_logins_is_spared_by_all_its_accounts(tmp_path: Path) -> None:
    enough = TokenEndpointUnavailable("answered 429", may_be_done=False, is_throttled=True)
    async with world(tmp_path, BY_DEVICE, session=device_session()) as w:
        w.now = await w.reconcile()
        await w.reconcile(enough)
        with pytest.raises(ProviderHeld):
            async with w.throttle.turn("anthropic", "another account"):
                pass


async def test_no_login_is_opened_or_asked_about_at_a_provider_that_has_asked_us_to_wait(tmp_path: Path) -> None:
    async with world(tmp_path, BY_DEVICE) as w:
        w.throttle.hold("anthropic", NOW + MINUTE)
        w.endpoint.authorizations = [device_authorization()]
        w.now = await w.reconcile()
        assert "authorize device" not in w.steps
        w.now = await w.reconcile()
        assert "authorize device" in w.steps
        w.throttle.hold("anthropic", w.now + MINUTE)
        await w.reconcile()
        assert w.endpoint.sent == []


async def test_an_operator_that_must_not_begin_anything_asks_nobody(tmp_path: Path) -> None:
    async with world(tmp_path, BY_DEVICE, session=device_session()) as w:
        w.now = await w.reconcile()
        w.throttle.close()
        await w.reconcile()
        assert (w.endpoint.sent, w.reason("LoginRequired")) == ([], "AwaitingDeviceApproval")
