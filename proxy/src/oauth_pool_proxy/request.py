"""What is known of one request while it runs, and what is said about it at its end."""

import time
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from oauth_pool_proxy.downstream.admission import Share
from oauth_pool_proxy.errors import ClientGone, ProxyError, StreamBroken
from oauth_pool_proxy.observe.access_log import RequestLine
from oauth_pool_proxy.pool.request_body import Description, describe
from oauth_pool_proxy.relay import Progress
from oauth_pool_proxy.upstream.headers import Headers

if TYPE_CHECKING:
    from oauth_pool_proxy.downstream.identity.allowance import Caller


class Phase(StrEnum):
    """How far a request has come; where it was when its client left."""

    QUEUED = "queued"
    BODY = "body"
    WAITING = "waiting"
    ANSWERING = "answering"


class Blame(StrEnum):
    """Whose doing the end of a request was; in the log line and in metrics it is the `verdict`."""

    OK = "ok"
    REQUEST = "request"
    ACCOUNT = "account"
    LIMIT = "limit"
    UPSTREAM = "upstream"
    CLIENT = "client"
    PROXY = "proxy"

    @classmethod
    def of(cls, status: int) -> "Blame":
        """For an answer of the upstream that is passed on."""
        if status < 400:
            return cls.OK
        if status == 429:
            return cls.LIMIT
        return cls.UPSTREAM if status >= 500 else cls.REQUEST


@dataclass(slots=True)
class Request:
    """What the client asked, and what is said of it at the end."""

    id: str
    method: str
    target: bytes
    headers: Headers = field(repr=False)
    progress: Progress
    peer: str = ""
    """The address that the connection comes from."""
    is_from_tailnet: bool = False
    """Whether it came by the listener that only the Tailscale proxy can reach."""
    caller: "Caller | None" = None
    """Who asks, where clients are known."""
    path: str = field(init=False)
    """Without the query, which may hold anything."""
    began: float = field(default_factory=time.monotonic)
    phase: Phase = Phase.QUEUED
    body: bytes = field(default=b"", repr=False)
    room: Share | None = None
    """In the memory for bodies, as long as there is one."""
    bytes_in: int = 0
    answer_headers: Headers = field(default_factory=list)
    """What the proxy itself adds to whatever is answered."""
    model: str | None = None
    """As far as it is known: from the body, if anything had to be looked up there, or from the answer."""
    account: str | None = None
    """Who was asked last."""
    attempts: int = 0
    failures: int = 0
    blame: Blame = Blame.PROXY
    first_byte_at: float | None = None
    is_stream: bool = False
    upstream_request_id: bytes | None = None
    counts_tokens: bool = False
    """Whether what `progress.reader` has read is counted."""
    _description: Description | None = field(default=None, repr=False)
    _is_described: bool = False

    def __post_init__(self) -> None:
        self.path = self.target.partition(b"?")[0].decode("ascii", "replace")

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

    @property
    def first_byte_seconds(self) -> float | None:
        return None if self.first_byte_at is None else self.first_byte_at - self.began

    def line(self, outcome: str, seconds: float, error: Exception | None) -> RequestLine:
        """What the log says of it."""
        first_byte, upstream_id, caller = self.first_byte_seconds, self.upstream_request_id, self.caller
        return RequestLine(
            self.id,
            self.method,
            self.path,
            self.progress.status,
            outcome,
            self.blame,
            self.attempts,
            round(seconds * 1000, 1),
            self.bytes_in,
            self.progress.bytes_sent,
            self.is_stream,
            None if first_byte is None else round(first_byte * 1000, 1),
            caller.name if caller and not caller.is_stranger else None,
            self.account,
            self.model,
            upstream_id.decode("latin-1") if upstream_id else None,
            _text_of(error) if error else None,
        )


def _text_of(error: Exception) -> str:
    """Our own errors are worded to be read; another's words may quote what was sent, and its traceback is in the log."""
    is_ours = isinstance(error, (ProxyError, StreamBroken, ClientGone))
    return (str(error) if is_ours else "") or type(error).__name__
