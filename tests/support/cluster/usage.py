"""What the containers of the product use while the tests run, as the kubelet counts it, beside what they may use."""

import json
import threading
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from tests.support.cluster.kubectl import Kubectl
from tests.support.cluster.product import NAMESPACE
from tests.support.control_plane.errors import KubectlError

SECONDS_BETWEEN_LOOKS = 3.0
MIB = 1024 * 1024


@dataclass
class Use:
    """The most that one container of a name was seen with: MiB of its working set, and cores over some seconds."""

    memory: float = 0
    cpu: float = 0


class Usage:
    """Looks again and again, between `start` and `stop`."""

    def __init__(self, kubectl: Kubectl) -> None:
        self._kubectl = kubectl
        self._most: dict[str, Use] = defaultdict(Use)
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._look_again_and_again, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._ending.set()
        self._thread.join()

    def most(self) -> dict[str, Use]:
        """By container name."""
        with self._lock:
            return dict(self._most)

    def _look_again_and_again(self) -> None:
        names = self._kubectl("get", "nodes", "-o", "name").split()
        while not self._ending.wait(SECONDS_BETWEEN_LOOKS):
            for name in names:
                with suppress(KubectlError):  # a node may be too busy to answer
                    self._look(
                        json.loads(self._kubectl("get", "--raw", f"/api/v1/{name_path(name)}/proxy/stats/summary"))
                    )

    def _look(self, summary: dict[str, Any]) -> None:
        for pod in summary["pods"]:
            if pod["podRef"]["namespace"] == NAMESPACE:
                for container in pod.get("containers", ()):
                    self._note(container)

    def _note(self, container: dict[str, Any]) -> None:
        with self._lock:
            use = self._most[container["name"]]
            use.memory = max(use.memory, container.get("memory", {}).get("workingSetBytes", 0) / MIB)
            use.cpu = max(use.cpu, container.get("cpu", {}).get("usageNanoCores", 0) / 1e9)


def name_path(name: str) -> str:
    """`node/NAME`, as kubectl prints it, in a path of the API."""
    return f"nodes/{name.partition('/')[2]}"
