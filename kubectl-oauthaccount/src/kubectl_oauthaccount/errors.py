"""What ends a command, typed by its exit code. Every message is one line that says what to do, and holds no secret."""


class PluginError(Exception):
    """The command failed; the text is all that the person reads."""

    exit_code = 1


class UsageError(PluginError):
    """Wrong usage of the command."""

    exit_code = 2


class TimedOut(PluginError):
    """What was waited for did not come."""

    exit_code = 3


class NotFound(PluginError):
    """The object is not there."""


class Forbidden(PluginError):
    """The person may not do this."""


class Unreachable(PluginError):
    """The API server did not answer, or broke off: it may help to try again."""
