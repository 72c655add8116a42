"""The real operator process against a real API server and the provider's simulator: accounts from birth to deletion."""

import json
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import httpx2
import pytest

from tests.support.control_plane import ControlPlane, wait_until
from tests.support.stack import ROOT, Stack, instant, running_stack


@pytest.fixture(scope="module")
def stack(control_plane: ControlPlane) -> Iterator[Stack]:
    with running_stack(control_plane, with_proxy=False) as stack:
        yield stack


@pytest.fixture(autouse=True)
def tidy(stack: Stack) -> Iterator[None]:
    yield
    stack.kubectl("delete", "oauthaccounts", "--all", "--timeout=30s")
    stack.simulator.reset()


def reasons_of_events(stack: Stack, name: str) -> list[str]:
    uid = stack.get(name)["metadata"]["uid"]
    events = json.loads(stack.kubectl("get", "events", "-o", "json"))["items"]
    return sorted(event["reason"] for event in events if event["involvedObject"]["uid"] == uid)


def test_a_person_logs_in(stack: Stack) -> None:
    stack.apply(stack.account("alice", priority=3))
    url = stack.authorization_url("alice")
    assert stack.condition("alice", "Ready")["reason"] == "LoginRequired"
    assert stack.condition("alice", "LoginRequired")["reason"] == "AwaitingAuthorizationCode"
    assert stack.index()["alice"]["status"] == "LoginRequired"

    stack.paste("alice", stack.simulator.approve(url, "alice@example.com"))
    stack.wait_for_reason("alice", "Ready", "Available")

    account = stack.get("alice")
    assert "oauthpool.dev/authorization-code" not in account["metadata"].get("annotations", {})
    assert account["status"]["subject"] == "alice@example.com"
    assert "login" not in account["status"]
    entry, token = stack.index()["alice"], account["status"]["token"]
    assert (entry["status"], entry["priority"], entry["generation"]) == ("Available", 3, 1)
    assert entry["fingerprint"] == token["fingerprint"]
    assert reasons_of_events(stack, "alice") == ["LoggedIn", "LoginOpened"]


def test_the_liveness_probe_looks_at_the_reconcile_loop(stack: Stack) -> None:
    assert httpx2.get(f"{stack.health_url}/healthz").json()["loop"] == "turning"


def test_files_are_where_the_design_says_with_the_modes_it_says(stack: Stack) -> None:
    stack.apply(stack.account("alice"))
    stack.log_in("alice", "alice@example.com")
    uid = stack.get("alice")["metadata"]["uid"]
    modes = {
        str(path.relative_to(stack.folder)): stat.S_IMODE(path.stat().st_mode)
        for path in (*stack.state_dir.rglob("*.json"), *stack.access_dir.rglob("*.json"))
    }
    assert modes == {
        f"state/{uid}/account.json": 0o600,
        f"state/{uid}/credential.json": 0o600,
        f"state/{uid}/login.json": 0o600,
        f"access/{uid}.json": 0o640,
    }
    access = json.loads((stack.access_dir / f"{uid}.json").read_text())
    assert access.keys() == {"generation", "access_token", "expires"}


def test_a_workload_exchanges_its_service_account_token(stack: Stack) -> None:
    stack.apply(stack.workload_account("workload"))
    stack.wait_for_reason("workload", "Ready", "Available")
    request = stack.simulator.requests("/v1/oauth/token")[-1]
    assert list(json.loads(request["body"])) == ["grant_type", "assertion", "federation_rule_id", "organization_id"]
    assert stack.condition("workload", "LoginRequired")["status"] == "False"
    uid = stack.get("workload")["metadata"]["uid"]
    assert json.loads((stack.state_dir / uid / "credential.json").read_text())["refresh_token"] is None


def test_each_exchange_has_a_service_account_token_of_its_own(stack: Stack) -> None:
    """Some providers take one only once: also if the answer was lost, and of two accounts with one ServiceAccount."""
    stack.simulator.set(assertions_once=True, token_drops_after_redeem=1)
    stack.apply(stack.workload_account("one"))
    stack.apply(stack.workload_account("two"))
    for name in ("one", "two"):
        stack.wait_for_reason(name, "Ready", "Available")
    sent = [json.loads(request["body"])["assertion"] for request in stack.simulator.requests("/v1/oauth/token")]
    assert len(sent) == len(set(sent)) == 3


def test_no_proxy_of_the_environment_is_on_the_way(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither to the API server nor to the token endpoint: what goes there are credentials."""
    stack.operator.stop()
    with monkeypatch.context() as environment:
        for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            environment.setenv(name, "http://127.0.0.1:9")  # where nobody listens
        for name in ("NO_PROXY", "no_proxy"):
            environment.delenv(name, raising=False)
        stack.start_operator(wait=False)
    stack.wait_for_operator()
    stack.apply(stack.workload_account("workload"))
    stack.wait_for_reason("workload", "Ready", "Available")


def test_a_workload_without_its_service_account_says_which(stack: Stack) -> None:
    manifest = stack.workload_account("workload")
    manifest["spec"]["workloadIdentity"]["serviceAccountName"] = "nobody"
    stack.apply(manifest)
    stalled = stack.wait_for_reason("workload", "Stalled", "ServiceAccountTokenRefused")
    assert "resourceNames [nobody]" in stalled["message"]  # forbidden comes before not found


def test_a_workload_whose_service_account_does_not_exist_says_so(stack: Stack) -> None:
    """With leave to ask for its token, which is another message than without."""
    stack.kubectl(
        "create", "role", "ghost", "--verb=create", "--resource=serviceaccounts/token", "--resource-name=ghost"
    )
    stack.kubectl(
        "create", "rolebinding", "ghost", "--role=ghost", f"--serviceaccount={stack.namespace}:oauth-pool-operator"
    )
    manifest = stack.workload_account("workload")
    manifest["spec"]["workloadIdentity"]["serviceAccountName"] = "ghost"
    stack.apply(manifest)
    stalled = stack.wait_for_reason("workload", "Stalled", "ServiceAccountTokenRefused")
    assert f"there is no ServiceAccount ghost in namespace {stack.namespace}" in stalled["message"]


def test_the_role_of_the_documentation_is_what_a_workload_lacks(stack: Stack) -> None:
    stack.kubectl("create", "serviceaccount", "batch")
    manifest = stack.workload_account("workload")
    manifest["spec"]["workloadIdentity"]["serviceAccountName"] = "batch"
    stack.apply(manifest)
    stalled = stack.wait_for_reason("workload", "Stalled", "ServiceAccountTokenRefused")
    assert "needs the verb create on serviceaccounts/token with resourceNames [batch]" in stalled["message"]

    page = (ROOT / "docs/operator.md").read_text()
    role = page[page.index("kind: Role\n") :].partition("```")[0]
    role = "apiVersion: rbac.authorization.k8s.io/v1\n" + role
    stack.control_plane.apply(role.replace("anthropic-oauth-proxy", stack.namespace).replace("[inference]", "[batch]"))
    # the simulator's federation rule is for another ServiceAccount: its refusal shows that the token was to be had
    rejected = stack.wait_for_reason("workload", "Stalled", "ExchangeRejected")
    assert "invalid_grant" in rejected["message"]


def test_a_refused_exchange_is_a_mistake_in_the_configuration_not_a_dead_account(stack: Stack) -> None:
    manifest = stack.workload_account("workload")
    manifest["spec"]["workloadIdentity"]["federationRuleID"] = "fdrl_unknown"
    stack.apply(manifest)
    stalled = stack.wait_for_reason("workload", "Stalled", "ExchangeRejected")
    assert stalled["status"] == "True"
    assert stack.condition("workload", "Ready")["reason"] == "ExchangeRejected"


def test_tokens_are_refreshed_before_they_expire(stack: Stack) -> None:
    stack.simulator.set(expires_in=4)
    stack.apply(stack.account("alice"))
    stack.log_in("alice", "alice@example.com")
    stack.apply(stack.workload_account("workload"))
    for name in ("alice", "workload"):
        wait_until(lambda n=name: stack.index().get(n, {}).get("generation", 0) >= 3, f"third token of {name}")  # type: ignore[misc]
        assert stack.index()[name]["status"] == "Available"
        assert stack.condition(name, "Ready")["reason"] == "Available"
    # routine is not an Event
    assert set(reasons_of_events(stack, "alice")) <= {"LoginOpened", "LoggedIn", "CoolingDown", "Recovered"}
    metrics = httpx2.get(f"{stack.metrics_url}/metrics").text
    assert 'pool_token_refreshes_total{account_id="alice",result="success"}' in metrics


def test_a_slow_token_endpoint_does_not_stop_the_old_token(stack: Stack) -> None:
    stack.apply(stack.account("alice"))
    stack.log_in("alice", "alice@example.com")
    stack.simulator.set(token_delay=2)
    stack.apply(stack.account("bob"))  # the loop is not blocked by one slow answer
    stack.authorization_url("bob")
    assert stack.condition("alice", "Ready")["reason"] == "Available"


def test_a_wrong_state_is_refused_and_the_same_login_goes_on(stack: Stack) -> None:
    stack.apply(stack.account("alice"))
    url = stack.authorization_url("alice")
    pasted = stack.simulator.approve(url, "alice@example.com")
    code = pasted.partition("#")[0]
    stack.paste("alice", f"{code}#not-the-state")
    rejected = stack.wait_for_reason("alice", "LoginRequired", "CodeRejected")
    assert "belongs to another login" in rejected["message"]
    assert code not in json.dumps(stack.get("alice"))
    assert stack.authorization_url("alice") == url
    stack.paste("alice", pasted)
    stack.wait_for_reason("alice", "Ready", "Available")


def test_a_code_that_the_provider_refuses_opens_a_fresh_login(stack: Stack) -> None:
    stack.apply(stack.account("alice"))
    url = stack.authorization_url("alice")
    state = stack.simulator.approve(url, "alice@example.com").partition("#")[2]
    stack.paste("alice", f"no-such-code#{state}")
    rejected = stack.wait_for_reason("alice", "LoginRequired", "CodeRejected")
    assert "invalid_grant" in rejected["message"]
    fresh = stack.authorization_url("alice")
    assert fresh != url
    stack.paste("alice", stack.simulator.approve(fresh, "alice@example.com"))
    stack.wait_for_reason("alice", "Ready", "Available")


def test_a_new_login_is_asked_for_by_annotation_and_ends_the_old_one(stack: Stack) -> None:
    stack.apply(stack.account("alice"))
    old_url = stack.authorization_url("alice")
    old = stack.simulator.approve(old_url, "alice@example.com")
    stack.kubectl("annotate", "oauthaccount", "alice", "oauthpool.dev/login-requested=again")
    wait_until(lambda: stack.get("alice")["status"].get("lastHandledLoginRequest") == "again", "the answer")
    assert stack.authorization_url("alice") != old_url
    stack.paste("alice", old)
    stack.wait_for_reason("alice", "LoginRequired", "CodeRejected")


def test_a_login_that_nobody_completes_expires_and_says_what_to_do(stack: Stack) -> None:
    stack.apply(stack.account("alice"))
    stack.authorization_url("alice")
    uid = stack.get("alice")["metadata"]["uid"]
    login = stack.state_dir / uid / "login.json"
    session = json.loads(login.read_text()) | {"expires": "2026-01-01T00:00:00Z"}
    login.write_text(json.dumps(session))
    stack.kubectl("annotate", "oauthaccount", "alice", "example.com/poke=1")
    expired = stack.wait_for_reason("alice", "LoginRequired", "LoginExpired")
    assert "oauthpool.dev/login-requested=" in expired["message"]
    assert "login" not in stack.get("alice")["status"]
    stack.paste("alice", f"some-code#{session['state']}")
    wait_until(
        lambda: "authorization-code" not in json.dumps(stack.get("alice")["metadata"].get("annotations", {})),
        "the code to be taken off",
    )
    assert stack.condition("alice", "LoginRequired")["reason"] == "LoginExpired"


def test_a_person_logs_in_on_another_device_and_the_operator_refreshes_from_then_on(stack: Stack) -> None:
    stack.simulator.set(device_interval=1, expires_in=4)
    stack.apply(stack.account("alice", grant="DeviceCode"))
    user_code = stack.user_code("alice")
    login = stack.get("alice")["status"]["login"]
    assert login["verificationURIComplete"] == f"{login['verificationURI']}?user_code={user_code}"
    assert stack.condition("alice", "LoginRequired")["reason"] == "AwaitingDeviceApproval"
    wait_until(lambda: device_questions(stack), "the operator to ask")
    assert httpx2.get(login["verificationURIComplete"]).status_code == 200
    stack.simulator.approve_device(user_code, "alice@example.com")
    stack.wait_for_reason("alice", "Ready", "Available")
    status = stack.get("alice")["status"]
    assert status["subject"] == "alice@example.com"
    assert "login" not in status
    wait_until(lambda: stack.index()["alice"]["generation"] >= 3, "two refreshes")
    assert {"LoginOpened", "LoggedIn"} <= set(reasons_of_events(stack, "alice"))
    stack.kubectl("delete", "oauthaccount", "alice", "--timeout=20s")
    assert stack.simulator.requests("/v1/oauth/revoke")


def device_questions(stack: Stack) -> list[str]:
    """The device codes that were asked about."""
    bodies = [json.loads(request["body"]) for request in stack.simulator.requests("/v1/oauth/token")]
    return [body["device_code"] for body in bodies if "device_code" in body]


def test_a_device_login_survives_a_restart_and_its_secret_is_on_the_state_volume_only(stack: Stack) -> None:
    stack.simulator.set(device_interval=1)
    stack.apply(stack.account("alice", grant="DeviceCode"))
    user_code = stack.user_code("alice")
    uid = stack.get("alice")["metadata"]["uid"]
    wait_until(lambda: device_questions(stack), "the operator to ask")
    assert stack.operator.stop() == 0
    login = stack.state_dir / uid / "login.json"
    device_code = json.loads(login.read_text())["device_code"]
    assert set(device_questions(stack)) == {device_code}
    assert stat.S_IMODE(login.stat().st_mode) == 0o600
    stack.start_operator()
    assert stack.user_code("alice") == user_code
    assert device_code not in json.dumps(stack.get("alice")) + stack.kubectl("get", "events", "-o", "json")
    stack.simulator.approve_device(user_code, "alice@example.com")
    stack.wait_for_reason("alice", "Ready", "Available")
    assert device_code not in login.read_text()


def test_a_device_login_that_is_denied_waits_for_the_person_to_ask_again(stack: Stack) -> None:
    stack.simulator.set(device_interval=1)
    stack.apply(stack.account("alice", grant="DeviceCode"))
    first = stack.user_code("alice")
    stack.simulator.deny_device(first)
    denied = stack.wait_for_reason("alice", "LoginRequired", "AccessDenied")
    assert "oauthpool.dev/login-requested=" in denied["message"]
    stack.kubectl("annotate", "oauthaccount", "alice", "oauthpool.dev/login-requested=1")
    stack.wait_for_reason("alice", "LoginRequired", "AwaitingDeviceApproval")
    assert stack.get("alice")["status"]["lastHandledLoginRequest"] == "1"
    assert stack.user_code("alice") != first


def test_a_provider_that_wants_to_be_asked_less_often_is(stack: Stack) -> None:
    stack.simulator.set(device_interval=1, device_slow_downs=1)
    stack.apply(stack.account("alice", grant="DeviceCode"))
    stack.user_code("alice")
    uid = stack.get("alice")["metadata"]["uid"]
    login = stack.state_dir / uid / "login.json"
    wait_until(lambda: json.loads(login.read_text())["poll_seconds"] == 6, "the longer interval")
    stack.simulator.approve_device(stack.user_code("alice"), "alice@example.com")
    stack.wait_for_reason("alice", "Ready", "Available")


def test_a_login_survives_a_restart_of_the_operator(stack: Stack) -> None:
    stack.apply(stack.account("alice"))
    url = stack.authorization_url("alice")
    assert stack.operator.stop() == 0
    stack.start_operator()
    assert stack.authorization_url("alice") == url
    stack.log_in("alice", "alice@example.com")


def test_sigterm_waits_for_an_exchange_in_flight(stack: Stack) -> None:
    stack.apply(stack.account("alice"))
    pasted = stack.simulator.approve(stack.authorization_url("alice"), "alice@example.com")
    stack.simulator.set(token_delay=7)  # longer than Kopf waits for what it started itself
    stack.paste("alice", pasted)
    wait_until(lambda: refresh_in_flight(stack), "the exchange to begin")
    assert stack.operator.stop() == 0
    stack.simulator.set(token_delay=0)
    uid = stack.get("alice")["metadata"]["uid"]
    assert json.loads((stack.state_dir / uid / "credential.json").read_text())["refresh_token"]
    stack.start_operator()
    stack.wait_for_reason("alice", "Ready", "Available")


def refresh_in_flight(stack: Stack) -> bool:
    return any((path / "credential.json.new").exists() for path in stack.state_dir.iterdir())


def test_a_dead_grant_disables_until_a_new_login(stack: Stack) -> None:
    stack.apply(stack.account("alice"))
    stack.log_in("alice", "alice@example.com")
    uid = stack.get("alice")["metadata"]["uid"]
    stack.simulator.revoke_grants("alice@example.com")
    stack.report("alice", "Unauthorized", generation=1)
    stack.wait_for_reason("alice", "Ready", "Disabled")
    assert stack.condition("alice", "LoginRequired")["reason"] == "GrantRevoked"
    assert stack.index()["alice"]["status"] == "Disabled"
    assert not (stack.access_dir / f"{uid}.json").exists()
    assert "Disabled" in reasons_of_events(stack, "alice")
    stack.kubectl("annotate", "oauthaccount", "alice", "oauthpool.dev/login-requested=1")
    stack.log_in("alice", "alice@example.com")
    assert stack.index()["alice"]["generation"] == 2


def reporters(stack: Stack, name: str) -> list[str]:
    return [entry["reporter"] for entry in stack.get(name)["status"].get("reports", [])]


def test_a_report_that_says_nothing_any_more_is_taken_from_its_proxy_which_can_report_again(stack: Stack) -> None:
    stack.apply(stack.account("alice"))
    stack.log_in("alice", "alice@example.com")
    hour = timedelta(hours=1)
    stack.report("alice", "QuotaExhausted", reporter="proxy-2", until=hour)
    stack.report("alice", "QuotaExhausted", reporter="proxy-1", age=3 * hour, until=-hour)
    wait_until(lambda: reporters(stack, "alice") == ["proxy-2"], "the old entry to go")
    stack.report("alice", "QuotaExhausted", reporter="proxy-1", until=2 * hour)
    wait_until(lambda: "T" in (stack.index()["alice"]["cooldownUntil"] or ""), "the cooldown")
    assert sorted(reporters(stack, "alice")) == ["proxy-1", "proxy-2"]
    managed = stack.kubectl("get", "oauthaccount", "alice", "-o", "json", "--show-managed-fields")
    owners = [entry["manager"] for entry in json.loads(managed)["metadata"]["managedFields"]]
    assert {"oauth-pool-proxy-proxy-1", "oauth-pool-proxy-proxy-2"} <= set(owners)


def test_the_longest_cooldown_counts_until_somebody_ends_it(stack: Stack) -> None:
    stack.apply(stack.account("alice", weight=4))
    stack.log_in("alice", "alice@example.com")
    for number in (1, 3, 2):
        stack.report("alice", "QuotaExhausted", reporter=f"proxy-{number}", until=timedelta(hours=number))
    stack.wait_for_reason("alice", "Ready", "CoolingDown")
    soonest = instant(timedelta(hours=2, minutes=59))
    wait_until(lambda: stack.get("alice")["status"]["cooldown"]["untilTime"] > soonest, "the longest")
    stack.kubectl("annotate", "oauthaccount", "alice", "oauthpool.dev/cooldown-cleared=now")
    wait_until(lambda: stack.get("alice")["status"].get("lastHandledClearRequest") == "now", "the answer")
    entry = stack.index()["alice"]
    assert (entry["status"], entry["weight"], entry["cooldownUntil"]) == ("Available", 4, None)
    assert stack.condition("alice", "Ready")["reason"] == "Available"
    assert reasons_of_events(stack, "alice") == ["CoolingDown", "LoggedIn", "LoginOpened", "Recovered"]


@pytest.mark.parametrize("reason", ["Billing", "Forbidden"])
def test_an_account_that_the_provider_refuses_is_left_alone_says_so_and_comes_back_by_time(
    stack: Stack, reason: str
) -> None:
    stack.apply(stack.account("alice"))
    stack.log_in("alice", "alice@example.com")
    stack.report("alice", reason, until=timedelta(minutes=5))
    ready = stack.wait_for_reason("alice", "Ready", reason)
    assert "provider's console" in ready["message"] and ready["status"] == "False"
    assert stack.kubectl("get", "oauthaccounts", "alice", "--no-headers").split()[:2] == ["alice", reason]
    entry = stack.index()["alice"]
    assert (entry["status"], entry["cooldownUntil"] > instant(timedelta(minutes=4))) == ("CoolingDown", True)
    assert f'pool_accounts{{status="{reason}"}} 1.0' in httpx2.get(f"{stack.metrics_url}/metrics").text
    stack.report("alice", reason, until=timedelta(seconds=2))
    wait_until(lambda: stack.index()["alice"]["status"] == "Available", "the end of it")
    told = sorted(("LoginOpened", "LoggedIn", reason, "Recovered"))
    wait_until(lambda: reasons_of_events(stack, "alice") == told, "the Events")
    assert refreshes_sent(stack) == []  # a newer token would be refused, too


def test_somebody_who_has_settled_it_ends_the_time_in_which_a_refused_account_is_left_alone(stack: Stack) -> None:
    stack.apply(stack.account("alice"))
    stack.log_in("alice", "alice@example.com")
    for number, reason in enumerate(("Billing", "Forbidden")):
        stack.report("alice", reason, reporter=f"proxy-{number}", until=timedelta(hours=2))
        stack.wait_for_reason("alice", "Ready", reason)
        stack.kubectl("annotate", "--overwrite", "oauthaccount", "alice", f"oauthpool.dev/cooldown-cleared={number}")
        stack.wait_for_reason("alice", "Ready", "Available")
        assert (stack.index()["alice"]["status"], reporters(stack, "alice")) == ("Available", [])


def test_a_refused_token_is_refreshed_at_once_and_the_account_lives(stack: Stack) -> None:
    stack.apply(stack.account("alice"))
    stack.log_in("alice", "alice@example.com")
    stack.report("alice", "Unauthorized", generation=1)
    wait_until(lambda: stack.index()["alice"]["generation"] == 2, "a new token")
    assert stack.condition("alice", "Ready")["reason"] == "Available"


def test_a_lost_answer_is_asked_for_again_with_the_same_token(stack: Stack) -> None:
    stack.apply(stack.account("alice"))
    stack.log_in("alice", "alice@example.com")
    stack.simulator.set(token_drops_after_redeem=1, rotation_grace=60)
    stack.report("alice", "Unauthorized", generation=1)
    wait_until(lambda: stack.index()["alice"]["generation"] == 2, "the answer of the second request")
    sent = [json.loads(request["body"]) for request in stack.simulator.requests("/v1/oauth/token")]
    assert len({body["refresh_token"] for body in sent if "refresh_token" in body}) == 1
    assert not list(stack.state_dir.rglob("journal.json"))


def test_a_refresh_that_a_kill_cut_short_is_ended_while_the_provider_still_repeats_its_answer(stack: Stack) -> None:
    stack.apply(stack.account("alice"))
    stack.log_in("alice", "alice@example.com")
    # redeemed again and again, never answered; the provider repeats itself for two minutes, the token lives for hours
    stack.simulator.set(token_drops_after_redeem=1000, rotation_grace=120)
    stack.report("alice", "Unauthorized", generation=1)
    wait_until(lambda: refreshes_sent(stack), "the refresh")
    stack.operator.stop(seconds=0)
    stack.simulator.set(token_drops_after_redeem=0)
    stack.report("alice", None)  # nobody asks for a refresh any more
    sent = refreshes_sent(stack)
    stack.start_operator()
    wait_until(lambda: stack.index()["alice"]["generation"] == 2, "the answer that was lost")
    assert refreshes_sent(stack) == [*sent, sent[0]]
    assert stack.condition("alice", "Ready")["reason"] == "Available"


def refreshes_sent(stack: Stack) -> list[str]:
    """The refresh tokens that were sent, the oldest first."""
    bodies = [json.loads(request["body"]) for request in stack.simulator.requests("/v1/oauth/token")]
    return [body["refresh_token"] for body in bodies if "refresh_token" in body]


def test_a_lost_answer_that_nobody_repeats_is_named_for_what_it_is(stack: Stack) -> None:
    stack.apply(stack.account("alice"))
    stack.log_in("alice", "alice@example.com")
    stack.simulator.set(token_drops_after_redeem=1)
    stack.report("alice", "Unauthorized", generation=1)
    stack.wait_for_reason("alice", "LoginRequired", "RefreshOutcomeUnknown")
    assert stack.condition("alice", "Ready")["reason"] == "Disabled"


def test_a_token_endpoint_that_fails_leaves_the_account_in_use_and_is_asked_again(stack: Stack) -> None:
    stack.apply(stack.account("alice"))
    stack.log_in("alice", "alice@example.com")
    stack.kubectl("wait", "--for=condition=Ready", "oauthaccount/alice", "--timeout=1s")
    stack.simulator.set(token_failures=2, token_failure_status=500)
    stack.report("alice", "Unauthorized", generation=1)
    reconciling = stack.wait_for_reason("alice", "Reconciling", "Refreshing")
    assert "answered 500; next try at" in reconciling["message"]
    assert stack.condition("alice", "Ready")["status"] == "True"
    wait_until(lambda: stack.index()["alice"]["generation"] == 2, "the third request")
    wait_until(lambda: stack.condition("alice", "Reconciling") == {}, "the condition to go")
    wait_until(lambda: "RefreshSucceeded" in reasons_of_events(stack, "alice"), "the Event")


def test_an_unknown_provider_names_the_known_ones(stack: Stack) -> None:
    stack.apply(stack.account("alice", provider="nobody"))
    stalled = stack.wait_for_reason("alice", "Stalled", "UnknownProvider")
    assert stalled["message"].endswith("it knows broken, loopback, simulator")
    assert stack.condition("alice", "Ready")["reason"] == "UnknownProvider"
    assert stack.condition("alice", "LoginRequired")["status"] == "False"


def test_a_broken_profile_stalls_its_own_accounts_only(stack: Stack) -> None:
    stack.apply(stack.account("alice", provider="broken"))
    stalled = stack.wait_for_reason("alice", "Stalled", "InvalidProfile")
    assert "providers.broken.authorization_code.token_endpoint: must be https" in stalled["message"]
    assert stack.condition("alice", "Ready")["reason"] == "InvalidProfile"
    assert "provider broken cannot be used" in stack.operator.output
    stack.apply(stack.account("bob"))
    stack.log_in("bob", "bob@example.com")


def test_the_whole_redirect_url_is_as_good_as_the_code(stack: Stack) -> None:
    stack.apply(stack.account("alice"))
    approved = {"authorization_url": stack.authorization_url("alice"), "subject": "alice@example.com"}
    stack.paste("alice", stack.simulator.call("POST", "approve", approved)["redirect_url"])
    stack.wait_for_reason("alice", "Ready", "Available")


def test_somebody_else_than_expected_is_refused_and_what_they_were_granted_is_revoked(stack: Stack) -> None:
    stack.apply(stack.account("alice", expectedSubject="alice@example.com"))
    stack.paste("alice", stack.simulator.approve(stack.authorization_url("alice"), "mallory@example.com"))
    refused = stack.wait_for_reason("alice", "LoginRequired", "SubjectMismatch")
    assert "mallory@example.com logged in, but spec.expectedSubject is alice@example.com" in refused["message"]
    mallory = stack.simulator.call("PATCH", "accounts/mallory@example.com", {})
    assert (mallory["grants"], mallory["revoked_grants"]) == (1, 1)

    stack.log_in("alice", "alice@example.com")
    stack.kubectl("annotate", "oauthaccount", "alice", "oauthpool.dev/login-requested=1")
    stack.paste("alice", stack.simulator.approve(stack.authorization_url("alice"), "mallory@example.com"))
    stack.wait_for_reason("alice", "LoginRequired", "SubjectMismatch")
    status = stack.get("alice")["status"]
    assert (status["subject"], status["token"]["generation"]) == ("alice@example.com", 1)
    assert stack.condition("alice", "Ready")["reason"] == "Available"
    assert "SubjectMismatch" in reasons_of_events(stack, "alice")


def test_suspend_takes_the_account_out_and_resume_brings_it_back(stack: Stack) -> None:
    stack.apply(stack.account("alice"))
    stack.log_in("alice", "alice@example.com")
    stack.kubectl("patch", "oauthaccount", "alice", "--type=merge", "-p", '{"spec":{"suspend":true}}')
    stack.wait_for_reason("alice", "Ready", "Suspended")
    assert stack.index()["alice"]["status"] == "Suspended"
    stack.kubectl("patch", "oauthaccount", "alice", "--type=merge", "-p", '{"spec":{"suspend":false}}')
    stack.wait_for_reason("alice", "Ready", "Available")


def test_deletion_removes_files_and_index_key_and_revokes(stack: Stack) -> None:
    stack.apply(stack.account("alice"))
    stack.log_in("alice", "alice@example.com")
    uid = stack.get("alice")["metadata"]["uid"]
    stack.kubectl("delete", "oauthaccount", "alice", "--timeout=20s")
    assert not (stack.state_dir / uid).exists()
    assert not (stack.access_dir / f"{uid}.json").exists()
    assert "alice" not in stack.index()
    assert stack.simulator.requests("/v1/oauth/revoke")


def test_retain_keeps_the_credential_and_does_not_revoke(stack: Stack) -> None:
    stack.apply(stack.account("alice", deletionPolicy="Retain"))
    stack.log_in("alice", "alice@example.com")
    uid = stack.get("alice")["metadata"]["uid"]
    stack.kubectl("delete", "oauthaccount", "alice", "--timeout=20s")
    assert (stack.state_dir / uid / "credential.json").exists()
    assert not (stack.access_dir / f"{uid}.json").exists()
    assert not stack.simulator.requests("/v1/oauth/revoke")


def test_keys_of_accounts_that_are_gone_leave_the_index_at_start(stack: Stack) -> None:
    stack.apply(stack.account("alice"))
    stack.authorization_url("alice")
    assert stack.operator.stop() == 0
    stack.kubectl("patch", "configmap", "oauth-pool", "--type=merge", "-p", '{"data":{"ghost":"{}"}}')
    stack.start_operator()
    wait_until(lambda: set(stack.index()) == {"alice"}, "the ghost to go")


@pytest.mark.parametrize(
    "drift",
    [
        pytest.param(["delete", "configmap", "oauth-pool"], id="deleted"),
        pytest.param(["label", "configmap", "oauth-pool", "oauthpool.dev/index-"], id="label removed"),
        pytest.param(
            ["patch", "configmap", "oauth-pool", "--type=merge", "-p", '{"data":{"alice":null,"x":"y"}}'], id="keys"
        ),
    ],
)
def test_an_index_that_somebody_else_changes_is_written_again(stack: Stack, drift: list[str]) -> None:
    stack.apply(stack.account("alice"))
    stack.log_in("alice", "alice@example.com")

    def index() -> object:
        """As readers find it."""
        found = json.loads(stack.kubectl("get", "configmaps", "-l", "oauthpool.dev/index=1", "-o", "json"))["items"]
        return [item["data"] for item in found]

    before = index()
    stack.kubectl(*drift)
    assert index() != before
    wait_until(lambda: index() == before, "the index as it was", seconds=15)


@pytest.mark.parametrize(
    "drift",
    [
        pytest.param(lambda path: path.unlink(), id="deleted"),
        pytest.param(
            lambda path: path.write_text(path.read_text().replace('"generation":1', '"generation":9')), id="edited"
        ),
        pytest.param(lambda path: path.write_text("{"), id="damaged"),
    ],
)
def test_an_access_file_that_somebody_touches_is_written_again(stack: Stack, drift: Callable[[Path], object]) -> None:
    stack.apply(stack.account("alice"))
    stack.log_in("alice", "alice@example.com")
    path = stack.access_dir / f"{stack.get('alice')['metadata']['uid']}.json"
    right = path.read_text()
    drift(path)
    wait_until(lambda: path.exists() and path.read_text() == right, "the access file", seconds=15)


def test_a_damaged_credential_costs_its_own_account_and_no_other(stack: Stack) -> None:
    for name in ("alice", "bob"):
        stack.apply(stack.account(name))
        stack.log_in(name, f"{name}@example.com")
    uid = stack.get("alice")["metadata"]["uid"]
    (stack.state_dir / uid / "credential.json").write_text("{")
    assert stack.operator.stop() == 0
    stack.start_operator()
    stack.wait_for_reason("alice", "LoginRequired", "StateCorrupt")
    assert stack.condition("alice", "Ready")["reason"] == "Available"  # for as long as its access token lasts
    assert {name: entry["generation"] for name, entry in stack.index().items()} == {"alice": 1, "bob": 1}
    assert "StateCorrupt" in reasons_of_events(stack, "alice")
    stack.log_in("alice", "alice@example.com")  # Available it was all the time
    wait_until(lambda: stack.index()["alice"]["generation"] == 2, "the new login's token to be published")
    assert list((stack.state_dir / uid).glob("credential.json.corrupt-*"))


def test_an_account_whose_new_credential_cannot_be_stored_is_deleted_in_time(stack: Stack) -> None:
    stack.apply(stack.account("alice"))
    stack.log_in("alice", "alice@example.com")
    uid = stack.get("alice")["metadata"]["uid"]
    stack.simulator.set(token_delay=1)
    stack.report("alice", "Unauthorized", generation=1)
    reserved = stack.state_dir / uid / "credential.json.new"
    wait_until(reserved.exists, "the refresh to begin")
    reserved.unlink()
    reserved.mkdir()  # the volume took the pre-flight file, and does not take the answer
    stack.wait_for_reason("alice", "Stalled", "StorageUnavailable")
    stack.kubectl("delete", "oauthaccount", "alice", "--timeout=30s")
    assert not (stack.state_dir / uid).exists()
    revoked = json.loads(stack.simulator.requests("/v1/oauth/revoke")[-1]["body"])["token"]
    sent = [json.loads(request["body"]) for request in stack.simulator.requests("/v1/oauth/token")]
    assert revoked not in [body.get("refresh_token") for body in sent]  # it is the one that is on no disk


def test_what_is_retained_goes_after_a_week_and_nothing_else_does(stack: Stack) -> None:
    for name in ("alice", "bob"):
        stack.apply(stack.account(name, deletionPolicy="Retain"))
        stack.log_in(name, f"{name}@example.com")
    uids = {name: stack.get(name)["metadata"]["uid"] for name in ("alice", "bob")}
    stack.kubectl("delete", "oauthaccount", "alice", "bob", "--timeout=20s")
    said = stack.state_dir / uids["alice"] / "retained.json"
    retained = json.loads(said.read_text())
    assert (retained["name"], retained["namespace"], retained["provider"]) == ("alice", stack.namespace, "simulator")
    said.write_text(json.dumps(retained | {"since": "2026-01-01T00:00:00Z"}))
    orphan = stack.state_dir / "00000000-0000-4000-8000-00000000000f"
    orphan.mkdir()
    (orphan / "credential.json").write_text("{}")
    assert stack.operator.stop() == 0
    stack.start_operator()
    wait_until(lambda: not said.parent.exists(), "the old one to go")
    assert (stack.state_dir / uids["bob"] / "credential.json").exists()
    assert (orphan / "credential.json").exists()


def test_a_suspension_does_not_wait_for_a_refresh_in_flight(stack: Stack) -> None:
    stack.apply(stack.account("alice"))
    stack.log_in("alice", "alice@example.com")
    stack.simulator.set(token_delay=20)
    stack.report("alice", "Unauthorized", generation=1)
    wait_until(lambda: refresh_in_flight(stack), "the refresh to begin")
    stack.kubectl("patch", "oauthaccount", "alice", "--type=merge", "-p", '{"spec":{"suspend":true}}')
    wait_until(lambda: stack.index()["alice"]["status"] == "Suspended", "no more traffic", seconds=5)
    assert stack.index()["alice"]["generation"] == 1  # the refresh is still in flight
    wait_until(lambda: stack.index()["alice"]["generation"] == 2, "its answer")
    assert stack.index()["alice"]["status"] == "Suspended"


def requests_served(stack: Stack, *verbs: str) -> Counter[str]:
    """How many requests of these verbs the API server has served, by what they were about."""
    wanted = ("oauthaccounts", "configmaps", "events", "serviceaccounts")
    counts = Counter[str]()
    for line in stack.control_plane.api.get("/metrics").text.splitlines():
        labels = dict(re.findall(r'(\w+)="([^"]*)"', line))
        if line.startswith("apiserver_request_total{") and labels["verb"] in verbs and labels["resource"] in wanted:
            counts[f"{labels['verb']} {labels['resource']}/{labels['subresource']}"] += int(float(line.split()[-1]))
    return counts


def test_an_idle_pool_makes_no_writes(stack: Stack) -> None:
    for name in ("alice", "bob"):
        stack.apply(stack.account(name))
        stack.log_in(name, f"{name}@example.com")
    stack.report("bob", "QuotaExhausted", until=timedelta(hours=3))
    stack.wait_for_reason("bob", "Ready", "CoolingDown")
    stack.apply(stack.workload_account("workload"))
    stack.wait_for_reason("workload", "Ready", "Available")
    stack.apply(stack.account("nobody", provider="nobody"))
    stack.wait_for_reason("nobody", "Stalled", "UnknownProvider")

    def looks() -> int:
        return requests_served(stack, "GET")["GET configmaps/"]

    before, first = requests_served(stack, "POST", "PUT", "PATCH", "DELETE"), looks()
    wait_until(lambda: looks() >= first + 2, "the operator to look whether all is in order, twice", seconds=40)
    assert requests_served(stack, "POST", "PUT", "PATCH", "DELETE") - before == Counter()


def test_a_restart_writes_nothing_that_is_written_already(stack: Stack) -> None:
    stack.apply(stack.account("alice"))
    stack.log_in("alice", "alice@example.com")
    stack.apply(stack.workload_account("workload"))
    stack.wait_for_reason("workload", "Ready", "Available")

    def versions() -> dict[str, str]:
        """Of everything that the operator writes: any write would show as a new resourceVersion."""
        found = json.loads(stack.kubectl("get", "oauthaccounts,configmaps", "-o", "json"))["items"]
        return {item["metadata"]["name"]: item["metadata"]["resourceVersion"] for item in found}

    before = versions()
    assert stack.operator.stop() == 0
    stack.start_operator()  # after a restart everything is looked at again
    with_bob = stack.account("bob", provider="nobody")
    stack.apply(with_bob)  # and once this one is answered, the others have been
    stack.wait_for_reason("bob", "Stalled", "UnknownProvider")
    after = versions()
    assert (after["alice"], after["workload"]) == (before["alice"], before["workload"])


def test_a_volume_that_refuses_costs_no_token(stack: Stack) -> None:
    stack.apply(stack.account("alice"))
    stack.log_in("alice", "alice@example.com")
    uid = stack.get("alice")["metadata"]["uid"]
    before = len(stack.simulator.requests("/v1/oauth/token"))
    # a folder where the file should be: this refuses root, too, as a read-only or full volume would
    obstacle = stack.state_dir / uid / "credential.json.new"
    obstacle.mkdir()
    stack.report("alice", "Unauthorized", generation=1)
    stalled = stack.wait_for_reason("alice", "Stalled", "StorageUnavailable")
    assert "reserve room" in stalled["message"]
    assert len(stack.simulator.requests("/v1/oauth/token")) == before
    obstacle.rmdir()
    wait_until(lambda: stack.index()["alice"]["generation"] == 2, "the refresh once the volume is back", seconds=60)
    wait_until(lambda: stack.condition("alice", "Stalled") == {}, "the condition to go")
