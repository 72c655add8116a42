"""A run as a file: the figures, and what they were measured on."""

import json
import platform
import re
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from tests.bench.figures import Results
from tests.bench.processes import BenchmarkError


def save(path: Path, results: Results, about: Mapping[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"about": about, "values": results.values}, indent=1) + "\n")


def load(path: Path) -> tuple[Results, dict[str, object]]:
    try:
        document = json.loads(path.read_text())
        return Results(document["values"]), document["about"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BenchmarkError(f"{path} is not a saved run: {error}") from None


def about(cores: int, python: Path, nginx: str | None, options: Mapping[str, object]) -> dict[str, object]:
    """What a reader has to know to place the figures."""
    model = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "processor": model[1] if model else platform.machine(),
        "cores": cores,
        "kernel": platform.release(),
        "python": _said([str(python), "--version"]),
        "nginx": _said([nginx, "-v"]) if nginx else None,
        **options,
    }


def _said(command: list[str]) -> str:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    return done.stdout.strip().rpartition(":")[2].strip()
