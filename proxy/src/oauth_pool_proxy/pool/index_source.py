"""What both sources of the pool index have in common: ConfigMaps and a folder.

They run forever, keep the last good state while the source is out of reach, and never stop the proxy. An index that is gone says
nothing: the last state is kept, and its accounts are used until their access tokens expire. An index that exists but names no
account empties the pool.
"""

import logging
from collections.abc import Callable, Mapping

log = logging.getLogger(__name__)

OnIndex = Callable[[Mapping[str, str]], None]

GONE = "the pool index is gone; its accounts are used until their access tokens end"


class Outage:
    """Logs once that something is out of reach, and once that it is back."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._is_out = False

    def failed(self, error: Exception) -> None:
        level = logging.DEBUG if self._is_out else logging.WARNING
        log.log(
            level, "%s cannot be read; going on with what is known", self._what, extra={"fields": {"error": str(error)}}
        )
        self._is_out = True

    def worked(self) -> None:
        if self._is_out:
            log.info("%s can be read again", self._what)
        self._is_out = False
