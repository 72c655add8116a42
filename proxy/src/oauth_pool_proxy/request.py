"""What the proxy knows about one request while it runs, and what it logs at the end."""

import time
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from oauth_pool_proxy.downstream.admission import Share
from oauth_pool_proxy.errors import ClientGone, ProxyError, StreamBroken
from oauth_pool_proxy.observe.access_log import RequestLine
from oauth_pool_proxy.observe.request_id import new_request_id
from oauth_pool_proxy.pool.request_body import Description, Members, members_of
from oauth_pool_proxy.relay import Progress
from oauth_pool_proxy.upstream.headers import Headers

if TYPE_CHECKING:
    from oauth_pool_proxy.downstream.identity.allowance import Caller


class Asked(Protocol):
    """The head of a request, and whose connection brought it."""

    method: str
    target: bytes
    headers: Headers
    fields: dict[bytes, bytes]
    """The headers by lower-case name. If a name occurs on several lines, the last one counts."""
    is_from_tailnet: bool

    @property
    def peer(self) -> str: ...


class Phase(StrEnum):
    """How far a request has come. If the client leaves, it tells at which point."""

    QUEUED = "queued"
    BODY = "body"
    WAITING = "waiting"
    ANSWERING = "answering"


class Blame(StrEnum):
    """What was responsible for how a request ended. The log line and the metrics call it `verdict`."""

    OK = "ok"
    REQUEST = "request"
    ACCOUNT = "account"
    LIMIT = "limit"
    UPSTREAM = "upstream"
    CLIENT = "client"
    PROXY = "proxy"

    @classmethod
    def of(cls, status: int) -> "Blame":
        """For an upstream answer that is passed on."""
        if status < 400:
            return cls.OK
        if status == 429:
            return cls.LIMIT
        return cls.UPSTREAM if status >= 500 else cls.REQUEST


class Request:
    """What the client asked for, and what is logged about it at the end."""

    __slots__ = (
        "_description",
        "_is_parsed",
        "_members",
        "account",
        "answer_headers",
        "attempts",
        "began",
        "blame",
        "body",
        "bytes_in",
        "caller",
        "counts_tokens",
        "failures",
        "fields",
        "first_byte_at",
        "headers",
        "id",
        "is_from_tailnet",
        "is_stream",
        "method",
        "model",
        "path",
        "peer",
        "phase",
        "progress",
        "room",
        "target",
        "upstream_request_id",
    )

    def __init__(self, asked: Asked) -> None:
        self.id = new_request_id()
        self.method, self.target, self.headers, self.fields = asked.method, asked.target, asked.headers, asked.fields
        self.path = self.target.partition(b"?")[0].decode("ascii", "replace")
        """Without the query, which may contain anything."""
        self.peer, self.is_from_tailnet = asked.peer, asked.is_from_tailnet
        self.began = time.monotonic()
        self.progress = Progress(self.id)
        self.phase = Phase.QUEUED
        self.caller: Caller | None = None
        """The client that sent the request, where clients are identified."""
        self.body = b""
        self.bytes_in = 0
        self.room: Share | None = None
        """Room in the memory for bodies, as long as this request has a body."""
        self.answer_headers: Headers = []
        """Headers that the proxy itself adds to every answer."""
        self.model: str | None = None
        """The model, if known: from the body, if that had to be parsed, or from the answer."""
        self.account: str | None = None
        """The account of the last attempt."""
        self.attempts = self.failures = 0
        self.blame = Blame.PROXY
        self.first_byte_at: float | None = None
        self.is_stream = False
        self.upstream_request_id: bytes | None = None
        self.counts_tokens = False
        """Whether the tokens that `progress.reader` found are counted."""
        self._description: Description | None = None
        self._members: Members | None = None
        self._is_parsed = False

    def __repr__(self) -> str:
        return f"<Request {self.id} {self.method} {self.path}>"

    @property
    def members(self) -> Members | None:
        """The body's members, if it is a JSON object. Parsed only when needed: parsing costs a millisecond per megabyte."""
        if not self._is_parsed:
            self._is_parsed = True
            self._members = members_of(self.body) if self.body else None
        return self._members

    def describe(self) -> Description | None:
        """What the body says."""
        if self._description is None and (members := self.members) is not None:
            self._description = Description(members)
            self.model = self._description.model
        return self._description

    def forget(self) -> None:
        """Free the memory: the request will not be sent again, and its answer may stream for an hour."""
        self.body = b""
        if self.room:
            self.room.give_back()
        self._description = self._members = None
        self._is_parsed = True
        self.headers.clear()
        self.fields.clear()

    @property
    def first_byte_seconds(self) -> float | None:
        return None if self.first_byte_at is None else self.first_byte_at - self.began

    def line(self, outcome: str, seconds: float, error: Exception | None) -> RequestLine:
        """The request's log line."""
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
    """The proxy's own errors are safe to log. Any other message may quote what was sent, and its traceback is logged anyway."""
    is_ours = isinstance(error, (ProxyError, StreamBroken, ClientGone))
    return (str(error) if is_ours else "") or type(error).__name__
