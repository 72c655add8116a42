"""ArgoCD's own interpreter says of every account what ours says in tests/test_manifests/test_argocd.py."""

import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml

from tests.support.cluster.argocd import ArgoCD
from tests.test_manifests.account_health import CASES, Case
from tests.test_manifests.manifests import K8S


def test_health_of_every_account(argocd: ArgoCD, tmp_path: Path) -> None:
    program = shutil.which("argocd")
    assert program, "ArgoCD's command line program, argocd, is not on PATH"

    def assessed(case: Case) -> tuple[str, str]:
        file = tmp_path / f"{case.name}.yaml"
        file.write_text(yaml.safe_dump(case.object))
        command = ["admin", "settings", "resource-overrides", "health", str(file), "--argocd-cm-path"]
        said = subprocess.run(
            [program, *command, str(K8S / "argocd" / "argocd-cm.yaml")], capture_output=True, text=True, check=True
        ).stdout
        status, _, message = said.partition("\n")
        return status.removeprefix("STATUS: "), message.removeprefix("MESSAGE: ")

    with ThreadPoolExecutor(2) as threads:
        said = dict(zip((case.name for case in CASES), threads.map(assessed, CASES), strict=True))
    expected = {case.name: (case.health, case.reason) for case in CASES}
    assert {
        name: (health, expected[name][1] if message.startswith(expected[name][1]) else message)
        for name, (health, message) in said.items()
    } == expected
