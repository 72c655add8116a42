"""A proxy that was taken over: it has the token of its pod, and what its Role allows."""

import base64
from collections.abc import Mapping
from datetime import timedelta

from tests.support.sealing import new_key
from tests.support.stack import instant
from tests.test_manifests.proxies import APPLY, MERGE, Caller, pod_owner, proxies_path

from .hostile_stack import ACCOUNTS, HostileStack, Log

POD = "proxy-bad"
NOW, FAR = "2026-11-28T00:00:00Z", "9999-12-31T23:59:59Z"


def act(stack: HostileStack, log: Log, many: int) -> None:
    """`many` is how often what is a matter of numbers is done."""
    bad = stack.pod(POD)
    owner = pod_owner(stack.control_plane, stack.namespace, POD)
    is_in = bad.declare(POD, owners=[owner], key=base64.b64encode(new_key()[1]).decode()).is_success
    log.add("declares itself", 1, "gets the tokens of the pool, as every proxy", kept=is_in)

    # what is others'
    others = proxies_path(stack.namespace) + "/proxy-0"
    codes = [
        stack.request(bad, "DELETE", others).status_code,
        stack.request(bad, "PATCH", others, {"spec": {"publicKey": "A" * 43 + "="}}, MERGE).status_code,
        bad.declare("proxy-0", owners=[owner]).status_code,
        bad.declare(POD, owners=[]).status_code,
        bad.say_how_many("proxy-0", 0).status_code,
    ]
    log.add("takes another proxy's place, or deletes it", len(codes), "403 and 422", kept=set(codes) <= {403, 422})
    writes = {"configmaps/oauth-pool": {"data": {"alice": "{}"}}, "configmaps/oauth-tokens": {"data": {}}}
    codes = [stack.request(bad, "PATCH", path, body, MERGE).status_code for path, body in writes.items()]
    codes += [stack.request(bad, "GET", path).status_code for path in ("secrets", "pods", "configmaps", "events")]
    codes += [
        stack.request(
            bad, "DELETE", f"/apis/oauthpool.dev/v1alpha1/namespaces/{stack.namespace}/oauthaccounts"
        ).status_code
    ]
    log.add("writes the index, reads the namespace", len(codes), "403", kept=set(codes) == {403})
    codes = [_report(bad, "alice", reporter="proxy-0"), bad.patch_status({"subject": "mallory"}).status_code]
    codes += [bad.patch_status({"conditions": []}).status_code, bad.patch_status({"token": None}).status_code]
    log.add("reports in another's name, forges a status", len(codes), "422", kept=set(codes) <= {403, 422})

    # lies
    before = {name: stack.get(name)["status"]["token"]["generation"] for name in ACCOUNTS}
    served, taken = 0, 0
    for number in range(many):
        for name in ACCOUNTS:
            generation = before[name] + number % 3
            taken += _report(bad, name, {"reason": "Unauthorized", "tokenGeneration": generation}) == 200
        served += stack.ask().is_success
    refreshed = sum(stack.get(name)["status"]["token"]["generation"] - before[name] for name in ACCOUNTS)
    is_bounded = refreshed <= 2 * len(ACCOUNTS) and not any(_is_disabled(stack, name) for name in ACCOUNTS)
    came = f"{refreshed} refreshes, none is disabled, {served} of {many} requests served meanwhile"
    log.add(
        "reports all tokens dead in a loop",
        len(ACCOUNTS) * many,
        came,
        kept=is_bounded and served == many and taken > 0,
    )

    far: dict[str, object] = {
        "reason": "QuotaExhausted",
        "untilTime": FAR,
        "observedTime": _now(),
        "tokenGeneration": 1,
    }
    _report(bad, "bob", far)
    benched = stack.has_reason("bob", "CoolingDown")
    stack.kubectl("annotate", "oauthaccount", "bob", "oauthpool.dev/cooldown-cleared=1", "--overwrite")
    back = stack.has_reason("bob", "Available")
    log.add(
        "reports a quota that is used up until the year 9999",
        1,
        "a cooldown, which a person ends",
        kept=benched and back,
    )

    # size and number
    windows = [{"name": f"w{number}", "utilization": 1.0} for number in range(10_000)]
    codes = [_report(bad, "alice", {"windows": windows}), _report(bad, "alice", {"reason": "x" * 100_000})]
    log.add("huge reports", 2, "422", kept=set(codes) <= {413, 422})
    for number in range(5 * many):
        _report(bad, "alice", {"observedTime": _now(), "requestsPerMinute": number})
    log.add("floods an account with reports", 5 * many, "all others go on", kept=stack.is_well())
    _withdraw(bad)
    calm = all(stack.has_reason(name, "Available") for name in ACCOUNTS)
    log.add("leaves", 1, "all accounts are Available", kept=calm)


def _report(caller: Caller, account: str, fields: Mapping[str, object] | None = None, *, reporter: str = POD) -> int:
    entry = {"reporter": reporter, "observedTime": NOW, "tokenGeneration": 1, **(fields or {})}
    body = {"apiVersion": "oauthpool.dev/v1alpha1", "kind": "OAuthAccount", "status": {"reports": [entry]}}
    return caller.send("PATCH", body, to=f"/{account}/status", content_type=APPLY, manager=f"m-{reporter}").status_code


def _withdraw(caller: Caller) -> None:
    for name in ACCOUNTS:
        body = {"apiVersion": "oauthpool.dev/v1alpha1", "kind": "OAuthAccount", "status": {"reports": []}}
        caller.send("PATCH", body, to=f"/{name}/status", content_type=APPLY, manager=f"m-{POD}")


def _reason(stack: HostileStack, name: str) -> str:
    return str(stack.condition(name, "Ready").get("reason"))


def _is_disabled(stack: HostileStack, name: str) -> bool:
    return _reason(stack, name) in ("Disabled", "LoginRequired")


def _now() -> str:
    return instant(timedelta(0))
