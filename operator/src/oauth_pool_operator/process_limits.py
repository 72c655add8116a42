"""What the process asks of the kernel for itself."""

import resource


def forbid_core_dumps() -> None:
    """A core file would hold every token that is in memory; hard, so that nothing in this process can allow it again."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
