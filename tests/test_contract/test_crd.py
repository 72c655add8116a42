"""The custom resource definition, on a real API server: what it accepts, and what it tells people.

Messages are compared word for word where they are ours, because they are all that a person with a bad manifest sees.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from oauth_pool_operator.account import conditions
from tests.support.control_plane import ControlPlane, KubectlError, wait_until

ROOT = Path(__file__).parents[2]
CRD = yaml.safe_load((ROOT / "crds" / "oauthaccount.yaml").read_text())
SCHEMA = CRD["spec"]["versions"][0]["schema"]["openAPIV3Schema"]

WORKLOAD_IDENTITY = {
    "serviceAccountName": "inference",
    "federationRuleID": "fdrl_01AbCdEf",
    "organizationID": "01234567-89ab-cdef-0123-456789abcdef",
}


def account(name: str = "claude-1", **spec: Any) -> dict[str, Any]:
    """A manifest that is in order, with `spec` on top; a member that is None is left out."""
    spec = {"provider": "anthropic", "grant": "AuthorizationCode"} | spec
    return {
        "apiVersion": "oauthpool.dev/v1alpha1",
        "kind": "OAuthAccount",
        "metadata": {"name": name},
        "spec": {key: value for key, value in spec.items() if value is not None},
    }


def workload_identity(**changes: Any) -> dict[str, Any]:
    return account(grant="WorkloadIdentity", workloadIdentity=WORKLOAD_IDENTITY | changes)


class Accounts:
    """The OAuthAccounts of one namespace."""

    def __init__(self, control_plane: ControlPlane, namespace: str) -> None:
        self.kubectl, self.api, self.namespace = control_plane.kubectl, control_plane.api, namespace

    def apply(self, manifest: dict[str, Any], *flags: str) -> str:
        return self.kubectl("apply", "-n", self.namespace, "-f", "-", *flags, input=yaml.safe_dump(manifest))

    def refusal(self, manifest: dict[str, Any]) -> str:
        """What kubectl says about a manifest that the API server refuses."""
        with pytest.raises(KubectlError) as refused:
            self.apply(manifest)
        return refused.value.stderr

    def get(self, name: str = "claude-1") -> dict[str, Any]:
        answer = self.kubectl("get", "oauthaccount", name, "-n", self.namespace, "-o", "yaml")
        return dict(yaml.safe_load(answer))

    def table(self, *flags: str) -> list[list[str]]:
        """The rows of `kubectl get`; columns are two spaces apart or more."""
        lines = self.kubectl("get", "oauthaccounts", "-n", self.namespace, *flags).splitlines()
        return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines]

    def write_status(self, status: dict[str, Any], name: str = "claude-1") -> None:
        self._patch(name, status, {}, "application/merge-patch+json")

    def report(self, entry: dict[str, Any], name: str = "claude-1") -> None:
        """As a proxy does: server-side apply of its own list entry, under its own field manager."""
        body = {"apiVersion": "oauthpool.dev/v1alpha1", "kind": "OAuthAccount", "status": {"reports": [entry]}}
        self._patch(name, body, {"fieldManager": entry["reporter"]}, "application/apply-patch+yaml")

    def _patch(self, name: str, body: dict[str, Any], params: dict[str, str], content_type: str) -> None:
        body = body if "kind" in body else {"status": body}
        path = f"/apis/oauthpool.dev/v1alpha1/namespaces/{self.namespace}/oauthaccounts/{name}/status"
        answer = self.api.patch(path, json=body, params=params, headers={"content-type": content_type})
        assert answer.is_success, answer.text


@pytest.fixture
def accounts(control_plane: ControlPlane, namespace: str) -> Accounts:
    return Accounts(control_plane, namespace)


# What is accepted


def test_what_is_not_said_gets_its_default(accounts: Accounts) -> None:
    accounts.apply(account())
    assert accounts.get()["spec"] == {
        "provider": "anthropic",
        "grant": "AuthorizationCode",
        "suspend": False,
        "priority": 0,
        "weight": 1,
        "maxConcurrentRequests": 0,
        "cooldown": "2h",
        "deletionPolicy": "Revoke",
    }


@pytest.mark.parametrize(
    "manifest",
    [
        *(
            pytest.param(account(cooldown=cooldown), id=cooldown)
            for cooldown in ("1s", "90m", "1h30m", "2h0m5s", "192h")
        ),
        pytest.param(account(priority=-1000, weight=1000, maxConcurrentRequests=1), id="at the ends of the ranges"),
        pytest.param(account(name="n" * 63), id="longest name"),
        pytest.param(account(grant="DeviceCode", expectedSubject="alice@example.com"), id="device code"),
        pytest.param(account(expectedSubject="alice@example.com"), id="expected subject, an address"),
        pytest.param(account(expectedSubject="A Team, Inc."), id="expected subject, words"),
        pytest.param(account(expectedSubject="7"), id="expected subject, one character"),
        pytest.param(workload_identity(), id="workload identity"),
        pytest.param(workload_identity(serviceAccountID="svac_1", workspaceID="default"), id="with optional ids"),
    ],
)
def test_is_accepted(accounts: Accounts, manifest: dict[str, Any]) -> None:
    assert accounts.apply(manifest).endswith("created\n")


# What is refused, and the message

COOLDOWN = "cooldown must be a duration from 1s to 192h, in whole hours, minutes and seconds, such as 90m, 2h or 1h30m"
REFUSED = {
    "no provider": (account(provider=None), "spec.provider: Required value"),
    "no spec": (account() | {"spec": None}, "spec: Required value"),
    "no grant": (account(grant=None), "spec.grant: Required value"),
    "long provider": (account(provider="p" * 64), "spec.provider: Too long: may not be more than 63 bytes"),
    "suspended in words": (account(suspend="yes"), 'spec.suspend in body must be of type boolean: "string"'),
    "half a weight": (account(weight=1.5), "spec.weight in body must be of type int32"),
    "more requests than a number holds": (
        account(maxConcurrentRequests=2**31),
        "must be of type integer with format int32 in spec.maxConcurrentRequests",
    ),
    "workload identity without rule and organization": (
        account(grant="WorkloadIdentity", workloadIdentity={"serviceAccountName": "inference"}),
        "spec.workloadIdentity.organizationID: Required value",
    ),
    "long ServiceAccount name": (
        workload_identity(serviceAccountName="n" * 254),
        "spec.workloadIdentity.serviceAccountName: Too long: may not be more than 253 bytes",
    ),
    "long federation rule": (
        workload_identity(federationRuleID="fdrl_" + "x" * 124),
        "spec.workloadIdentity.federationRuleID: Too long: may not be more than 128 bytes",
    ),
    "long organization": (
        workload_identity(organizationID=WORKLOAD_IDENTITY["organizationID"] + "0"),
        "spec.workloadIdentity.organizationID: Too long: may not be more than 36 bytes",
    ),
    "long service account id": (
        workload_identity(serviceAccountID="svac_" + "x" * 124),
        "spec.workloadIdentity.serviceAccountID: Too long: may not be more than 128 bytes",
    ),
    "long workspace": (
        workload_identity(workspaceID="w" * 129),
        "spec.workloadIdentity.workspaceID: Too long: may not be more than 128 bytes",
    ),
    "long cooldown": (account(cooldown="0" * 30 + "1h0m"), "spec.cooldown: Too long: may not be more than 32 bytes"),
    "misspelt field": (account(weigth=2), 'unknown field "spec.weigth"'),
    "provider that is no profile name": (
        account(provider="https://example.com"),
        (
            "provider must be the name of a provider profile in the operator's configuration: lower case letters, digits "
            "and '-', with a letter or digit at both ends"
        ),
    ),
    "unknown grant": (
        account(grant="Password"),
        'spec.grant: Unsupported value: "Password": supported values: "AuthorizationCode", "DeviceCode", "WorkloadIdentity"',
    ),
    "workload identity missing": (
        account(grant="WorkloadIdentity"),
        (
            "spec.workloadIdentity: Required value: grant WorkloadIdentity needs workloadIdentity: name the "
            "ServiceAccount, the federation rule and the organization there"
        ),
    ),
    "workload identity with another grant": (
        account(workloadIdentity=WORKLOAD_IDENTITY),
        "spec.workloadIdentity: Forbidden: workloadIdentity is only for grant WorkloadIdentity: remove it",
    ),
    "workload identity without a ServiceAccount": (
        account(grant="WorkloadIdentity", workloadIdentity={"federationRuleID": "fdrl_1"}),
        "spec.workloadIdentity.serviceAccountName: Required value",
    ),
    "empty workspace": (
        workload_identity(workspaceID=""),
        "spec.workloadIdentity.workspaceID in body should be at least 1 chars long",
    ),
    "an expected subject without a login": (
        account(grant="WorkloadIdentity", workloadIdentity=WORKLOAD_IDENTITY, expectedSubject="alice@example.com"),
        (
            "spec.expectedSubject: Forbidden: expectedSubject is only for grants with which a person logs in: remove it, "
            "because with WorkloadIdentity the provider's federation rule decides whose token it is"
        ),
    ),
    "no expected subject": (
        account(expectedSubject=""),
        (
            "expectedSubject must be one line of text without space around it, such as an e-mail address: remove it to "
            "let anybody log in"
        ),
    ),
    "expected subject with space around": (account(expectedSubject="alice "), "without space around it"),
    "expected subject of two lines": (account(expectedSubject="alice\nbob"), "must be one line of text"),
    "long expected subject": (account(expectedSubject="a" * 254), "may not be more than 253"),
    "provider of another type": (account(provider=7), 'spec.provider in body must be of type string: "integer"'),
    "workload identity with a device code": (
        account(grant="DeviceCode", workloadIdentity=WORKLOAD_IDENTITY),
        "spec.workloadIdentity: Forbidden: workloadIdentity is only for grant WorkloadIdentity: remove it",
    ),
    "ServiceAccount name": (
        workload_identity(serviceAccountName="In ference"),
        (
            "serviceAccountName must be the name of a ServiceAccount: lower case letters, digits, '-' and '.', with a "
            "letter or digit at both ends"
        ),
    ),
    "federation rule": (
        workload_identity(federationRuleID="rule-1"),
        "federationRuleID must be the id of a federation rule, which starts with 'fdrl_'",
    ),
    "organization": (
        workload_identity(organizationID="acme"),
        "organizationID must be a UUID, such as 01234567-89ab-cdef-0123-456789abcdef",
    ),
    "service account id": (
        workload_identity(serviceAccountID="inference"),
        (
            "serviceAccountID must be the id of the provider's service account, which starts with 'svac_'; the Kubernetes "
            "ServiceAccount goes into serviceAccountName"
        ),
    ),
    "priority above the range": (account(priority=1001), "spec.priority in body should be less than or equal to 1000"),
    "priority below the range": (account(priority=-1001), "should be greater than or equal to -1000"),
    "weight 0": (account(weight=0), "spec.weight in body should be greater than or equal to 1"),
    "weight above the range": (account(weight=1001), "spec.weight in body should be less than or equal to 1000"),
    "fewer than no requests": (account(maxConcurrentRequests=-1), "should be greater than or equal to 0"),
    "deletion policy": (account(deletionPolicy="Delete"), 'supported values: "Revoke", "Retain"'),
    "cooldown in words": (account(cooldown="two hours"), COOLDOWN),
    "cooldown without a unit": (account(cooldown="7200"), COOLDOWN),
    "cooldown in fractions": (account(cooldown="1.5h"), COOLDOWN),
    "cooldown in the wrong order": (account(cooldown="30m1h"), COOLDOWN),
    "cooldown too short": (account(cooldown="0s"), COOLDOWN),
    "cooldown too long": (account(cooldown="192h1s"), COOLDOWN),
    "cooldown that no duration can hold": (account(cooldown="9999999999h"), COOLDOWN),
    "no cooldown": (account(cooldown=""), COOLDOWN),
    "long name": (
        account(name="n" * 64),
        (
            "metadata.name: Invalid value: the name is too long: choose one of at most 63 characters, because it is used "
            "in labels and metrics"
        ),
    ),
}


@pytest.mark.parametrize(("manifest", "message"), REFUSED.values(), ids=REFUSED)
def test_is_refused_with_a_message_that_helps(accounts: Accounts, manifest: dict[str, Any], message: str) -> None:
    refusal = accounts.refusal(manifest)
    assert message in refusal
    assert "evaluation error" not in refusal


def test_provider_and_grant_stay_as_they_are(accounts: Accounts) -> None:
    accounts.apply(account())
    assert (
        "provider cannot be changed, because the tokens belong to it: create another OAuthAccount for the other "
        in (accounts.refusal(account(provider="other")))
    )
    changed = workload_identity()
    assert "grant cannot be changed: create another OAuthAccount with the other grant" in accounts.refusal(changed)


def test_everything_else_can_be_changed(accounts: Accounts) -> None:
    accounts.apply(workload_identity())
    changed = workload_identity(serviceAccountName="other", workspaceID="default")
    changed["spec"] |= {"suspend": True, "priority": 1, "weight": 2, "maxConcurrentRequests": 3, "cooldown": "1h"}
    changed["spec"]["deletionPolicy"] = "Retain"
    assert accounts.apply(changed).endswith("configured\n")
    assert accounts.get()["spec"] == changed["spec"]


# Status


STATUS = {
    "observedGeneration": 1,
    "subject": "someone@example.com",
    "token": {"generation": 17, "fingerprint": "9f86d081884c7d65", "expirationTime": "2126-11-20T20:00:00Z"},
    "quota": {"windows": [{"name": "5h", "utilization": 0.28}], "observedTime": "2025-01-01T00:00:00Z"},
    "columns": {
        "fiveHour": "28%",
        "sevenDay": "108%",
        "resets": "2126-11-20T21:00Z",
        "tokenExpires": "2126-11-20T20:00Z",
    },
    "conditions": [
        {
            "type": "QuotaAvailable",
            "status": "False",
            "reason": "QuotaExhausted",
            "message": "",
            "lastTransitionTime": "2026-11-20T19:00:00Z",
        },
        {
            "type": "Ready",
            "status": "False",
            "reason": "CoolingDown",
            "message": "QuotaExhausted until 2126-11-20T21:00:00Z",
            "lastTransitionTime": "2026-11-20T19:00:00Z",
        },
    ],
}


def test_a_person_cannot_write_the_status(accounts: Accounts) -> None:
    accounts.apply(account() | {"status": STATUS})
    assert "status" not in accounts.get()


def test_kubectl_get_prints_what_the_operator_wrote(accounts: Accounts) -> None:
    accounts.apply(account())
    accounts.write_status(STATUS)
    header, row = accounts.table()
    assert header == ["NAME", "STATUS", "5H", "7D", "RESETS", "TOKEN-EXPIRES", "AGE"]
    assert row[:-1] == ["claude-1", "CoolingDown", "28%", "108%", "2126-11-20T21:00Z", "2126-11-20T20:00Z"]


def test_the_wide_table_adds_where_it_is_from_and_why(accounts: Accounts) -> None:
    accounts.apply(account())
    accounts.write_status(STATUS)
    header, row = accounts.table("-o", "wide")
    shown = dict(zip(header, row, strict=True))
    assert shown["QUOTA-SEEN"][0].isdecimal()  # an age, as 5m or 3d2h
    assert shown | {"AGE": "", "QUOTA-SEEN": ""} == {
        "NAME": "claude-1",
        "STATUS": "CoolingDown",
        "5H": "28%",
        "7D": "108%",
        "RESETS": "2126-11-20T21:00Z",
        "TOKEN-EXPIRES": "2126-11-20T20:00Z",
        "QUOTA-SEEN": "",
        "PROVIDER": "anthropic",
        "GRANT": "AuthorizationCode",
        "SUBJECT": "someone@example.com",
        "MESSAGE": "QuotaExhausted until 2126-11-20T21:00:00Z",
        "AGE": "",
    }


def test_every_member_that_the_design_names_survives(accounts: Accounts) -> None:
    """The API server drops members that the schema does not know without a word."""
    accounts.apply(account())
    window = {"name": "5h", "utilization": 1.08, "status": "rejected", "resetTime": "2026-11-20T21:00:00Z"}
    instant = "2026-11-20T20:00:00Z"
    status = STATUS | {
        "login": {
            "authorizationURL": "https://example.com/authorize?state=s",
            "userCode": "BCDF-GHJK",
            "verificationURI": "https://example.com/device",
            "verificationURIComplete": "https://example.com/device?user_code=BCDF-GHJK",
            "sessionID": "0123456789abcdef",
            "startTime": instant,
            "expirationTime": instant,
        },
        "token": {
            "generation": 17,
            "fingerprint": "9f86d081884c7d65",
            "refreshTime": instant,
            "expirationTime": instant,
            "nextRefreshTime": instant,
        },
        "quota": {"windows": [window], "observedTime": instant},
        "cooldown": {"untilTime": instant, "reason": "QuotaExhausted"},
        "reports": [
            {
                "reporter": "proxy-a",
                "observedTime": instant,
                "reason": "QuotaExhausted",
                "untilTime": instant,
                "tokenGeneration": 17,
                "windows": [window],
            }
        ],
        "lastHandledLoginRequest": "1",
    }
    accounts.write_status(status)
    assert accounts.get()["status"] == status


def test_reports_of_two_proxies_stand_side_by_side_and_outlive_the_operators_writes(accounts: Accounts) -> None:
    accounts.apply(account())
    first = {"reporter": "proxy-a", "observedTime": "2026-11-20T20:00:00Z", "reason": "RateLimited"}
    second = {"reporter": "proxy-b", "observedTime": "2026-11-20T20:00:01Z", "reason": "Unauthorized"}
    accounts.report(first)
    accounts.report(second)
    accounts.write_status(STATUS)
    accounts.report(first | {"reason": "QuotaExhausted"})
    status = accounts.get()["status"]
    assert status["reports"] == [first | {"reason": "QuotaExhausted"}, second]
    assert status["conditions"] == STATUS["conditions"]


# Finding and explaining


@pytest.mark.parametrize("word", ["oacc", "oauth", "oauthaccount", "oauthaccounts.oauthpool.dev"])
def test_is_found_by(accounts: Accounts, word: str) -> None:
    accounts.apply(account())
    assert "claude-1" in accounts.kubectl("get", word, "-n", accounts.namespace)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("oauthaccount", "one account at an OAuth provider"),
        ("oauthaccount.spec.grant", "a person logs in"),
        ("oauthaccount.spec.cooldown", "192h, such as 90m, 2h or 1h30m"),
        ("oauthaccount.status.conditions.reason", "AwaitingAuthorizationCode"),
    ],
)
def test_is_explained(control_plane: ControlPlane, path: str, text: str) -> None:
    # The document that kubectl reads this from comes a second after the definition.
    explained = wait_until(lambda: control_plane.kubectl("explain", path, check=False), "the kind is explained")
    assert text in " ".join(explained.split())


def test_every_field_has_a_description() -> None:
    assert [path for path, schema in _fields(SCHEMA) if not schema.get("description", "").endswith(".")] == []


def test_the_page_names_every_field() -> None:
    page = (ROOT / "docs" / "oauthaccount.md").read_text()
    names = {path.rpartition(".")[2].removesuffix("[]") for path, _ in _fields(SCHEMA)}
    assert sorted(name for name in names - {"spec", "status"} if f"`{name}`" not in page) == []


def test_every_reason_that_the_operator_gives_is_explained_on_the_page_and_by_kubectl() -> None:
    words = [word for name, word in vars(conditions).items() if name.isupper() and isinstance(word, str)]
    page = (ROOT / "docs" / "oauthaccount.md").read_text()
    schema = yaml.safe_dump(SCHEMA["properties"]["status"]["properties"]["conditions"], width=10_000)
    assert "Available" in words
    assert [word for word in words if f"`{word}`" not in page and f"#### {word}" not in page] == []
    assert [word for word in words if word not in schema] == []


def _fields(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    for name, child in schema.get("properties", {}).items():
        if path or name != "metadata":  # the API server describes metadata, and forbids a text of ours
            yield f"{path}.{name}", child
            yield from _fields(child, f"{path}.{name}")
    if "items" in schema:
        yield f"{path}[]", schema["items"]
        yield from _fields(schema["items"], f"{path}[]")
