"""The Lease that says which operator works, as a value and as the API server has it (coordination.k8s.io)."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from lightkube.resources import coordination_v1

LEASE_NAME = "oauth-pool-operator"


@dataclass(frozen=True)
class Lease:
    """As it is now; `version` is empty if it does not exist yet."""

    holder: str
    acquired: datetime
    renewed: datetime
    seconds: float
    transitions: int
    version: str

    def released(self) -> "Lease":
        """The same, free for the next holder."""
        return replace(self, holder="", seconds=1)


def rendered(lease: Lease) -> dict[str, Any]:
    """As it is to be; over what was read, if there was one."""
    spec = {
        "holderIdentity": lease.holder,
        "leaseDurationSeconds": int(lease.seconds),
        "acquireTime": _micro_time(lease.acquired),
        "renewTime": _micro_time(lease.renewed),
        "leaseTransitions": lease.transitions,
    }
    metadata = {"resourceVersion": lease.version} if lease.version else {"name": LEASE_NAME}
    return {"metadata": metadata, "spec": spec}


def parsed(found: coordination_v1.Lease) -> Lease:
    spec, metadata = found.spec, found.metadata
    assert metadata is not None
    long_ago = datetime.fromtimestamp(0, UTC)
    return Lease(
        holder=(spec.holderIdentity if spec else None) or "",
        acquired=(spec.acquireTime if spec else None) or long_ago,
        renewed=(spec.renewTime if spec else None) or long_ago,
        seconds=(spec.leaseDurationSeconds if spec else None) or 0,
        transitions=(spec.leaseTransitions if spec else None) or 0,
        version=metadata.resourceVersion or "",
    )


def _micro_time(instant: datetime) -> str:
    return instant.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
