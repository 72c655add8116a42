"""A real Kubernetes control plane for tests and demonstrations: etcd and kube-apiserver on this machine, in 2 to 3 s.

    with ControlPlane() as control_plane:
        control_plane.apply(Path("crds"))
        control_plane.kubectl("get", "oauthaccounts")

`binaries.py` finds or builds what it runs, `guard.py` is the process that ends everything for certain.
`python -m tests.support.control_plane --help` lists what a person can do with it.
"""

from tests.support.control_plane.binaries import binaries, binaries_are_there
from tests.support.control_plane.errors import ControlPlaneError, KubectlError
from tests.support.control_plane.plane import ControlPlane
from tests.support.control_plane.waiting import wait_until

__all__ = ["ControlPlane", "ControlPlaneError", "KubectlError", "binaries", "binaries_are_there", "wait_until"]
