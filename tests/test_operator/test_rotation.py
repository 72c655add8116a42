"""The life of a token, when something raises, hangs or lies: it costs one account a delay, and no token ever."""

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from datetime import timedelta
from pathlib import Path
from types import MethodType
from typing import Any

import msgspec
import pytest

from oauth_pool_operator import removal, rotation
from oauth_pool_operator.account.documents import Credential, Journal, LoginSession, Remark
from oauth_pool_operator.account.facts import NEVER
from oauth_pool_operator.account.spec import (
    CODE_ANNOTATION,
    FINALIZER,
    LOGIN_ANNOTATION,
    LOGOUT_ANNOTATION,
    REFRESH_ANNOTATION,
    Account,
    parse_account,
    parse_reports,
)
from oauth_pool_operator.errors import (
    ClusterUnavailable,
    ExchangeRejected,
    GrantRejected,
    StoreFailed,
    TokenEndpointUnavailable,
    UnusableAnswer,
)
from oauth_pool_operator.oauth.answer import TokenAnswer
from oauth_pool_operator.setbacks import SECOND_OPINION
from tests.support.builders import NOW, UID, account, answer, credential, device_session, handed_over, report, session
from tests.test_operator.test_reconcile import (
    DEAD,
    DUE,
    EXPIRED,
    GOOD_CODE,
    LOST,
    NOT_REACHED,
    REFUSED,
    RecordedStore,
    World,
    until,
    world,
)

SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)
BUSY = TokenEndpointUnavailable("answered 429", may_be_done=False, retry_after=HOUR, is_throttled=True)
SERVER_ERROR = TokenEndpointUnavailable("the token endpoint answered 503", may_be_done=True)


def message(w: World, kind: str) -> str:
    conditions = w.cluster.object.status["conditions"]
    return next((str(entry["message"]) for entry in conditions if entry["type"] == kind), "")


async def asked(w: World) -> asyncio.Event:
    """A rotation is under way and its request is with the provider, which answers when the event is set."""
    gate, is_asked = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        is_asked.set()
        await gate.wait()

    w.endpoint.meanwhile = hold
    await w.look()
    async with asyncio.timeout(10):
        await is_asked.wait()
    return gate


# --- what raises -----------------------------------------------------------------------------------------------------

FAR = "9999-12-31T23:59:59-12:00"
EARLY = "0001-01-01T00:00:00+12:00"
LIES = [
    pytest.param(
        {"windows": [{"name": "5h", "utilization": 0.5, "resetTime": FAR}]}, id="a window that never starts anew"
    ),
    pytest.param({"windows": [{"name": "5h", "resetTime": EARLY}]}, id="a window from before all time"),
    pytest.param({"observedTime": EARLY, "reason": "QuotaExhausted"}, id="seen before all time"),
    pytest.param({"observedTime": FAR, "reason": "QuotaExhausted"}, id="seen after all time"),
    pytest.param({"untilTime": FAR, "reason": "RateLimited"}, id="until the end of time"),
    pytest.param({"untilTime": EARLY, "reason": "RateLimited"}, id="until before all time"),
]


@pytest.mark.parametrize("lie", LIES)
async def test_no_instant_of_a_report_costs_a_refresh_in_flight_or_the_status(
    tmp_path: Path, lie: dict[str, Any]
) -> None:
    async with world(tmp_path, credential=DUE) as w:
        gate = await asked(w)
        entry = {"reporter": "proxy-a", "observedTime": "2026-11-20T12:00:00Z", "tokenGeneration": 1, **lie}
        w.observed_meanwhile(reports=parse_reports([entry]))
        await w.look()
        w.endpoint.answers = [answer()]
        gate.set()
        await w.reconcile()
        assert (w.credential.refresh_token, w.cluster.object.status["token"]["generation"]) == (
            "refresh-token-2-of-a-test",
            2,
        )


@pytest.mark.parametrize("part", ["status", "index", "reports removed", "annotation removed"])
@pytest.mark.parametrize(
    "error",
    [
        pytest.param(KeyError("Content-Type"), id="an answer without Content-Type"),
        pytest.param(msgspec.ValidationError("a newer object"), id="an object of a newer version"),
        pytest.param(RuntimeError("a mistake of ours"), id="a mistake of ours"),
    ],
)
async def test_whatever_is_raised_while_a_request_is_in_flight_its_answer_is_stored(
    tmp_path: Path, part: str, error: Exception
) -> None:
    old = report(reporter="gone", observed_time=NOW - 3 * HOUR, until_time=NOW - 2 * HOUR)
    async with world(tmp_path, credential=DUE) as w:
        gate = await asked(w)
        w.observed_meanwhile(annotations={CODE_ANNOTATION: GOOD_CODE}, reports=[old, report(until=HOUR)])
        w.cluster.failures[part] = error
        with pytest.raises(type(error)):
            await w.look()
        w.endpoint.answers = [answer()]
        gate.set()
        w.cluster.failures.clear()
        await w.reconcile()
        assert w.credential.refresh_token == "refresh-token-2-of-a-test"


@pytest.mark.parametrize("part", ["finalizers", "annotation removed", "status", "index"])
async def test_an_api_server_that_raises_anything_at_all_does_not_delay_a_refresh(tmp_path: Path, part: str) -> None:
    pasted = account(annotations={CODE_ANNOTATION: GOOD_CODE}, finalizers=(FINALIZER,))
    async with world(tmp_path, pasted, credential=DUE) as w:
        w.cluster.failures[part] = KeyError("Content-Type")
        with suppress(KeyError):
            await w.reconcile(answer())
        assert w.credential.generation == 2


async def test_an_error_that_nobody_expects_before_the_request_spends_nothing_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path, credential=DUE) as w:

        def fails(uid: str, journal: Journal | None) -> None:
            raise RuntimeError("a mistake of ours")

        with monkeypatch.context() as patch:
            patch.setattr(w.store, "begin_exchange", as_method(w.store, "begin_exchange", fails))
            w.now = await w.reconcile()
        assert (w.endpoint.sent, w.reason("RefreshFailing"), w.now) == ([], "UnexpectedFailure", NOW + SECOND)
        await w.reconcile(answer())
        assert (w.credential.generation, w.reason("RefreshFailing")) == (2, None)


async def test_an_error_that_nobody_expects_of_the_request_leaves_the_journal_because_the_token_may_be_spent(
    tmp_path: Path,
) -> None:
    async with world(tmp_path, credential=DUE) as w:
        w.now = await w.reconcile(RuntimeError("a mistake of ours"))
        assert w.store.journal(UID) is not None
        await w.reconcile(answer())
        assert (w.credential.generation, w.store.journal(UID)) == (2, None)


async def test_an_error_that_nobody_expects_while_the_answer_is_stored_does_not_lose_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rotation, "SAVE_RETRY_SECONDS", 0)
    async with world(tmp_path, credential=DUE) as w:
        save, failures = w.store.save_credential, [RuntimeError(), KeyError(), StoreFailed("gone")]

        def fails_first(uid: str, given: Credential, *, replaces: int) -> None:
            if failures:
                raise failures.pop()
            save(uid, given, replaces=replaces)

        monkeypatch.setattr(w.store, "save_credential", as_method(w.store, "save_credential", fails_first))
        await w.reconcile(answer())
        assert (w.credential.refresh_token, w.store.rescued(UID)) == ("refresh-token-2-of-a-test", {})


async def test_an_answer_that_meets_a_newer_credential_is_kept_beside_it_and_reported(tmp_path: Path) -> None:
    imported = credential(generation=2, refresh_token="imported", access_token="imported")
    async with world(tmp_path, credential=DUE) as w:

        async def somebody_imports() -> None:
            w.store.save_credential(UID, imported, replaces=1)

        w.endpoint.meanwhile = somebody_imports
        await w.reconcile(answer())
        assert w.credential == imported
        ((name, kept),) = w.store.rescued(UID).items()
        assert kept.refresh_token == "refresh-token-2-of-a-test"
        assert (w.reason("StorageFailing"), name in message(w, "StorageFailing")) == ("TokenRescued", True)
        assert (w.reason("Ready"), w.published()["generation"]) == ("Available", 2)


async def test_an_answer_that_only_fits_beside_takes_its_place_in_the_next_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path, credential=DUE) as w:
        w.store.failures = 10**6
        w.endpoint.answers = [answer()]
        await w.look()
        await until(lambda: bool(w.store.rescued(UID)))
        killed = w.reconciler
        for task in asyncio.all_tasks():
            if task.get_name().startswith("rotation"):
                task.cancel()
        w.store.failures = 0
        w.restart()
        assert w.reconciler is not killed
        await w.reconcile()
        assert (w.credential.refresh_token, w.store.rescued(UID)) == ("refresh-token-2-of-a-test", {})
        assert w.endpoint.sent == ["refresh-token-of-a-test"]
        assert (w.reason("Ready"), w.published()["generation"]) == ("Available", 2)


async def test_the_refresh_token_of_an_answer_is_kept_although_its_access_token_is_of_no_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rotation, "SAVE_RETRY_SECONDS", 0)
    unusable = UnusableAnswer("a token_type that is not Bearer", refresh_token="refresh-token-2-of-a-test")
    async with world(tmp_path, credential=DUE) as w:
        w.store.failures = 1
        w.now = await w.reconcile(unusable)
        kept = w.credential
        assert (kept.generation, kept.refresh_token) == (1, "refresh-token-2-of-a-test")
        assert (kept.previous_refresh_token, w.store.journal(UID)) == ("refresh-token-of-a-test", None)
        assert (w.reason("Ready"), w.reason("RefreshFailing")) == ("Available", "ExchangeRejected")
        await w.reconcile(answer(3))
        assert w.endpoint.sent == ["refresh-token-of-a-test", "refresh-token-2-of-a-test"]
        assert (w.credential.generation, w.reason("RefreshFailing"), w.store.rescued(UID)) == (2, None, {})


async def test_a_refresh_token_that_only_fits_beside_takes_its_place_in_the_next_life(tmp_path: Path) -> None:
    unusable = UnusableAnswer("a token_type that is not Bearer", refresh_token="refresh-token-2-of-a-test")
    async with world(tmp_path, credential=DUE) as w:
        w.store.failures = 10**6
        w.endpoint.answers = [unusable]
        await w.look()
        await until(lambda: bool(w.store.rescued(UID)))
        for task in asyncio.all_tasks():
            if task.get_name().startswith("rotation"):
                task.cancel()
        w.store.failures = 0
        w.restart()
        await w.reconcile(answer(3))
        assert w.endpoint.sent == ["refresh-token-of-a-test", "refresh-token-2-of-a-test"]
        assert (w.credential.generation, w.store.rescued(UID)) == (2, {})


async def test_what_was_odd_about_an_answer_is_told_until_another_one_comes(tmp_path: Path) -> None:
    odd = Remark("ScopeNarrowed", "missing: inference")
    async with world(tmp_path, credential=DUE) as w:
        await w.reconcile(answer(remarks=(odd,)))
        w.restart()
        await w.reconcile()
        assert (w.reason("TokenAnswerOdd"), message(w, "TokenAnswerOdd")) == ("ScopeNarrowed", "missing: inference")
        w.now += 8 * HOUR
        await w.reconcile(answer(3))
        assert w.reason("TokenAnswerOdd") is None


# --- a login that nobody can complete --------------------------------------------------------------------------------

OF_ALICE = account(expected_subject="alice@example.com")
OF_ALICE_S_DEVICE = account(grant="DeviceCode", expected_subject="alice@example.com")


def names_nobody(w: World) -> None:
    profile = w.profiles["anthropic"]
    assert profile.authorization_code is not None and profile.device_code is not None
    w.profiles["anthropic"] = msgspec.structs.replace(
        profile,
        authorization_code=msgspec.structs.replace(profile.authorization_code, subject_claim=None),
        device_code=msgspec.structs.replace(profile.device_code, subject_claim=None),
    )


@pytest.mark.parametrize("of", [OF_ALICE, OF_ALICE_S_DEVICE], ids=["with a code", "on a device"])
@pytest.mark.parametrize("had", [None, credential(dead="GrantRevoked", expires_in=-MINUTE)], ids=["new", "dead"])
async def test_a_login_whose_subject_cannot_be_checked_is_not_opened(
    tmp_path: Path, of: Account, had: Credential | None
) -> None:
    of = msgspec.structs.replace(of, annotations={LOGIN_ANNOTATION: "1"})
    async with world(tmp_path, of, credential=had) as w:
        names_nobody(w)
        await w.reconcile()
        assert (w.reason("Ready"), w.reason("Stalled"), w.reason("LoginRequired")) == (
            *("InvalidSpec", "InvalidSpec"),
            "NotRequired",
        )
        assert (w.store.session(UID), w.steps_of("authorize device")) == (None, [])


@pytest.mark.parametrize("of", [OF_ALICE, OF_ALICE_S_DEVICE], ids=["with a code", "on a device"])
async def test_an_account_that_works_goes_on_when_the_subject_of_its_next_login_cannot_be_checked(
    tmp_path: Path, of: Account
) -> None:
    of = msgspec.structs.replace(of, annotations={LOGIN_ANNOTATION: "1"})
    async with world(tmp_path, of, credential=DUE) as w:
        names_nobody(w)
        await w.reconcile(answer())
        assert (w.reason("Ready"), w.reason("LoginFailing"), w.credential.generation) == ("Available", "InvalidSpec", 2)
        assert (w.store.session(UID), w.steps_of("authorize device")) == (None, [])


# --- what fails: each subject by itself ------------------------------------------------------------------------------


async def test_a_code_that_the_provider_cannot_take_stops_no_refresh_of_an_account_that_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pasted = account(annotations={CODE_ANNOTATION: GOOD_CODE})
    async with world(tmp_path, pasted, credential=credential(expires_in=12 * MINUTE), session=session()) as w:
        codes = 0

        async def cannot_take(code: str, session: LoginSession) -> TokenAnswer:
            nonlocal codes
            codes += 1
            raise SERVER_ERROR

        monkeypatch.setattr(w.endpoint, "exchange_code", cannot_take)
        w.endpoint.answers = [answer()]
        while w.now < NOW + 20 * MINUTE:
            w.now = min(await w.reconcile(), w.now + MINUTE)
            assert w.reason("Ready") == "Available"
        assert (w.credential.generation, codes > 5) == (2, True)


async def test_a_code_is_sent_no_more_when_its_login_is_over_and_the_person_is_told(tmp_path: Path) -> None:
    async with world(tmp_path, account(annotations={CODE_ANNOTATION: GOOD_CODE}), session=session()) as w:
        while w.now < NOW + 10 * MINUTE:
            w.now = await w.reconcile(SERVER_ERROR)
        w.endpoint.answers.clear()
        await w.reconcile()
        assert (w.session.code, w.reason("LoginRequired")) == (None, "LoginExpired")
        assert "did not accept the code" in message(w, "LoginRequired")
        assert w.reason("LoginFailing") is None


async def test_a_refresh_that_has_to_wait_holds_up_no_fresh_code(tmp_path: Path) -> None:
    async with world(tmp_path, credential=EXPIRED, session=session()) as w:
        await w.reconcile(LOST)
        w.observed(annotations={CODE_ANNOTATION: GOOD_CODE})
        await w.reconcile(answer(), answer())
        assert w.endpoint.sent[1].startswith("the-code")
        assert (w.reason("Ready"), w.reason("RefreshFailing")) == ("Available", None)


async def test_troubles_have_conditions_of_their_own_and_the_worst_is_the_summary(tmp_path: Path) -> None:
    pasted = account(annotations={CODE_ANNOTATION: GOOD_CODE})
    async with world(tmp_path, pasted, credential=DUE, session=session()) as w:
        w.now = await w.reconcile(SERVER_ERROR, REFUSED)
        assert (w.reason("LoginFailing"), w.reason("RefreshFailing")) == ("Exchanging", "ExchangeRejected")
        assert (w.reason("Stalled"), w.reason("Reconciling")) == ("ExchangeRejected", None)
        await w.reconcile(answer())
        assert {w.reason(kind) for kind in ("LoginFailing", "RefreshFailing", "Stalled")} == {None}


async def test_conditions_of_others_stay(tmp_path: Path) -> None:
    theirs = {"type": "example.com/Audited", "status": "True", "reason": "Yes", "message": ""}
    async with world(tmp_path, account(status={"conditions": [theirs]}), credential=credential()) as w:
        await w.reconcile()
        assert (w.reason("Ready"), w.reason("example.com/Audited")) == ("Available", "Yes")


# --- the right to spend ----------------------------------------------------------------------------------------------


async def test_the_right_to_spend_is_looked_at_after_the_disk_and_right_before_the_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path, credential=DUE) as w:
        leads = True
        w.throttle._may_spend = lambda: leads
        begin = w.store.begin_exchange

        def takes_its_time(uid: str, journal: Journal | None) -> None:
            nonlocal leads
            begin(uid, journal)
            leads = False

        monkeypatch.setattr(w.store, "begin_exchange", as_method(w.store, "begin_exchange", takes_its_time))
        w.now = await w.reconcile()
        assert (w.endpoint.sent, w.reason("Stalled"), w.reason("Reconciling")) == ([], None, None)
        assert w.now <= NOW + 5 * SECOND  # and it is not forgotten
        monkeypatch.setattr(w.store, "begin_exchange", begin)
        leads = True
        await w.reconcile(answer())
        assert w.credential.generation == 2


async def test_a_provider_has_its_time_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rotation, "SPARE_SECONDS", 0)
    async with world(tmp_path, credential=DUE) as w:
        w.profiles["anthropic"] = msgspec.structs.replace(w.profiles["anthropic"], timeout_secs=0.05)

        async def drips() -> None:
            await asyncio.Event().wait()

        w.endpoint.meanwhile = drips
        await w.reconcile()
        assert "did not answer within 0.05 s" in message(w, "RefreshFailing")
        assert w.store.journal(UID) is not None  # it may have been carried out


# --- what lies: a grant that is said to be dead ----------------------------------------------------------------------


async def test_one_invalid_grant_is_asked_about_once_more_before_anybody_has_to_log_in(tmp_path: Path) -> None:
    async with world(tmp_path, credential=EXPIRED) as w:
        w.now = await w.reconcile(DEAD)
        assert w.now == NOW + SECOND_OPINION
        assert (w.reason("LoginRequired"), w.reason("RefreshFailing")) == ("NotRequired", "GrantDoubted")
        await w.reconcile(answer())
        assert w.endpoint.sent == ["refresh-token-of-a-test"] * 2
        assert (w.credential.dead, w.reason("Ready"), w.cluster.events) == (None, "Available", ["TokenObtained"])


async def test_the_second_opinion_is_not_forgotten_by_a_restart(tmp_path: Path) -> None:
    async with world(tmp_path, credential=credential()) as w:
        w.observed(annotations={REFRESH_ANNOTATION: "1"})
        w.now = await w.reconcile(DEAD)
        w.restart()
        await w.reconcile(DEAD)
        assert w.credential.dead == "GrantRevoked"
        assert len(w.endpoint.sent) == 2


async def test_an_access_token_that_works_is_used_until_it_expires_also_when_its_grant_is_dead(tmp_path: Path) -> None:
    token = credential(expires_in=90 * MINUTE)
    async with world(tmp_path, credential=token) as w:
        w.now = NOW
        await w.bury()
        assert (w.reason("Ready"), w.reason("LoginRequired")) == ("Available", "GrantRevoked")
        assert (w.published()["status"], w.published()["generation"], w.store.access(UID) is not None) == (
            "Available",
            1,
            True,
        )
        due = await w.reconcile()
        assert due == token.expires
        w.now = due
        await w.reconcile()
        assert (w.reason("Ready"), w.published()["status"], w.store.access(UID)) == ("Disabled", "Disabled", None)
        assert w.cluster.events == ["TokenObtained", "GrantRevoked", "Disabled"]


async def test_an_access_token_whose_grant_is_dead_is_used_no_more_when_it_is_refused(tmp_path: Path) -> None:
    async with world(tmp_path, credential=credential(dead="GrantRevoked")) as w:
        await w.reconcile()
        assert w.reason("Ready") == "Available"
        w.observed(reports=[report("Unauthorized")])
        await w.reconcile()
        assert (w.reason("Ready"), w.published()["status"], w.store.access(UID)) == ("Disabled", "Disabled", None)


@pytest.mark.parametrize("word", ["", "invalid_request"])
async def test_refusals_in_no_known_words_ask_for_a_login_beside_what_else_may_be_wrong(
    tmp_path: Path, word: str
) -> None:
    refused = ExchangeRejected("the token endpoint answered 400 (an unknown error)", word=word)
    async with world(tmp_path, credential=EXPIRED) as w:
        while w.now < NOW + 2 * MINUTE:
            assert w.reason_or_none("LoginRequired") in (None, "NotRequired")
            w.now = await w.reconcile(refused)
        await w.reconcile(refused)
        assert (w.reason("LoginRequired"), w.reason("Stalled")) == ("RefreshRefused", "ExchangeRejected")
        says = message(w, "LoginRequired")
        assert LOGIN_ANNOTATION in says and "fix the profile of provider anthropic" in says
        w.observed(annotations={LOGIN_ANNOTATION: "1"})
        await w.reconcile()
        assert "status.login.authorizationURL" in message(w, "LoginRequired")


async def test_refusals_that_blame_the_client_ask_nobody_to_log_in(tmp_path: Path) -> None:
    refused = ExchangeRejected("the token endpoint answered 401 invalid_client", word="invalid_client")
    async with world(tmp_path, credential=EXPIRED) as w:
        while w.now < NOW + 10 * MINUTE:
            w.now = await w.reconcile(refused)
        assert (w.reason("LoginRequired"), w.reason("Stalled")) == ("NotRequired", "ExchangeRejected")


# --- a provider that has asked us to wait ----------------------------------------------------------------------------


async def test_no_token_expires_without_one_last_try_whatever_the_provider_has_asked_for(tmp_path: Path) -> None:
    async with world(tmp_path, credential=DUE) as w:
        w.now = await w.reconcile(BUSY)
        assert w.now == DUE.expires - 30 * SECOND
        w.now = await w.reconcile(BUSY)
        assert len(w.endpoint.sent) == 2
        assert w.now == DUE.expires
        due = await w.reconcile()
        assert (len(w.endpoint.sent), w.reason("Ready"), due) == (2, "Refreshing", DUE.expires - 30 * SECOND + HOUR)


async def test_what_one_account_is_told_holds_up_another_for_minutes_only(tmp_path: Path) -> None:
    async with world(tmp_path, credential=credential(expires_in=30 * MINUTE)) as w:
        w.throttle.hold("anthropic", NOW + 20 * HOUR)  # told to another account
        w.now = await w.reconcile()
        assert w.now <= NOW + 5 * MINUTE + 10 * SECOND
        assert w.endpoint.sent == []
        await w.reconcile(answer())
        assert w.credential.generation == 2


async def test_an_account_that_waits_because_it_was_told_to_says_until_when_and_how_to_end_it(tmp_path: Path) -> None:
    async with world(tmp_path, credential=EXPIRED) as w:
        await w.reconcile(BUSY)
        assert w.reason("ProviderHeld") == "AskedToWait"
        says = message(w, "ProviderHeld")
        assert "2026-11-20T13:00:00Z" in says and REFRESH_ANNOTATION in says
        assert w.throttle.holds() == {"anthropic": NOW + 5 * MINUTE}


async def test_a_wait_that_a_provider_asked_for_survives_a_restart(tmp_path: Path) -> None:
    async with world(tmp_path, credential=EXPIRED) as w:
        await w.reconcile(BUSY)
        for _ in range(3):  # a crash loop
            w.restart()
            w.now += MINUTE
            assert await w.reconcile() == NOW + HOUR
        assert len(w.endpoint.sent) == 1
        assert w.throttle.held_until("anthropic") is not None
        assert w.reason("ProviderHeld") == "AskedToWait"
        w.now = NOW + HOUR
        await w.reconcile(answer())
        assert (w.credential.generation, w.store.waits(UID)) != (1, None)
        w.restart()
        await w.reconcile()
        assert w.reason("ProviderHeld") is None


async def test_a_backoff_goes_on_after_a_restart_where_it_was(tmp_path: Path) -> None:
    async with world(tmp_path, credential=EXPIRED) as w:
        for _ in range(6):
            w.now = await w.reconcile(LOST)
        w.restart()
        assert await w.reconcile(LOST) == w.now + 64 * SECOND


async def test_a_forced_refresh_is_not_forgotten_by_a_restart(tmp_path: Path) -> None:
    async with world(tmp_path, account(reports=(report("Unauthorized"),)), credential=credential()) as w:
        await w.reconcile(answer())
        w.restart()
        w.observed(reports=[report("Unauthorized", token_generation=2)])
        w.now += MINUTE
        assert await w.reconcile() == NOW + 5 * MINUTE
        assert w.credential.generation == 2


# --- clocks ----------------------------------------------------------------------------------------------------------


async def test_a_refresh_that_fails_is_logged_in_the_words_that_the_runbook_looks_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with world(tmp_path, credential=DUE) as w:
        await w.reconcile(SERVER_ERROR)
        assert f"{w.cluster.object.name}: no new access token: " in caplog.text


@pytest.mark.parametrize("given", [LOST, BUSY, NOT_REACHED], ids=["backoff", "hold", "not reached"])
async def test_a_clock_that_was_ahead_holds_nothing_when_it_is_set_right(tmp_path: Path, given: Exception) -> None:
    async with world(tmp_path, credential=EXPIRED) as w:
        w.now = NOW + 6 * HOUR
        await w.reconcile(given)
        w.now = NOW
        await w.reconcile(answer())
        assert w.credential.generation == 2


async def test_a_token_that_was_obtained_by_a_clock_that_was_ahead_is_refreshed_at_once(tmp_path: Path) -> None:
    ahead = credential(expires_in=14 * HOUR, lifetime=8 * HOUR)  # nobody knows when it ends
    async with world(tmp_path, credential=ahead) as w:
        await w.reconcile(answer())
        assert w.credential.expires == NOW + 8 * HOUR


async def test_a_device_s_login_is_asked_about_in_time_when_the_clock_is_set_back(tmp_path: Path) -> None:
    async with world(tmp_path, account(grant="DeviceCode"), session=device_session()) as w:
        w.now = NOW + MINUTE
        await w.reconcile()
        w.now = NOW
        assert await w.reconcile() == NOW + 5 * SECOND


# --- what hangs: deletions -------------------------------------------------------------------------------------------


def as_method(store: RecordedStore, name: str, function: Callable[..., object]) -> MethodType:
    """The function as the store's method of that name, by which its volume is known."""

    def method(_: RecordedStore, *arguments: Any, **keywords: Any) -> object:
        return function(*arguments, **keywords)

    method.__name__ = name
    return MethodType(method, store)


class HangingStore(RecordedStore):
    """One of its calls does not return before the test ends."""

    hangs = ""
    gate = threading.Event()

    def __getattribute__(self, name: str) -> Any:
        if name == super().__getattribute__("hangs"):
            return as_method(self, name, lambda *_, **__: self.gate.wait(60))
        return super().__getattribute__(name)


@pytest.mark.parametrize("policy", ["Revoke", "Retain"])
@pytest.mark.parametrize("hangs", ["remove_access", "remove_state", "credential", "retain", "end_import"])
async def test_a_deletion_ends_whatever_call_of_a_volume_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: str, hangs: str
) -> None:
    monkeypatch.setattr(removal, "REMOVAL_SECONDS", 0.2)
    monkeypatch.setattr(removal, "REMOVAL_RETRY", timedelta(0))
    monkeypatch.setattr(removal.Step, "__new__", _quick(removal.Step.__new__))
    HangingStore.gate.clear()
    monkeypatch.setattr("tests.test_operator.test_reconcile.RecordedStore", HangingStore)
    gone = account(deleting=True, finalizers=(FINALIZER,), deletion_policy=policy)
    async with world(tmp_path, gone, credential=credential()) as w:
        w.reconciler._removal._elapsed = time.monotonic
        w.endpoint.answers = [answer()] * 5
        monkeypatch.setattr(HangingStore, "hangs", hangs)
        try:
            while await w.look() != NEVER:
                pass
            assert FINALIZER not in w.cluster.object.finalizers
            assert hangs == "credential" or policy == "Retain" or "refresh-token-of-a-test" in w.endpoint.sent
        finally:
            HangingStore.gate.set()


def _quick(new: Any) -> Any:
    return lambda kind, do, last_seconds=0.1: new(kind, do, 0.1)


async def test_a_deletion_calls_off_what_waits_for_its_turn(tmp_path: Path) -> None:
    async with world(tmp_path, credential=DUE) as w:
        async with AsyncExitStack() as others:
            for _ in range(4):
                await others.enter_async_context(w.throttle.turn("anthropic", "another"))
            await w.look()
            w.deleted_meanwhile()
            w.endpoint.answers = [answer()]
            assert await w.look() == NEVER
        assert w.endpoint.sent == ["refresh-token-of-a-test"]  # revoked, and never refreshed
        assert "refresh" not in w.steps


async def test_an_answer_that_comes_after_its_account_is_gone_is_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(removal, "REMOVAL_SECONDS", 0)
    monkeypatch.setattr(removal.Step, "__new__", _quick(removal.Step.__new__))
    async with world(tmp_path, credential=DUE) as w:
        gate = await asked(w)
        w.deleted_meanwhile()
        w.endpoint.answers = [answer(), answer()]
        assert await w.look() == NEVER
        w.endpoint.meanwhile = None
        gate.set()
        await w.reconciler.rotations.ended(UID)
        assert w.endpoint.sent[-1] == "refresh-token-2-of-a-test"
        assert w.steps[-1] == "revoke"
        assert not (w.store.state_dir / UID / "credential.json").exists()


async def test_a_request_in_flight_is_not_cancelled_by_a_deletion_and_what_it_brings_is_revoked(tmp_path: Path) -> None:
    async with world(tmp_path, credential=DUE) as w:
        gate = await asked(w)
        w.deleted_meanwhile()
        w.endpoint.answers = [answer(), answer()]
        removing = asyncio.create_task(w.look())
        await until(lambda: w.steps[-1:] == ["access file removed"] or "index" in w.steps)
        w.endpoint.meanwhile = None
        gate.set()
        assert await removing == NEVER
        assert w.endpoint.sent == ["refresh-token-of-a-test", "refresh-token-2-of-a-test"]


# --- an object that this operator cannot read ------------------------------------------------------------------------


def strange(**spec: Any) -> Account:
    members = {"provider": "anthropic", "grant": "AuthorizationCode", **spec}
    body = {
        "metadata": {
            "name": "claude-1",
            "namespace": "pool",
            "uid": UID,
            "resourceVersion": "1",
            "finalizers": [FINALIZER],
        },
        "spec": members,
    }
    return parse_account(body)


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param({"grant": "TokenExchange"}, id="a grant to come"),
        pytest.param({"deletionPolicy": "Archive"}, id="a policy to come"),
        pytest.param({"cooldown": "2 days"}, id="a duration to come"),
        pytest.param({"weight": {"5h": 1}}, id="a type to come"),
    ],
)
async def test_an_object_that_this_operator_cannot_read_says_so_and_can_be_deleted(
    tmp_path: Path, spec: dict[str, Any]
) -> None:
    async with world(tmp_path, strange(**spec), credential=DUE) as w:
        await w.reconcile()
        assert (w.reason("Stalled"), w.reason("Ready"), w.endpoint.sent) == ("InvalidSpec", "InvalidSpec", [])
        assert "this operator cannot read its spec" in message(w, "Stalled")
        w.observed(deleting=True)
        assert await w.reconcile(answer()) == NEVER
        assert FINALIZER not in w.cluster.object.finalizers


async def test_nothing_is_given_back_by_a_deletion_policy_that_this_operator_does_not_know(tmp_path: Path) -> None:
    gone = msgspec.structs.replace(strange(deletionPolicy="Archive"), deleting=True)
    async with world(tmp_path, gone, credential=credential()) as w:
        assert await w.reconcile() == NEVER
        assert (w.endpoint.sent, w.store.credential(UID)) == ([], credential())


# --- what a person asks for ------------------------------------------------------------------------------------------


async def test_a_refresh_is_made_now_once_for_every_new_value(tmp_path: Path) -> None:
    async with world(tmp_path, credential=credential()) as w:
        for number, value in enumerate(("one", "two"), start=2):
            w.observed(annotations={REFRESH_ANNOTATION: value})
            await w.reconcile(answer(number))
            await w.reconcile()
            assert (w.credential.generation, w.cluster.object.status["lastHandledRefreshRequest"]) == (number, value)


async def test_a_refresh_that_is_asked_for_ends_what_the_provider_asked_for(tmp_path: Path) -> None:
    async with world(tmp_path, credential=EXPIRED) as w:
        await w.reconcile(BUSY)
        w.observed(annotations={REFRESH_ANNOTATION: "1"})
        await w.reconcile(answer())
        assert (w.credential.generation, w.reason("ProviderHeld")) == (2, None)
        assert w.throttle.holds() == {"anthropic": None}


async def test_a_refresh_that_is_asked_for_and_fails_is_answered_all_the_same_and_tried_again_later(
    tmp_path: Path,
) -> None:
    async with world(tmp_path, account(annotations={REFRESH_ANNOTATION: "1"}), credential=EXPIRED) as w:
        due = await w.reconcile(NOT_REACHED)
        assert (due, w.cluster.object.status["lastHandledRefreshRequest"]) == (NOW + SECOND, "1")
        assert (w.reason("RefreshFailing"), len(w.endpoint.sent)) == ("Refreshing", 1)


async def test_a_refresh_that_is_asked_for_and_fails_says_so_and_goes_on_although_the_token_is_good(
    tmp_path: Path,
) -> None:
    async with world(tmp_path, account(annotations={REFRESH_ANNOTATION: "1"}), credential=credential()) as w:
        w.now = await w.reconcile(REFUSED)
        assert (w.now, w.reason("Ready")) == (NOW + SECOND, "Available")
        assert (w.reason("RefreshFailing"), w.reason("Stalled")) == ("ExchangeRejected", "ExchangeRejected")
        await w.reconcile(answer())
        assert (w.credential.generation, w.reason("RefreshFailing"), w.reason("Stalled")) == (2, None, None)


async def test_a_grant_that_was_called_dead_by_mistake_lives_when_somebody_asks_for_a_refresh(tmp_path: Path) -> None:
    async with world(tmp_path, credential=credential(dead="GrantRevoked", expires_in=-HOUR)) as w:
        await w.reconcile()
        assert w.reason("Ready") == "Disabled"
        w.observed(annotations={REFRESH_ANNOTATION: "1"})
        await w.reconcile(answer())
        assert (w.credential.dead, w.reason("Ready"), w.reason("LoginRequired")) == (None, "Available", "NotRequired")


async def test_a_refresh_that_is_asked_for_without_anything_to_refresh_with_is_answered(tmp_path: Path) -> None:
    async with world(tmp_path, account(annotations={REFRESH_ANNOTATION: "1"})) as w:
        await w.reconcile()
        assert (w.cluster.object.status["lastHandledRefreshRequest"], w.endpoint.sent) == ("1", [])


async def test_a_logout_takes_the_account_out_of_use_first_and_then_gives_its_grant_back(tmp_path: Path) -> None:
    async with world(tmp_path, credential=credential()) as w:
        await w.reconcile()
        w.observed(annotations={LOGOUT_ANNOTATION: "1"})
        await w.reconcile(answer())
        assert w.endpoint.sent == ["refresh-token-of-a-test"]
        assert (w.credential.dead, w.credential.refresh_token, w.credential.to_revoke) == ("LoggedOut", None, ())
        assert (w.reason("Ready"), w.reason("LoginRequired")) == ("Disabled", "LoggedOut")
        assert (w.published()["status"], w.store.access(UID)) == ("Disabled", None)
        assert w.cluster.object.status["lastHandledLogoutRequest"] == "1"


async def test_a_logout_is_ended_by_the_next_life_and_a_new_login_revives_the_account(tmp_path: Path) -> None:
    async with world(tmp_path, account(annotations={LOGOUT_ANNOTATION: "1"}), credential=credential()) as w:
        await w.reconcile(NOT_REACHED)
        assert list(w.credential.to_revoke) == ["refresh-token-of-a-test"]
        w.restart()
        w.now += MINUTE
        w.observed(annotations={LOGOUT_ANNOTATION: "1", LOGIN_ANNOTATION: "1"})
        await w.reconcile(answer())
        assert w.endpoint.sent == ["refresh-token-of-a-test"] * 2
        state = w.session.state
        w.observed(annotations={LOGOUT_ANNOTATION: "1", CODE_ANNOTATION: f"code#{state}"})
        await w.reconcile(answer())
        assert (w.reason("Ready"), w.reason("RevocationFailing")) == ("Available", None)
        assert w.credential.to_revoke == ()


async def test_a_new_login_of_an_account_that_works_gives_the_grant_back_that_it_replaces(tmp_path: Path) -> None:
    pasted = account(annotations={CODE_ANNOTATION: GOOD_CODE})
    async with world(tmp_path, pasted, credential=credential(), session=session()) as w:
        await w.reconcile(answer(), answer())
        assert w.endpoint.sent == ["the-code verifier-of-a-test", "refresh-token-of-a-test"]
        assert (w.steps.index("revoke") > w.steps.index("credential"), w.credential.to_revoke) == (True, ())
        assert (w.credential.generation, w.reason("Ready")) == (2, "Available")


async def test_a_grant_that_is_replaced_stays_where_the_profile_says_so(tmp_path: Path) -> None:
    pasted = account(annotations={CODE_ANNOTATION: GOOD_CODE})
    async with world(tmp_path, pasted, credential=credential(), session=session()) as w:
        w.profiles["anthropic"] = msgspec.structs.replace(w.profiles["anthropic"], revoke_replaced_grants=False)
        await w.reconcile(answer())
        assert (w.endpoint.sent, w.reason("Ready")) == (["the-code verifier-of-a-test"], "Available")


@pytest.mark.parametrize("refusal", [REFUSED, GrantRejected("no such token")], ids=["refused", "unknown"])
async def test_a_replaced_grant_that_the_provider_does_not_take_back_troubles_nobody(
    tmp_path: Path, refusal: Exception
) -> None:
    pasted = account(annotations={CODE_ANNOTATION: GOOD_CODE})
    async with world(tmp_path, pasted, credential=credential(), session=session()) as w:
        await w.reconcile(answer(), refusal)
        assert (w.reason("Ready"), w.reason("RevocationFailing"), w.credential.to_revoke) == ("Available", None, ())


async def test_a_provider_that_cannot_take_a_grant_back_now_is_asked_again_and_nothing_else_waits(
    tmp_path: Path,
) -> None:
    async with world(tmp_path, credential=credential(to_revoke=("old",))) as w:
        w.now = await w.reconcile(NOT_REACHED)
        assert (w.reason("RevocationFailing"), w.reason("Reconciling")) == ("RevocationFailed", None)
        w.now = NOW + 6 * HOUR
        await w.reconcile(answer(), answer())
        assert w.endpoint.sent == ["old", "refresh-token-of-a-test", "old"]
        assert (w.credential.generation, w.credential.to_revoke) == (2, ())


# --- smaller promises ------------------------------------------------------------------------------------------------


async def test_a_login_without_a_refresh_token_announces_no_refresh(tmp_path: Path) -> None:
    async with world(tmp_path, credential=credential(refresh_token=None)) as w:
        await w.reconcile()
        assert "nextRefreshTime" not in w.cluster.object.status["token"]


async def test_room_for_a_device_s_login_is_reserved_once_and_not_at_every_question(tmp_path: Path) -> None:
    async with world(tmp_path, account(grant="DeviceCode"), session=device_session()) as w:
        rooms = 0
        for _ in range(3):
            w.now = await w.reconcile()
            await w.reconcile(NOT_REACHED)
            rooms += w.steps.count("room")
        assert rooms == 1


async def test_a_second_code_that_is_pasted_while_the_first_is_exchanged_is_not_taken_for_it(tmp_path: Path) -> None:
    async with world(tmp_path, account(annotations={CODE_ANNOTATION: GOOD_CODE}), session=session()) as w:
        gate = await asked(w)
        w.observed_meanwhile(annotations={CODE_ANNOTATION: "another#state-of-a-test"})
        await w.look()
        w.endpoint.meanwhile = None
        w.endpoint.answers = [DEAD, answer()]
        gate.set()
        await w.reconcile()
        assert [sent.split()[0] for sent in w.endpoint.sent] == ["the-code", "another"]
        assert w.reason("Ready") == "Available"


async def test_an_api_server_that_is_away_keeps_no_code_from_its_exchange(tmp_path: Path) -> None:
    pasted = account(annotations={CODE_ANNOTATION: GOOD_CODE})
    async with world(tmp_path, pasted, credential=EXPIRED) as w:
        w.cluster.failures["annotation removed"] = ConnectionResetError("not an HTTP error")
        with pytest.raises((ConnectionResetError, ClusterUnavailable)):
            await w.reconcile(answer())
        assert w.credential.generation == 2


async def test_a_volume_that_cannot_be_read_for_a_moment_does_not_make_a_wait_forgotten(tmp_path: Path) -> None:
    async with world(tmp_path, credential=EXPIRED) as w:
        await w.reconcile(BUSY)
        path = w.store.state_dir / UID / "credential.json"
        path.rename(tmp_path / "aside")
        path.mkdir()
        await w.reconcile()
        assert w.reason("Ready") == "StorageUnavailable"
        path.rmdir()
        (tmp_path / "aside").rename(path)
        w.now += MINUTE
        assert await w.reconcile() == NOW + HOUR
        assert len(w.endpoint.sent) == 1


async def test_what_is_sent_is_what_is_stored_whatever_a_step_before_has_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path, credential=DUE) as w:
        w.store.save_import(UID, handed_over())

        def fails(uid: str, given: object) -> None:
            raise RuntimeError("a mistake of ours")

        with monkeypatch.context() as patch:
            patch.setattr(w.store, "end_import", as_method(w.store, "end_import", fails))
            with pytest.raises(RuntimeError):
                await w.reconcile()
        await w.reconcile()
        assert (w.endpoint.sent, w.credential.refresh_token) == ([], "imported-refresh-token")
        assert w.store.rescued(UID) == {}
