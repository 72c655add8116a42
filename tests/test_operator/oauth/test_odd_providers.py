"""What an account does with a provider that is odd: nothing is lost, and a person reads what is the matter."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from oauth_pool_operator.account.documents import Remark
from oauth_pool_operator.account.spec import CODE_ANNOTATION
from oauth_pool_operator.errors import UnusableAnswer
from tests.support.builders import UID, account, answer, credential, session
from tests.test_operator.test_reconcile import DUE, GOOD_CODE, MINUTE, World, world

NARROWED = Remark("ScopeNarrowed", "less was granted than the profile asks for; missing: b")
SHORT = Remark("LifetimeOdd", "expires_in of the provider's answer is 1 s")


def message(w: World, kind: str) -> str:
    return next(str(entry["message"]) for entry in w.cluster.object.status["conditions"] if entry["type"] == kind)


def configure(w: World, table: str, **changes: Any) -> None:
    """As if the profile had been written so."""
    profile = w.profiles["anthropic"]
    changed = msgspec.structs.replace(getattr(profile, table), **changes)
    w.profiles["anthropic"] = msgspec.structs.replace(profile, **{table: changed})


async def test_a_refresh_token_that_came_with_a_useless_access_token_is_stored_before_anything_else(
    tmp_path: Path,
) -> None:
    async with world(tmp_path, credential=DUE) as w:
        useless = UnusableAnswer("the token endpoint answered with a token_type", refresh_token="rotated-refresh-token")
        w.now = await w.reconcile(useless)
        stored = w.credential
        assert (stored.refresh_token, stored.previous_refresh_token) == ("rotated-refresh-token", DUE.refresh_token)
        assert (stored.access_token, stored.generation) == (DUE.access_token, DUE.generation)
        assert (w.reason("Ready"), w.reason("Stalled")) == ("Available", "ExchangeRejected")
        await w.reconcile(answer())
        assert w.endpoint.sent[-1] == "rotated-refresh-token"
        assert w.reason("Stalled") is None


async def test_a_useless_answer_without_a_refresh_token_keeps_the_one_that_was_sent(tmp_path: Path) -> None:
    async with world(tmp_path, credential=DUE) as w:
        await w.reconcile(UnusableAnswer("the token endpoint answered with a token_type", refresh_token=None))
        assert w.credential.refresh_token == DUE.refresh_token


async def test_what_is_odd_about_an_answer_is_a_condition_until_another_answer_is_in_order(tmp_path: Path) -> None:
    async with world(tmp_path, credential=DUE) as w:
        await w.reconcile(answer(remarks=(NARROWED, SHORT)))
        assert (w.reason("Ready"), w.reason("TokenAnswerOdd")) == ("Available", "ScopeNarrowed")
        assert message(w, "TokenAnswerOdd") == f"{NARROWED.message}; {SHORT.message}"
        w.now += timedelta(hours=7, minutes=55)
        await w.reconcile(answer(3))
        assert (w.reason("Ready"), w.reason("TokenAnswerOdd")) == ("Available", None)


async def test_an_account_that_cannot_be_refreshed_does_not_say_when_it_will_be(tmp_path: Path) -> None:
    async with world(tmp_path, credential=credential(refresh_token=None)) as w:
        await w.reconcile()
        assert "nextRefreshTime" not in w.cluster.object.status["token"]


async def test_an_account_that_is_exchanged_anew_says_when(tmp_path: Path) -> None:
    async with world(tmp_path, account(grant="WorkloadIdentity")) as w:
        await w.reconcile(answer(refresh_token=None))
        assert "nextRefreshTime" in w.cluster.object.status["token"]


async def test_an_expected_subject_that_nobody_can_check_costs_no_login_but_is_refused_first(tmp_path: Path) -> None:
    expecting = account(expected_subject="alice", annotations={CODE_ANNOTATION: GOOD_CODE})
    async with world(tmp_path, expecting) as w:
        configure(w, "authorization_code", subject_claim=None)
        await w.reconcile()
        assert (w.reason("Ready"), w.reason("Stalled")) == ("InvalidSpec", "InvalidSpec")
        assert "subject_claim in [providers.anthropic.authorization_code]" in message(w, "Stalled")
        assert (w.endpoint.sent, w.store.credential(UID)) == ([], None)
        assert "login" not in w.cluster.object.status
        assert w.reason("LoginRequired") == "NotRequired"


async def test_an_account_that_works_is_refreshed_although_its_expected_subject_cannot_be_checked(
    tmp_path: Path,
) -> None:
    async with world(tmp_path, account(expected_subject="alice"), credential=DUE) as w:
        configure(w, "authorization_code", subject_claim=None)
        await w.reconcile(answer())
        assert w.credential.access_token == "access-token-2-of-a-test"
        assert (w.reason("Ready"), w.reason("Stalled")) == ("Available", "InvalidSpec")


async def test_a_workload_of_another_tenant_is_refused_and_its_token_used_no_more(tmp_path: Path) -> None:
    foreign = account(grant="WorkloadIdentity")
    async with world(tmp_path, foreign, credential=credential(refresh_token=None)) as w:
        configure(w, "workload_identity", organization_ids=["11111111-*"])
        await w.reconcile()
        assert w.endpoint.sent == []
        assert (w.reason("Ready"), w.reason("Stalled")) == ("InvalidSpec", "InvalidSpec")
        assert "organizationID 00000000-0000-0000-0000-000000000000 is not one that" in message(w, "Stalled")
        assert w.published()["status"] != "Available"


@pytest.mark.parametrize(
    ("issuer", "sent"), [("https://provider.example", ["the-code verifier-of-a-test"]), ("https://evil.example", [])]
)
async def test_a_redirect_url_of_another_issuer_is_not_exchanged(tmp_path: Path, issuer: str, sent: list[str]) -> None:
    url = f"https://pool.example/cb?code=the-code&state=state-of-a-test&iss={issuer}"
    async with world(tmp_path, account(annotations={CODE_ANNOTATION: url}), session=session(age=MINUTE)) as w:
        configure(w, "authorization_code", issuer="https://provider.example")
        await w.reconcile(answer())
        assert w.endpoint.sent == sent
        assert w.reason("LoginRequired") == ("NotRequired" if sent else "CodeRejected")
