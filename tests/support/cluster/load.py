"""Load from inside the cluster, through the Service, while a test does something to the product."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.cluster.kubectl import Kubectl
from tests.support.cluster.product import URL

PROGRAM = Path(__file__).with_name("load_client.py")


@dataclass
class Load:
    """Filled when it has ended: how many answers came out how, and the first that were not complete."""

    outcomes: dict[str, int] = field(default_factory=dict)
    examples: list[str] = field(default_factory=list)

    @property
    def complete(self) -> int:
        return self.outcomes.get("complete", 0)

    @property
    def others(self) -> dict[str, int]:
        """Everything that was not a complete answer; empty is what one hopes for."""
        return {name: count for name, count in self.outcomes.items() if name != "complete"}


@contextmanager
def load(kubectl: Kubectl, kind: str, *, at_once: int, pause: float = 0.1, url: str = URL) -> Iterator[Load]:
    """So many clients ask until the block ends; then what is under way goes to its end. `kind`: streams or messages."""
    arguments = [kind, f"--url={url}", f"--at-once={at_once}", f"--pause={pause}"]
    # the program comes along as an argument: standard input is the signal to end
    command = kubectl.command("exec", "-i", "deployment/client", "--", "python", "-c", PROGRAM.read_text(), *arguments)
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    found = Load()
    try:
        yield found
        out, complaints = process.communicate(timeout=90)
    except BaseException:
        process.kill()
        process.communicate()
        raise
    assert process.returncode == 0, f"the load ended with {process.returncode}: {complaints}"
    said = json.loads(out)
    found.outcomes, found.examples = said["outcomes"], said["examples"]
