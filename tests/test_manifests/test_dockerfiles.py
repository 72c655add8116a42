"""What the Dockerfiles have to say the same as other files. What they make is looked at by `make test-images`."""

import re

import pytest

from tests.test_manifests.manifests import ROOT, WITH_KUSTOMIZE, overlay, pod_templates

pytestmark = WITH_KUSTOMIZE

DOCKERFILES = ["Dockerfile.proxy", "Dockerfile.operator"]
every_dockerfile = pytest.mark.parametrize("name", DOCKERFILES)


def only(pattern: str, file: str) -> str:
    (found,) = re.findall(pattern, (ROOT / file).read_text(), re.MULTILINE)
    return str(found)


@every_dockerfile
def test_images_are_built_with_the_uv_that_wrote_the_locks(name: str) -> None:
    assert only(r"^ARG UV_VERSION=(\S+)$", name) == only(r"^UV_VERSION := (\S+)$", "Makefile")


@every_dockerfile
def test_the_base_is_chosen_by_name_and_the_same_for_both_stages(name: str) -> None:
    assert only(r"^ARG BASE=(\S+)$", name) == only(r"^BASE \?= (\S+)$", "Makefile") == "python:3.13-slim"
    assert set(re.findall(r"^FROM (\S+)", (ROOT / name).read_text(), re.MULTILINE)) == {"${BASE}"}


@every_dockerfile
def test_the_user_is_that_of_the_manifests(name: str) -> None:
    contexts = [template["spec"]["securityContext"] for template in pod_templates(overlay("default")).values()]
    users = {f"{context['runAsUser']}:{context['runAsGroup']}" for context in contexts}
    assert users == {only(r"^USER (\S+)$", name)}


@every_dockerfile
def test_only_what_is_copied_is_sent_to_the_builder(name: str) -> None:
    sent = re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    for source in re.findall(r"^COPY (?!--from)(\S+) ", (ROOT / name).read_text(), re.MULTILINE):
        assert [path for path in sent if path == source or path.startswith(f"{source}/")]
    assert (ROOT / ".dockerignore").read_text().splitlines()[1] == "*"
