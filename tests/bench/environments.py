"""Python environments beside the project's own, for what only the benchmark needs: a dependency group each, made on first use."""

import subprocess
from pathlib import Path

from tests.bench.processes import BenchmarkError
from tests.support.stack import ROOT


def python_with(group: str) -> Path:
    """The interpreter of the environment that has this dependency group of pyproject.toml installed."""
    # Make knows how things are installed here, and whether it was done.
    made = f".tools/{group}/.installed"
    done = subprocess.run(["make", "--no-print-directory", made], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchmarkError(f"`make {made}` failed:\n{done.stdout}{done.stderr}")
    return ROOT / ".tools" / group / "bin" / "python"
