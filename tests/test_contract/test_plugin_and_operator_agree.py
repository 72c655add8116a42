"""The kubectl plugin and the operator share no code: that they mean the same by their names is compared here."""

from datetime import UTC, datetime
from types import ModuleType
from typing import Any

import pytest
import yaml

from kubectl_oauthaccount import conditions, names
from kubectl_oauthaccount.pasted import problem_with
from oauth_pool_operator.account import conditions as operators_conditions
from oauth_pool_operator.account import spec
from oauth_pool_operator.account.status import OWNED
from oauth_pool_operator.oauth.login import judge, open_session
from tests.support.stack import ROOT


def constants(module: ModuleType) -> dict[str, str]:
    return {name: value for name, value in vars(module).items() if name.isupper() and isinstance(value, str)}


@pytest.mark.parametrize("name", constants(conditions))
def test_every_condition_type_and_reason_is_one_of_the_operator_s(name: str) -> None:
    theirs = {*constants(operators_conditions).values(), *operators_conditions.FAILING.values()}
    assert constants(conditions)[name] in theirs


def test_the_kind_and_the_annotation_of_a_code_are_the_operator_s() -> None:
    for name in ("GROUP", "VERSION", "KIND", "PLURAL", "CODE_ANNOTATION"):
        assert getattr(names, name) == getattr(spec, name)


@pytest.mark.parametrize("name", ["LOGIN", "CLEAR", "REFRESH", "LOGOUT"])
def test_what_is_asked_by_an_annotation_the_operator_reads_there_and_answers_in_status(name: str) -> None:
    request: names.Request = getattr(names, name)
    assert request.annotation == getattr(spec, f"{name}_ANNOTATION", None)
    assert request.answer in OWNED


@pytest.mark.parametrize(
    "request_", [names.LOGIN, names.CLEAR, names.REFRESH, names.LOGOUT], ids=lambda one: one.answer
)
def test_the_kind_has_room_for_every_answer(request_: names.Request) -> None:
    crd = yaml.safe_load((ROOT / "crds/oauthaccount.yaml").read_text())
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"]
    assert request_.annotation in schema[request_.answer]["description"]


NOW = datetime(2026, 11, 20, 18, 0, tzinfo=UTC)
PASTED = {
    "code and state": "a-code#{state}",
    "with white space": "  a-code#{state}\n",
    "in two lines": "a-co\nde#{state}",
    "in quotes": "'a-code#{state}'",
    "with characters that have no width": "a-code\u200b#{state}\ufeff",
    "encoded": "a-code%23{state}",
    "a code alone": "a-code",
    "the redirect URL": "https://x.example/cb?code=a-code&state={state}&iss=https%3A%2F%2Fx.example",
    "to this machine": "http://127.0.0.1:1455/cb?state={state}&code=a-code",
    "of a program": "myapp:/cb?code=a-code&state={state}",
    "in the fragment": "https://x.example/cb#code=a-code&state={state}",
    "without the address": "code=a-code&state={state}",
    "an error beside a code": "https://x.example/cb?code=a-code&state={state}&error=",
}


@pytest.mark.parametrize("pasted", PASTED.values(), ids=PASTED)
def test_what_the_operator_takes_of_a_paste_the_plugin_does_not_refuse(pasted: str) -> None:
    session = open_session(NOW, "")
    text = pasted.format(state=session.state)
    is_taken = judge(session, text, NOW, "alice", allow_without_state=True).problem is None
    assert problem_with(text, session.state) == "" or not is_taken
    assert is_taken or pasted not in (PASTED["code and state"], PASTED["the redirect URL"], PASTED["a code alone"])


@pytest.mark.parametrize(
    "text",
    [
        *("a-code#another-state", "https://x.example/cb?code=a&state=b", "https://x.example/cb?error=access_denied"),
        *("#", "https://x.example/", "http://127.0.0.1:1455/cb?error=x&state={state}"),
    ],
)
def test_what_the_plugin_refuses_of_a_paste_the_operator_would_not_take(text: str) -> None:
    session = open_session(NOW, "")
    text = text.format(state=session.state)
    assert problem_with(text, session.state) != ""
    assert judge(session, text, NOW, "alice", allow_without_state=True).problem is not None


def test_the_operator_s_pod_is_found_by_the_labels_that_are_shipped() -> None:
    template = operator_deployment()["spec"]["template"]
    name, _, value = names.OPERATOR_SELECTOR.partition("=")
    assert template["metadata"]["labels"][name] == value
    assert names.OPERATOR_CONTAINER in [container["name"] for container in template["spec"]["containers"]]


def operator_deployment() -> dict[str, Any]:
    documents = yaml.safe_load_all((ROOT / "k8s/base/operator.yaml").read_text())
    return next(one for one in documents if one["kind"] == "Deployment")
