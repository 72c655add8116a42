"""Runs the end-to-end tests: finds or makes a cluster, builds the images, brings them there, and starts pytest.

The cluster is the one that KUBECONFIG names (or the usual ~/.kube/config). Where none answers, one is made with kind, if
kind and docker are there, and removed at the end.
"""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.cluster.images import PREVIOUS, TAG, Builder, ImageError
from tests.support.control_plane import ControlPlaneError, binaries
from tests.support.control_plane.binaries import kubectl_in

HERE = Path(__file__).parent
KIND_CLUSTER = "oauth-pool-e2e"
NO_CLUSTER = """\
There is no cluster to test on. Either let KUBECONFIG name one, and say with LOAD=… how images get to its nodes
(LOAD='minikube image load', LOAD='docker push' with an IMAGE_PREFIX=registry/ that the nodes can pull from), or install
kind and docker: then one is made here. What kubectl said: """


class NoCluster(Exception):
    """There is none, and none can be made."""


def say(text: str) -> None:
    sys.stderr.write(f"e2e: {text}\n")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="make e2e", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--engine", default="docker", help="docker, podman or buildah")
    parser.add_argument("--base", default="python:3.13-slim", help="the base image")
    parser.add_argument("--uv-version", required=True)
    parser.add_argument("--image-prefix", default="localhost/", help="of the images' names")
    parser.add_argument("--load", default="", help="command that brings the image named after it to the nodes")
    parser.add_argument("--inside", default="", help="command prefix for what talks to the cluster")
    parser.add_argument("--node-image", default="", help="of the cluster that is made with kind")
    parser.add_argument("--no-images", action="store_true", help="those of the run before are still there")
    parser.add_argument("tests", nargs="*", metavar="PYTEST-ARGUMENT", help="after --; default: all tests")
    options = parser.parse_args()
    inside = shlex.split(options.inside)
    try:
        with cluster(inside, options.node_image) as load:
            builder = Builder(
                engine=options.engine,
                base=options.base,
                uv_version=options.uv_version,
                prefix=options.image_prefix,
                load=options.load or load,
                say=say,
            )
            if not builder.load:
                raise NoCluster(
                    "LOAD=… has to say how images get to the nodes of this cluster; see make e2e ARGS=--help"
                )
            if not options.no_images:
                builder.make_all()
            return run_pytest(inside, builder, options.tests)
    except (NoCluster, ImageError, ControlPlaneError) as error:
        say(str(error))
        return 2


@contextmanager
def cluster(inside: list[str], node_image: str) -> Iterator[str]:
    """Yields the command that brings images there, if it is known. Raises NoCluster."""
    kubectl = str(kubectl_in(binaries(say)))
    asked = subprocess.run([*inside, kubectl, "get", "nodes"], capture_output=True, text=True, check=False)
    if asked.returncode == 0:
        yield ""
        return
    if shutil.which("kind") is None or shutil.which("docker") is None:
        raise NoCluster(NO_CLUSTER + asked.stderr.strip())
    say("making a cluster with kind")
    config = str(HERE / "kind.yaml")
    image = ["--image", node_image] if node_image else []
    create = ["kind", "create", "cluster", "--name", KIND_CLUSTER, "--config", config, "--wait=120s", *image]
    subprocess.run(create, check=True)
    try:
        yield f"kind load docker-image --name {KIND_CLUSTER}"
    finally:
        subprocess.run(["kind", "delete", "cluster", "--name", KIND_CLUSTER], check=False)


def run_pytest(inside: list[str], builder: Builder, arguments: list[str]) -> int:
    if not any(Path(argument.partition("::")[0]).exists() for argument in arguments):
        arguments = [*arguments, str(HERE.relative_to(Path.cwd()))]
    options = [f"--image-prefix={builder.prefix}", f"--image-tag={TAG}", f"--previous-image-tag={PREVIOUS}"]
    command = [*inside, sys.executable, "-m", "pytest", *options, *arguments]
    return subprocess.run(command, check=False, env=os.environ).returncode


if __name__ == "__main__":
    sys.exit(main())
