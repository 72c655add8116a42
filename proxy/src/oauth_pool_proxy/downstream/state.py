"""State that all connections of a server share."""

import logging
from collections.abc import Coroutine
from typing import Any, Protocol

from uvicorn.server import ServerState

from oauth_pool_proxy.downstream.client import Client
from oauth_pool_proxy.errors import ProxyError

log = logging.getLogger(__name__)

WARNING_SECONDS = 60.0


class Application(Protocol):
    """Answers requests, each in a separate task."""

    def serve(self, client: Client) -> Coroutine[Any, Any, None]: ...
    def serve_tailnet(self, client: Client) -> Coroutine[Any, Any, None]:
        """Serve a request that came in on `tailscale_listen_addr`."""

    def serve_monitoring(self, client: Client) -> Coroutine[Any, Any, None]:
        """Serve a request that came in on `metrics_addr`."""

    def refused(self, request_id: str, error: ProxyError) -> None:
        """Note that something other than a valid request was answered with this error."""


class State(ServerState):
    def __init__(self, most_clients: int, idle_seconds: float, application: Application) -> None:
        super().__init__()
        self.most_clients, self.idle_seconds, self.application = most_clients, idle_seconds, application
        self.clients = 0
        """Connections on the traffic port."""
        self.is_leaving = False
        """The server ends soon. Each answer is the last on its connection, so none is closed while a request comes in."""
        self._next_warning = float("-inf")

    def too_many(self, now: float) -> None:
        """Log that a connection is closed because there are `most_clients` already. At most once a minute."""
        if now >= self._next_warning:
            self._next_warning = now + WARNING_SECONDS
            fields = {"max_client_connections": self.most_clients}
            log.warning("too many client connections, closing new ones", extra={"fields": fields})
