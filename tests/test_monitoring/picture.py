"""`make dashboard-picture`: docs/dashboard.png, what the dashboard shows of a real pool under load.

Grafana has no part in it: each panel's queries are put to a real Prometheus, and `drawing.py` draws the answers in the
dashboard's layout, with the interpreter that has matplotlib.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.bench.environments import python_with
from tests.support.control_plane import ControlPlane
from tests.support.prometheus_programs import PROMETHEUS
from tests.support.stack import ROOT, serve_accounts
from tests.test_manifests.manifests import Manifest
from tests.test_monitoring.component import dashboard
from tests.test_monitoring.panel_answers import lines
from tests.test_monitoring.pool_under_load import Watched, pool_under_load

FILE = ROOT / "docs" / "dashboard.png"
LOOK_BACK = 5
"""Seconds of rest before the load, so that its beginning is seen."""


def panel_with_lines(panel: Manifest, watched: Watched) -> Manifest:
    """The panel, and under `lines` what there is to draw: pairs of seconds since the beginning and a value."""
    start = watched.rest_ended - LOOK_BACK
    found = (
        lines(watched.prometheus, panel, watched.stack.namespace, start, watched.ended) if "targets" in panel else ()
    )
    drawn = [
        {
            "reference": line.reference,
            "name": line.name,
            "labels": line.answer.labels,
            "points": [(instant - start, value) for instant, value in line.answer.points],
        }
        for line in found
    ]
    return {**panel, "lines": drawn}


def main() -> None:
    parser = argparse.ArgumentParser(prog="make dashboard-picture", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120, help="how long the load takes (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=FILE, help="default: %(default)s")
    options = parser.parse_args()
    python = python_with("bench")  # before the load, which takes longer
    with ControlPlane() as control_plane, tempfile.TemporaryDirectory(prefix="oauth-pool-picture-") as folder:
        serve_accounts(control_plane)
        with pool_under_load(control_plane, PROMETHEUS.get(), seconds=options.seconds) as watched:
            panels = [panel_with_lines(panel, watched) for panel in dashboard()["panels"]]
        answers = Path(folder) / "answers.json"
        answers.write_text(json.dumps({"title": dashboard()["title"], "panels": panels}))
        command = [python, "-m", "tests.test_monitoring.drawing", answers, options.output.resolve()]
        subprocess.run(command, cwd=ROOT, check=True)
    sys.stderr.write(f"drawn as {options.output}\n")


if __name__ == "__main__":
    main()
