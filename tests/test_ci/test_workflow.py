"""The rules that .github/workflows/ci.yml keeps, beside what `make lint` has actionlint and zizmor say about it."""

import os
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.support.left_out import ALL_TESTS
from tests.test_ci.repository import ROOT

TEXT = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
AUDIT = (ROOT / ".github" / "workflows" / "audit.yml").read_text()
WORKFLOW: dict[str, Any] = yaml.safe_load(TEXT)
JOBS: dict[str, dict[str, Any]] = WORKFLOW["jobs"]
MAKEFILE = (ROOT / "Makefile").read_text()
every_job = pytest.mark.parametrize("name", JOBS)


def steps(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = JOBS[name]["steps"]
    return found


def commands() -> Iterator[str]:
    return (step["run"] for name in JOBS for step in steps(name) if "run" in step)


def make_targets() -> set[str]:
    """Those that the workflow calls."""
    return {command.removeprefix("make ") for command in commands() if command.startswith("make ")}


def only(pattern: str, text: str) -> str:
    (found,) = re.findall(pattern, text, re.MULTILINE)
    return str(found)


def test_every_action_is_pinned_by_its_commit_and_says_the_version() -> None:
    assert len(re.findall(r"uses: (.*)", TEXT)) == sum("uses" in step for name in JOBS for step in steps(name))
    uses = re.findall(r"uses: (.*)", TEXT + AUDIT)
    pins = [re.fullmatch(r"([a-z-]+/[a-z-]+)@([0-9a-f]{40}) # (v\d+\.\d+\.\d+)( # zizmor: .*)?", use) for use in uses]
    assert None not in pins
    assert len({pin[1] for pin in pins if pin}) == len({pin.groups()[:3] for pin in pins if pin})


@every_job
def test_every_job_ends_and_says_what_it_may_do(name: str) -> None:
    assert 0 < JOBS[name]["timeout-minutes"] <= 40
    assert "permissions" in JOBS[name]


def test_only_two_jobs_may_write_and_none_of_them_runs_for_a_pull_request() -> None:
    assert WORKFLOW["permissions"] == {}
    writing = {
        name: {scope for scope, access in job["permissions"].items() if access != "read"} for name, job in JOBS.items()
    }
    assert {name: scopes for name, scopes in writing.items() if scopes} == {
        "publish": {"packages", "id-token"},
        "deploy": {"contents"},
    }
    assert "github.event_name == 'push'" in JOBS["publish"]["if"]
    assert JOBS["deploy"]["needs"] == "publish"
    assert JOBS["deploy"]["if"] == "github.ref == 'refs/heads/main'"


def test_only_the_job_that_pushes_keeps_the_credentials_of_its_checkout() -> None:
    kept = {
        name
        for name in JOBS
        for step in steps(name)
        if step.get("uses", "").startswith("actions/checkout@") and step["with"]["persist-credentials"] is not False
    }
    assert kept == {"deploy"}


def test_every_command_is_one_line_that_a_laptop_knows_too() -> None:
    scripts = {entry.name for entry in os.scandir(ROOT / ".ci") if os.access(entry, os.X_OK)}
    for command in commands():
        found = re.fullmatch(r'\.ci/([a-z-]+)( "\$[A-Z]+")?( >> "\$GITHUB_OUTPUT")?', command)
        assert command.startswith("make ") or (found and found[1] in scripts), command


def test_the_targets_are_in_the_makefile() -> None:
    assert make_targets() <= set(re.findall(r"^([a-z0-9-]+):.*## ", MAKEFILE, re.MULTILINE))


def test_ci_runs_all_that_is_run_before_a_push() -> None:
    checks = set(only(r"^check: ([a-z ]+) ##", MAKEFILE).split())
    assert checks | {"test"} <= make_targets()


def test_nothing_that_strangers_write_is_part_of_a_command() -> None:
    assert not [command for command in commands() if "${{" in command]
    assert "pull_request_target" not in TEXT


def test_main_is_deployed_only_after_everything_has_passed() -> None:
    assert {*JOBS["passed"]["needs"], "passed", "publish", "deploy"} == set(JOBS)
    assert JOBS["passed"]["if"] == "always()"
    assert "passed" in JOBS["publish"]["needs"]


def test_a_change_of_documentation_starts_no_other_job() -> None:
    for name in JOBS.keys() - {"changes", "passed", "deploy"}:
        output = {"test": "tests", "e2e": "e2e", "e2e-argocd": "e2e"}.get(name, "code")
        assert f"needs.changes.outputs.{output} == 'true'" in JOBS[name]["if"]


def test_runs_of_main_are_never_ended_for_another() -> None:
    """Only a pull request has a number; every other run is a group of its own."""
    assert WORKFLOW["concurrency"]["group"] == "ci-${{ github.event.pull_request.number || github.run_id }}"
    assert JOBS["deploy"]["concurrency"]["cancel-in-progress"] is False


def test_a_test_that_is_left_out_is_a_failure() -> None:
    assert JOBS["test"]["env"] == {ALL_TESTS: "1"}
    assert f"\nexport {ALL_TESTS}=1\n" in (ROOT / ".ci" / "run").read_text()


def test_what_is_known_to_be_vulnerable_is_looked_for_also_when_nothing_changes() -> None:
    workflow = yaml.safe_load(AUDIT)
    assert workflow[True]["schedule"]  # YAML takes `on` for a truth
    assert workflow["permissions"] == {}
    assert workflow["jobs"]["audit"]["steps"] == steps("audit")


def test_the_product_runs_on_the_oldest_kubernetes_and_on_the_newest() -> None:
    oldest, newest = JOBS["e2e"]["strategy"]["matrix"]["node"]
    assert newest == ""
    (supported,) = re.findall(r"Kubernetes (1\.\d+) or newer", (ROOT / "README.md").read_text())
    assert oldest.startswith(f"kindest/node:v{supported}.") and "@sha256:" in oldest
    namespace = (ROOT / "k8s/base/proxy/namespace.yaml").read_text()
    assert f"enforce-version: v{supported}\n" in namespace


def test_images_are_signed_by_what_they_are() -> None:
    (build,) = [step for step in steps("publish") if step.get("id") == "build"]
    assert build["with"]["sbom"] is True
    assert steps("publish")[-1] == {
        "id": "signed",
        "env": {"PROGRAM": "${{ matrix.program }}", "DIGEST": "${{ steps.build.outputs.digest }}"},
        "run": '.ci/sign "$PROGRAM" >> "$GITHUB_OUTPUT"',
    }


def test_what_was_signed_is_what_is_deployed() -> None:
    programs = JOBS["publish"]["strategy"]["matrix"]["program"]
    assert JOBS["publish"]["outputs"] == {name: f"${{{{ steps.signed.outputs.{name} }}}}" for name in programs}
    assert steps("deploy")[-1]["env"] == {
        f"{name.upper()}_DIGEST": f"${{{{ needs.publish.outputs.{name} }}}}" for name in programs
    }


def test_tests_run_on_the_oldest_python_and_on_that_of_the_images() -> None:
    oldest = only(r'^requires-python = ">=(.*)"$', (ROOT / "proxy" / "pyproject.toml").read_text())
    of_images = only(r"^BASE \?= python:([0-9.]+)-slim$", MAKEFILE)
    assert JOBS["test"]["strategy"]["matrix"]["python"] == [oldest, of_images]
