"""The Prometheus operator's CustomResourceDefinitions, as its own repository has them. Its Go module is the package."""

import json
import os
import subprocess
import tempfile
from pathlib import Path

from tests.support.control_plane import ControlPlaneError
from tests.support.control_plane.binaries import go_toolchain

MODULE = "github.com/prometheus-operator/prometheus-operator@v0.85.0"
SUM = "h1:M5xLCLEoaW2IJfnuCwFzzpL+jSVQu3KGT84Pye+fW8s="


def definition(plural: str) -> Path:
    """The file with the definition of that kind. Downloads the module when Go's cache does not have it."""
    return _module() / "example" / "prometheus-operator-crd" / f"monitoring.coreos.com_{plural}.yaml"


def _module() -> Path:
    # SUM says what has to come, so that nobody else has to be asked.
    environment = os.environ | {"GOTOOLCHAIN": "local", "GONOSUMDB": MODULE.partition("@")[0]}
    command: list[str | Path] = [go_toolchain(lambda _: None), "mod", "download", "-json", MODULE]
    with tempfile.TemporaryDirectory() as outside_of_any_module:
        done = subprocess.run(
            command, cwd=outside_of_any_module, env=environment, check=False, capture_output=True, text=True
        )
    answer = json.loads(done.stdout or "{}")
    if done.returncode or answer.get("Sum") != SUM:
        raise ControlPlaneError(f"{MODULE} could not be had: {answer.get('Error') or done.stderr or answer}")
    return Path(answer["Dir"])
