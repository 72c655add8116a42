"""What is known of one request while it runs, and what is said about it at its end."""

import time
from dataclasses import dataclass, field
from enum import StrEnum

from oauth_pool_proxy.downstream.admission import Share
from oauth_pool_proxy.observe.access_log import RequestLine
from oauth_pool_proxy.observe.usage import UsageReader
from oauth_pool_proxy.pool.request_body import Description, describe
from oauth_pool_proxy.relay import Progress
from oauth_pool_proxy.upstream.headers import Headers


class Phase(StrEnum):
    """How far a request has come; where it was when its client left."""

    QUEUED = "queued"
    BODY = "body"
    WAITING = "waiting"
    ANSWERING = "answering"


@dataclass(slots=True)
class Request:
    id: str
    method: str
    target: bytes
    headers: Headers
    progress: Progress
    began: float = field(default_factory=time.monotonic)
    phase: Phase = Phase.QUEUED
    outgoing: Headers = field(default_factory=list)
    """What the upstream is sent, but for `host`, `content-length` and the account's `authorization`."""
    body: bytes = b""
    room: Share | None = None
    """In the memory for bodies, as long as there is one."""
    bytes_in: int = 0
    model: str | None = None
    """As far as it is known: from the body, if anything had to be looked up there, or from the answer."""
    conversation: bytes | None = None
    account: str | None = None
    attempts: int = 0
    failures: int = 0
    first_byte_at: float | None = None
    is_stream: bool = False
    upstream_request_id: bytes | None = None
    usage: UsageReader | None = None
    tried: set[str] = field(default_factory=set)
    retry_at: float | None = None
    """The soonest that an account which is not to blame said it would take this request."""
    _description: Description | None = None
    _is_described: bool = False

    def describe(self) -> Description | None:
        """What the body says. Looked at only when something depends on it: that costs a millisecond per megabyte."""
        if not self._is_described:
            self._is_described = True
            self._description = describe(self.body) if self.body else None
            if self._description:
                self.model = self._description.model
        return self._description

    def forget(self) -> None:
        """It will not be sent again, and its answer may be a stream that lasts for an hour."""
        self.body = b""
        if self.room:
            self.room.give_back()
        self._description = None
        self.headers.clear()
        self.outgoing.clear()

    @property
    def path(self) -> str:
        """Without the query, which may hold anything."""
        return self.target.partition(b"?")[0].decode("ascii", "replace")

    @property
    def first_byte_seconds(self) -> float | None:
        return None if self.first_byte_at is None else self.first_byte_at - self.began

    def line(self, outcome: str, seconds: float, error: Exception | None) -> RequestLine:
        """What the log says of it."""
        first_byte, upstream_id = self.first_byte_seconds, self.upstream_request_id
        return RequestLine(
            self.id,
            self.method,
            self.path,
            self.progress.status,
            outcome,
            self.attempts,
            round(seconds * 1000, 1),
            self.bytes_in,
            self.progress.bytes_sent,
            self.is_stream,
            None if first_byte is None else round(first_byte * 1000, 1),
            self.account,
            self.model,
            upstream_id.decode("latin-1") if upstream_id else None,
            (str(error) or type(error).__name__) if error else None,
        )
