"""A stack whose operator speaks with the API server by way of a relay, which may do to it what gateways and outages do."""

from pathlib import Path

from tests.support.api_relay import ApiRelay
from tests.support.stack import Stack


class RelayedStack(Stack):
    """Set `relay` before the operator is started."""

    relay: ApiRelay

    def as_operator(self) -> dict[str, str]:
        original = Path(super().as_operator()["KUBECONFIG"])
        return {"KUBECONFIG": str(self.relay.kubeconfig(original, self.folder / "kubeconfig"))}
