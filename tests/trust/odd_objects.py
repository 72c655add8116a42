"""OAuthAccounts as nobody sensible writes them, made at a real API server: what it accepts, the operator has to live with."""

import json
import string
from dataclasses import dataclass
from random import Random
from typing import Any

from tests.support.control_plane import wait_until
from tests.support.control_plane.errors import NotInTime
from tests.support.stack import Stack

GRANTS = ("AuthorizationCode", "DeviceCode", "WorkloadIdentity")
TEXTS = (
    *("", " ", "a", "simulator", "nobody", "broken", "-a", "A", "x" * 63, "x" * 64, "x" * 300, "x" * 70_000),
    *("../../etc/passwd", "a\nb", "a\0b", "\u202e\u2028", "ä€𝄞", "'; --", "${HOME}", "{{ }}", "%s%n", "null", "1e400"),
)
NUMBERS = (0, 1, -1, 2**31 - 1, 2**31, -(2**31), 2**53, 2**63 - 1, 2**64, 1.5, -0.0)
DURATIONS = ("2h", "0s", "1s", "192h", "193h", "999999h", "1h1h", "-1h", "1.5h", "1d", "", "9" * 32)
WORKLOAD = ("serviceAccountName", "federationRuleID", "organizationID", "serviceAccountID", "workspaceID")
MEMBERS = (
    "expectedSubject",
    "suspend",
    "priority",
    "weight",
    "maxConcurrentRequests",
    "cooldown",
    "deletionPolicy",
    "x",
)
ANNOTATIONS = (
    "authorization-code",
    "login-requested",
    "cooldown-cleared",
    "refresh-requested",
    "logout-requested",
    "import-requested",
)


@dataclass
class Outcome:
    made: int
    accepted: int
    silent: list[str]
    """Accounts whose status says nothing of their present spec."""
    is_well: bool
    """The operator went on, and an ordinary account can be logged in."""


def odd_spec(random: Random) -> dict[str, Any]:
    """Mostly what the schema allows, with one or two members that are as they should not be."""
    grant = random.choice((*GRANTS * 4, "Password"))
    spec: dict[str, Any] = {
        "provider": random.choice(("simulator", "simulator", "nobody", "broken", "loopback", random.choice(TEXTS))),
        "grant": grant,
    }
    if (grant == "WorkloadIdentity") != (random.random() < 0.1):
        good = {"serviceAccountName": "inference", "federationRuleID": "fdrl_a", "organizationID": str(_uuid(random))}
        spec["workloadIdentity"] = good | {
            name: random.choice(TEXTS) for name in random.sample(WORKLOAD, random.choice((0, 0, 1)))
        }
    for name in random.sample(MEMBERS, random.choice((0, 1, 1, 2))):
        spec[name] = _value(name, random)
    return spec


def _value(name: str, random: Random) -> Any:
    match name:
        case "suspend":
            return random.choice((True, False, False, "yes"))
        case "cooldown":
            return random.choice(DURATIONS)
        case "deletionPolicy":
            return random.choice(("Revoke", "Retain", "Forget"))
        case "priority" | "weight" | "maxConcurrentRequests":
            return random.choice(NUMBERS)
        case _:
            return random.choice((*TEXTS, [], {}, 1))


def _uuid(random: Random) -> str:
    digits = "".join(random.choice(string.hexdigits.lower()) for _ in range(32))
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def _metadata(number: int, random: Random) -> dict[str, Any]:
    name = random.choice((f"odd-{number}", f"odd.{number}", f"{number}", f"{'x' * 60}-{number}"))
    annotations = {
        f"oauthpool.dev/{key}": random.choice(TEXTS) for key in random.sample(ANNOTATIONS, random.randint(0, 3))
    }
    many = {f"x.example/{index}": "y" for index in range(random.choice((0, 0, 0, 1000)))}
    labels = {"tier": random.choice(("gold", "", "x" * 63))}
    return {"name": name, "annotations": annotations | many, "labels": labels}


def make(stack: Stack, count: int, seed: int) -> Outcome:
    """Make so many, change some, and see what the operator says of those that the API server takes."""
    random = Random(seed)
    api, accepted = stack.control_plane.api, []
    path = f"/apis/oauthpool.dev/v1alpha1/namespaces/{stack.namespace}/oauthaccounts"
    for number in range(count):
        manifest = stack.account("a") | {"metadata": _metadata(number, random), "spec": odd_spec(random)}
        answer = api.post(path, content=json.dumps(manifest), headers={"content-type": "application/json"})
        assert answer.status_code in (201, 400, 422), answer.text
        if answer.status_code == 201:
            accepted.append(manifest["metadata"]["name"])
    for name in random.sample(accepted, len(accepted) // 3):  # another member, of what may be changed
        change = {"spec": {member: _value(member, random) for member in random.sample(MEMBERS, 1)}}
        api.patch(
            f"{path}/{name}", content=json.dumps(change), headers={"content-type": "application/merge-patch+json"}
        )
    silent = _silent(stack, path)
    stack.apply(stack.account("ordinary"))
    stack.log_in("ordinary", "ordinary@example.com")
    return Outcome(count, len(accepted), silent, stack.operator.is_running)


def _silent(stack: Stack, path: str) -> list[str]:
    def unanswered() -> list[str]:
        items = stack.control_plane.api.get(path).json()["items"]
        return [item["metadata"]["name"] for item in items if not _says_something(item)]

    try:
        wait_until(lambda: not unanswered(), "a status of every odd account", 60)
    except NotInTime:
        return unanswered()
    return []


def _says_something(item: dict[str, Any]) -> bool:
    """Of the present spec, whether it is ready, why, and in words."""
    status = item.get("status", {})
    ready: dict[str, str] = next((one for one in status.get("conditions", []) if one["type"] == "Ready"), {})
    is_present = status.get("observedGeneration") == item["metadata"]["generation"]
    return is_present and bool(ready.get("reason")) and bool(ready.get("message"))
