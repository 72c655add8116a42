"""What all connections of a server share."""

import logging
from collections.abc import Callable

from uvicorn.server import ServerState

from oauth_pool_proxy.errors import ProxyError

log = logging.getLogger(__name__)

WARNING_SECONDS = 60.0


class State(ServerState):
    """`refused` is told of what was answered although it was no request."""

    def __init__(self, most_clients: int, idle_seconds: float, refused: Callable[[str, ProxyError], None]) -> None:
        super().__init__()
        self.most_clients, self.idle_seconds, self.refused = most_clients, idle_seconds, refused
        self.clients = 0
        """Connections on the traffic port."""
        self.is_leaving = False
        """The server ends soon: each answer is the last of its connection, so that none is closed while a request comes in."""
        self._next_warning = float("-inf")

    def too_many(self, now: float) -> None:
        """A connection is closed because there are `most_clients` already. Said once a minute at the most."""
        if now >= self._next_warning:
            self._next_warning = now + WARNING_SECONDS
            fields = {"max_client_connections": self.most_clients}
            log.warning("too many client connections, closing new ones", extra={"fields": fields})
