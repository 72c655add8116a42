"""What each client did: only where clients are known. Names are bounded, whoever comes."""

from oauth_pool_proxy.observe.instruments import BUCKETS, Counter, Histogram

STRANGER = "stranger"
"""The label of requests of nobody that is known; those that were refused for it, too."""
OTHER = "other"


class ClientMetrics:
    """The first `most_names` clients have a label of their own; those who come later share one."""

    def __init__(self, most_names: int) -> None:
        self._most_names = most_names
        self._names = {STRANGER}
        self._requests = Counter("proxy_client_requests", "Finished requests of each client", "client", "status")
        self._duration = Histogram(
            "proxy_client_request_duration_seconds",
            "Time from a client's request to the last byte of its answer",
            BUCKETS,
            "client",
        )
        self._queue_wait = Histogram(
            "proxy_client_queue_wait_seconds", "Time that a client's requests waited in line", BUCKETS, "client"
        )
        self.collectors = (self._requests, self._duration, self._queue_wait)

    def label_of(self, client: str) -> str:
        if client in self._names:
            return client
        if len(self._names) > self._most_names:
            return OTHER
        self._names.add(client)
        return client

    def finished(self, client: str, status: int, seconds: float) -> None:
        label = self.label_of(client)
        self._requests.add((label, str(status)))
        self._duration.observe(seconds, (label,))

    def waited(self, client: str, seconds: float) -> None:
        self._queue_wait.observe(seconds, (self.label_of(client),))
