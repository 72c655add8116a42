"""What can go wrong with a control plane, as errors that say enough to act on."""


class ControlPlaneError(Exception):
    """The control plane cannot be built, started or used; the message says why."""


class NotInTime(ControlPlaneError):
    """Something was waited for in vain."""


class PortTaken(ControlPlaneError):
    """Somebody else listens on the port that was chosen: another one will do."""


class KubectlError(ControlPlaneError):
    """kubectl failed; `stderr` is what it told the person who called it."""

    def __init__(self, arguments: tuple[str, ...], stderr: str) -> None:
        super().__init__(f"kubectl {' '.join(arguments)}: {stderr.strip()}")
        self.stderr = stderr
