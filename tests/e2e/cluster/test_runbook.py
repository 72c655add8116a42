"""RUNBOOK.md, section by section: each is followed on a cluster that is in the state which the section is about."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.cluster.conftest import Loader
from tests.support.cluster.on_call import OnCall, state_folder
from tests.support.cluster.product import OPERATOR, PROXY, Images, Product
from tests.support.cluster.provider import HOST, Provider
from tests.support.control_plane import wait_until
from tests.support.stack import ORGANIZATION, RULE

ONE, TWO = "claude-1", "claude-2"
# so little that it is soon used up; each is taken out of the file in the course of the tests
SMALL_LIMITS = ("timeout_secs = 2", "attempts = 1", "max_connections = 8")
LIFT_LIMITS = r"sed -i -E '/^(timeout_secs|attempts|max_connections) =/d' $1"


@pytest.fixture(scope="module", autouse=True)
def small_limits(product: Product, provider: Provider) -> Iterator[None]:
    """Of the proxy; at the end everything is as it was."""
    provider.simulator.reset()
    product.apply(proxy_toml=provider.proxy_toml(*SMALL_LIMITS))
    yield
    provider.simulator.reset()
    product.remove_accounts()
    left = ("role/oauth-pool-tokens", "rolebinding/oauth-pool-tokens", "serviceaccount/inference")
    product.kubectl("delete", *left, "--ignore-not-found")
    product.apply(proxy_toml=provider.proxy_toml(), operator_toml=provider.operator_toml())


@pytest.fixture(scope="module")
def on_call(product: Product, provider: Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnCall]:
    folder = tmp_path_factory.mktemp("on-call")
    words = {
        "<model>": "claude-simulated-sonnet",
        "<upstream>": HOST,
        "<token endpoint>": HOST,
        "https://github.com/OWNER/oauth-pool//": f"{product.folder.parent}/oauth-pool/",
        "?ref=v0.1.0": "",
    }
    person = OnCall(product.kubectl, product.folder, folder, words)
    fill_in_examples(product.folder)
    keep_in_git(person)
    yield person
    person.close()


@pytest.fixture
def log_in(on_call: OnCall, product: Product, provider: Provider) -> Callable[[str], None]:
    """By the section of the runbook, with its owner at hand."""

    def follow(name: str) -> None:
        def approve() -> str:
            return provider.simulator.approve(product.login_url(name), subject(name))

        on_call.run("Log an account in", {"<account>": name, "<code>#<state>": approve})
        product.wait_for_status(name, "Available")

    return follow


# --- nothing yet, and the first accounts ---------------------------------------------------------------------------------


def test_a_pool_without_accounts(on_call: OnCall, product: Product) -> None:
    on_call.run("Deploy")
    on_call.run("PoolEmpty")
    product.wait_for_status(ONE, "LoginRequired")


def test_a_login(on_call: OnCall, product: Product, provider: Provider, log_in: Callable[[str], None]) -> None:
    log_in(ONE)
    assert product.columns(ONE)["SUBJECT"] == subject(ONE)
    product.create_account(TWO)
    product.log_in(TWO, subject(TWO), provider.simulator)


def test_looking_at_a_pool_that_works(on_call: OnCall, provider: Provider) -> None:
    on_call.run("Verify")
    on_call.run("First look")
    request_id = on_call.type("ask | sed -nE 's/^request-id: (.*)\\r/\\1/p'").strip()
    logged = on_call.type(f"kubectl logs -l app={PROXY} --tail=-1 | grep {request_id}")
    on_call.run("Observe", {"<account>": ONE, "<request id>": json.loads(logged)["request_id"]})
    on_call.run("PoolTokenNearExpiry")
    on_call.run("PoolTokenRequestsWaiting")
    on_call.run("PoolProviderHeld")
    on_call.run("PoolVolumeUnanswered")
    on_call.run("PoolWatchSilent")
    on_call.run("PoolProxyWithoutTokens")
    on_call.run("ProxyAddsLatency")
    on_call.run("Pending, ContainerCreating")
    on_call.run("The tailnet does not reach the proxy")
    on_call.run("The upstream wants another header", {"<value>": "oauth-2025-04-20"})
    on_call.run("A credential is not imported", {"<account>": ONE})


# --- what clients see ----------------------------------------------------------------------------------------------------


def test_400(on_call: OnCall) -> None:
    on_call.run("400 invalid_request")
    on_call.run("ProxyUpstreamErrors")


def test_exhausted_accounts(on_call: OnCall, product: Product, provider: Provider, clients: Loader) -> None:
    provider.simulator.call("POST", f"accounts/{subject(ONE)}/utilization", {"utilization": 0.95, "window": "7d"})
    provider.simulator.exhaust(subject(TWO), reset_in=3600)
    with clients("messages", at_once=2):
        product.wait_for_status(TWO, "CoolingDown")
        assert "95%" in on_call.run("PoolQuotaNearlyUsed")
        on_call.run("PoolFailovers")
        provider.simulator.exhaust(subject(ONE), reset_in=3600)
        product.wait_for_status(ONE, "CoolingDown")
    assert on_call.asks() == 429
    for name in (ONE, TWO):
        provider.simulator.recover(subject(name))
    on_call.run("PoolAllAccountsCoolingDown", {"<account>": ONE})
    product.wait_for_status(TWO, "Available")


def test_no_account_at_all(on_call: OnCall, product: Product) -> None:
    for name in (ONE, TWO):
        product.kubectl("patch", "oauthaccount", name, "--type=merge", "-p", '{"spec": {"suspend": true}}')
        product.wait_for_status(name, "Suspended")
    on_call.run("PoolNoAccountAvailable", {"<suspended account>": ONE})
    product.kubectl("patch", "oauthaccount", TWO, "--type=merge", "-p", '{"spec": {"suspend": false}}')
    product.wait_for_status(TWO, "Available")


def test_slow_answers_and_a_long_line_until_the_limits_are_lifted(
    on_call: OnCall, product: Product, provider: Provider, clients: Loader
) -> None:
    on_call.run("ProxySlowAnswers")
    provider.simulator.set(headers_delay=4)
    assert on_call.asks() == 504
    on_call.run("504 timeout")
    provider.simulator.set(headers_delay=0, event_delay=0.5)
    with clients("streams", at_once=16):
        wait_until(lambda: len(provider.simulator.requests("/v1/messages")) > 20, "clients stand in line")
        on_call.run("ProxyRequestsQueued")
    on_call.run("Change the configuration", editor=LIFT_LIMITS)
    product.settings["proxy_toml"] = provider.proxy_toml()
    provider.simulator.set(headers_delay=4, event_delay=0)
    assert on_call.asks() == 200
    provider.simulator.reset()


def test_no_way_to_the_provider(on_call: OnCall, provider: Provider) -> None:
    with closed(provider) as open_again:
        provider.simulator.set(json_cut_after=0)  # those that are open already end with the next answer
        wait_until(lambda: on_call.asks() == 502, "connections are refused", every=0.2)
        provider.simulator.reset()
        on_call.run("502 connection", before={"ask": open_again})


# --- accounts ------------------------------------------------------------------------------------------------------------


def test_an_account_that_the_provider_refuses(
    on_call: OnCall, product: Product, provider: Provider, clients: Loader
) -> None:
    provider.simulator.call("PATCH", f"accounts/{subject(TWO)}", {"revoked": True})
    with clients("messages", at_once=2):
        on_call.run("PoolAccountRefused", {"<account>": TWO})
    provider.simulator.call("PATCH", f"accounts/{subject(TWO)}", {"revoked": None})
    product.kubectl("patch", "oauthaccount", TWO, "--type=merge", "-p", '{"spec": {"suspend": false}}')
    product.wait_for_status(TWO, "Available")


def test_a_token_endpoint_that_fails(on_call: OnCall, product: Product, provider: Provider, clients: Loader) -> None:
    provider.simulator.set(token_failures=1000)
    before = generation(product, ONE)
    expire(provider, ONE)
    with clients("messages", at_once=2):
        wait_until(lambda: "Refreshing" in conditions(product, ONE), "a refresh has failed")
    recover = {"metrics": lambda: provider.simulator.set(token_failures=0)}
    on_call.run("PoolTokenRefreshFailing", {"<account>": ONE}, before=recover)
    assert generation(product, ONE) > before


def test_a_provider_that_nobody_knows(on_call: OnCall, product: Product) -> None:
    product.create_account("nobodys", provider="nobody")
    product.wait_for_status("nobodys", "UnknownProvider")
    assert "UnknownProvider" in on_call.run("PoolAccountStalled")
    on_call.run("UnknownProvider, InvalidProfile, InvalidSpec", {"<account>": "nobodys"})


def test_a_volume_that_cannot_be_written(
    on_call: OnCall, product: Product, provider: Provider, clients: Loader
) -> None:
    product.create_account("full")
    product.log_in("full", subject("full"), provider.simulator)
    product.kubectl("exec", f"deployment/{OPERATOR}", "--", "chmod", "0500", state_folder(product.kubectl, "full"))
    expire(provider, "full")
    with clients("messages", at_once=4):
        wait_until(lambda: "StorageUnavailable" in conditions(product, "full"), "a refresh that cannot be stored")
    on_call.run("StorageUnavailable", {"<account>": "full"})
    assert generation(product, "full") > 1
    product.kubectl("delete", "oauthaccount", "full")


def test_a_service_account_without_leave(on_call: OnCall, product: Product) -> None:
    product.kubectl("apply", "-f", str(product.folder / "workload-identity.yaml"))
    product.kubectl("delete", "oauthaccount/inference", "role/oauth-pool-tokens")
    workload = {"serviceAccountName": "inference", "federationRuleID": RULE, "organizationID": ORGANIZATION}
    product.create_account("inference", grant="WorkloadIdentity", workloadIdentity=workload)
    product.wait_for_status("inference", "ServiceAccountTokenRefused")
    on_call.run("ServiceAccountTokenRefused", {"<account>": "inference", "<serviceaccount>": "inference"})
    product.kubectl("delete", "oauthaccount", "inference")


def test_a_damaged_file(on_call: OnCall, product: Product, log_in: Callable[[str], None]) -> None:
    damage = f"echo nonsense > {state_folder(product.kubectl, ONE)}/credential.json"
    product.kubectl("exec", f"deployment/{OPERATOR}", "--", "sh", "-c", damage)
    product.kubectl("annotate", "oauthaccount", ONE, "example.com/look=now")
    wait_until(lambda: "StateCorrupt" in conditions(product, ONE), "the damage is noticed")
    log_in(ONE)
    on_call.run("StateCorrupt")


def test_a_leaked_refresh_token(
    on_call: OnCall, product: Product, provider: Provider, log_in: Callable[[str], None]
) -> None:
    provider.simulator.call("DELETE", "requests")
    on_call.run("Rotate", {"<account>": ONE})
    assert [request["status"] for request in provider.simulator.requests("/v1/oauth/revoke")] == [200]
    log_in(ONE)


def test_another_client_id(on_call: OnCall, product: Product, provider: Provider) -> None:
    wrong = provider.operator_toml().replace('client_id = "', 'client_id = "not-')
    product.apply(operator_toml=wrong)
    before = generation(product, TWO)
    refresh(product, TWO)
    wait_until(lambda: "ExchangeRejected" in conditions(product, TWO), "the wrong client is refused")
    on_call.run("Change the client id", editor="sed -i 's/\"not-/\"/' $1")
    product.settings["operator_toml"] = provider.operator_toml()
    refresh(product, TWO)
    wait_until(lambda: generation(product, TWO) > before, "a refresh by the right client")


# --- the state volume ----------------------------------------------------------------------------------------------------


def test_a_restore_saves_what_was_not_refreshed_since_the_backup(
    on_call: OnCall, product: Product, provider: Provider, clients: Loader, log_in: Callable[[str], None]
) -> None:
    on_call.run("Open the state volume")
    on_call.run("Back up the state volume")
    on_call.run("Close the state volume")
    refreshed = generation(product, TWO)
    expire(provider, TWO)
    refresh(product, TWO)
    wait_until(lambda: generation(product, TWO) > refreshed, "a refresh after the backup")
    on_call.run("Replace the state volume")
    on_call.run("Open the state volume")
    close = {"kubectl get oauthaccounts": lambda: on_call.run("Close the state volume")}
    on_call.run("Restore the state volume", before=close)
    expire(provider, ONE)
    refresh(product, ONE)
    refresh(product, TWO)
    with clients("messages", at_once=2):
        product.wait_for_status(TWO, "Disabled", seconds=90)
        wait_until(lambda: is_fresh(product, ONE), "the restored refresh token is good for a refresh")
    on_call.run("PoolLoginNeeded")
    log_in(TWO)


def test_the_credentials_of_a_backup_go_into_another_cluster(on_call: OnCall, product: Product) -> None:
    on_call.run("Open the state volume")
    on_call.run("Back up the state volume")
    on_call.run("Close the state volume")
    # as in another cluster: the account has another UID, and nobody has revoked anything
    product.kubectl("patch", "oauthaccount", ONE, "--type=merge", "-p", '{"spec": {"deletionPolicy": "Retain"}}')
    product.kubectl("delete", "oauthaccount", ONE)
    product.create_account(ONE)
    on_call.run("Move to another cluster", {"<account>": ONE})
    product.wait_for_status(ONE, "Available")


def test_the_original_services_credentials(on_call: OnCall, product: Product, provider: Provider) -> None:
    entries = {name: original_entry(provider, name) for name in ("max-1", "max-2")}
    (product.folder / "credentials.json").write_text(json.dumps(entries))
    old_config = '[proxy]\nlisten_addr = "0.0.0.0:8080"\nupstream_url = "https://provider.example"\n'
    old_config += (
        '[oauth]\nsource = "kubernetes"\ncredential_file = "/data/credentials.json"\nrefresh_interval_secs = 300\n'
    )
    (product.folder / "old-config.toml").write_text(old_config)
    assert "credential_file" in on_call.run("Move from the original service", {"<provider>": "simulator"})
    for name in entries:
        product.wait_for_status(name, "Available")
    product.kubectl("delete", "oauthaccount", *entries)


# --- pods ----------------------------------------------------------------------------------------------------------------


def test_an_operator_whose_image_is_not_there(on_call: OnCall, product: Product, images: Images) -> None:
    product.create_account("leaving")
    product.wait_for_status("leaving", "LoginRequired")
    nowhere = f"operator={images.prefix}oauth-pool-operator:nowhere"
    product.kubectl("set", "image", f"deployment/{OPERATOR}", nowhere)
    product.kubectl("delete", "oauthaccount", "leaving", "--wait=false")
    wait_until(lambda: "Pull" in product.kubectl("get", "pods"), "the image is not there", seconds=60)
    on_call.run("An account stays Terminating", {"<account>": "leaving"})
    on_call.run("A pod does not start")
    undo = {"rollout status": lambda: on_call.run("ErrImagePull, ImagePullBackOff", {"<deployment>": OPERATOR})}
    on_call.run("PoolOperatorAbsent", before=undo)


def test_a_proxy_with_a_wrong_configuration(on_call: OnCall, product: Product, provider: Provider) -> None:
    product.start_apply(proxy_toml=provider.proxy_toml("nonsense = true"))
    product.settings["proxy_toml"] = provider.proxy_toml()
    wait_until(lambda: "CrashLoop" in product.kubectl("get", "pods"), "a crash", seconds=60)
    assert "nonsense" in on_call.run("CrashLoopBackOff", {"<deployment>": PROXY})
    on_call.run("Change the configuration", editor="sed -i '/nonsense/d' $1")


def test_roles_that_are_gone(on_call: OnCall, product: Product) -> None:
    product.kubectl("delete", "rolebinding", "oauth-pool-operator", "oauth-pool-proxy")
    product.create_account("unseen")
    on_call.run("PoolReconcileErrors")
    product.wait_for_status("unseen", "LoginRequired", seconds=60)
    product.kubectl("delete", "rolebinding", "oauth-pool-proxy")
    on_call.run("PoolIndexStale")
    product.kubectl("delete", "oauthaccount", "unseen")


def test_more_proxies_and_none(on_call: OnCall, product: Product) -> None:
    compare = {"--replicas=1": lambda: (on_call.run("PoolProxiesDisagree"), on_call.run("PoolAccessTokenLate"))}
    on_call.run("Scale", before=compare)
    product.kubectl("scale", f"deployment/{PROXY}", "--replicas=0")
    wait_until(lambda: product.has_gone(PROXY), "no proxy")
    on_call.run("PoolProxyAbsent")
    on_call.run("Autoscale")


def test_an_update_and_the_way_back(
    on_call: OnCall, product: Product, images: Images, previous_images: Images, previous_source: Path
) -> None:
    if not (previous_source / "k8s/cluster").exists():
        pytest.skip("the version before was installed otherwise: test_rollouts.py goes there and back")
    on_call.type("git add -A && git commit -qm 'As it is'")
    on_call.run("Update", editor=f"sed -i 's/newTag: {images.tag}/newTag: {previous_images.tag}/' $1")
    assert running(product) == {previous_images.tag}
    on_call.type("git commit -qam Update")
    on_call.run("Roll back")
    assert running(product) == {images.tag}
    for name in (ONE, TWO):
        product.wait_for_status(name, "Available")


def subject(name: str) -> str:
    return f"{name}@example.com"


def generation(product: Product, name: str) -> int:
    found: int = product.account(name)["status"]["token"]["generation"]
    return found


def is_fresh(product: Product, name: str) -> bool:
    """Its access token was obtained in the last minute."""
    obtained: str = product.account(name)["status"]["token"]["refreshTime"]
    return obtained > time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 60))


def conditions(product: Product, name: str) -> set[str]:
    """The reasons of all that are True."""
    found = product.account(name).get("status", {}).get("conditions", [])
    return {condition["reason"] for condition in found if condition["status"] == "True"}


def refresh(product: Product, name: str) -> None:
    """Now, also where a proxy's report has had the account refreshed a moment ago and would have to wait."""
    when = f"oauthpool.dev/refresh-requested={time.time_ns()}"
    product.kubectl("annotate", "oauthaccount", name, when, "--overwrite")


def expire(provider: Provider, name: str) -> None:
    """The provider no longer takes the access tokens that it has issued."""
    provider.simulator.call("POST", f"accounts/{subject(name)}/expire-access-tokens")


@contextmanager
def closed(provider: Provider) -> Iterator[Callable[[], None]]:
    """Nobody gets a new connection to the provider, until the block ends or what it is given is called."""

    def lead_to(port: int) -> None:
        patch = {"spec": {"ports": [{"port": 443, "targetPort": port}]}}
        provider.kubectl("patch", "service", "provider", "-p", json.dumps(patch))

    lead_to(1)
    try:
        yield lambda: lead_to(443)
    finally:
        lead_to(443)


def original_entry(provider: Provider, name: str) -> dict[str, object]:
    tokens = provider.simulator.issue_tokens(subject(name))
    expires = int((time.time() + tokens["expires_in"]) * 1000)
    return {"type": "oauth", "refresh": tokens["refresh_token"], "access": tokens["access_token"], "expires": expires}


def running(product: Product) -> set[str]:
    """The tags of the images that are meant to run."""
    path = "jsonpath={.items[*].spec.template.spec.containers[*].image}"
    return {image.rpartition(":")[2] for image in product.kubectl("get", "deployments", "-o", path).split()}


def fill_in_examples(folder: Path) -> None:
    """As their user would."""
    words = {"provider: anthropic": "provider: simulator", "fdrl_REPLACE": RULE}
    words["00000000-0000-0000-0000-000000000000"] = ORGANIZATION
    for file in folder.glob("*.yaml"):
        text = file.read_text()
        for ours, theirs in words.items():
            text = text.replace(ours, theirs)
        file.write_text(text)


def keep_in_git(person: OnCall) -> None:
    person.type("git init -q . && git config user.name 'On Call' && git config user.email on-call@example.com")
    person.type("printf '%s\\n' '*.tar' credentials.json > .gitignore")
