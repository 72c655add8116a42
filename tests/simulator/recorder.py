"""What was received and how it was answered, so that a test can look at the wire from the provider's side."""

import base64
import json
import threading
from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Outcome(StrEnum):
    """How far an answer came."""

    PENDING = "pending"
    COMPLETE = "complete"
    # the client left before the answer ended
    CLIENT_DISCONNECTED = "client_disconnected"
    # a switch cut the connection
    DROPPED = "dropped"


@dataclass(eq=False)
class RecordedRequest:
    """One request as it came in. `subject`, `status`, `outcome` and `bytes_sent` follow while it is answered.

    Header names are in lower case, in the order received, repeated ones repeated; the path is as on the wire.
    """

    number: int
    request_id: str
    received_at: float
    method: str
    path: str
    query: str = field(repr=False)
    headers: list[tuple[str, str]] = field(repr=False)
    body: bytes = field(repr=False, default=b"")
    subject: str | None = None
    status: int | None = None
    outcome: Outcome = Outcome.PENDING
    bytes_sent: int = 0

    def header(self, name: str) -> str | None:
        """All values of it, joined by commas as RFC 9110 5.3 allows; None without any."""
        values = [value for key, value in self.headers if key == name.lower()]
        return ", ".join(values) if values else None

    def json(self) -> Any:
        return json.loads(self.body)

    def as_dict(self) -> dict[str, Any]:
        """For the control API. Secrets are in it, as in the request."""
        document: dict[str, Any] = {
            "number": self.number,
            "request_id": self.request_id,
            "received_at": self.received_at,
            "method": self.method,
            "path": self.path,
            "query": self.query,
            "headers": self.headers,
            "subject": self.subject,
            "status": self.status,
            "outcome": self.outcome,
            "bytes_sent": self.bytes_sent,
        }
        try:
            document["body"] = self.body.decode()
        except UnicodeDecodeError:
            document["body_base64"] = base64.b64encode(self.body).decode("ascii")
        return document


class Recorder:
    """The latest requests; the oldest go when there are too many or their bodies are too large. Thread-safe."""

    def __init__(self, *, max_requests: int, max_bytes: int) -> None:
        self._lock = threading.Lock()
        self._max_requests = max_requests
        self._max_bytes = max_bytes
        self._requests: deque[RecordedRequest] = deque()
        self._bytes = 0
        self._count = 0

    def begin(
        self, *, request_id: str, now: float, method: str, path: str, query: str, headers: list[tuple[str, str]]
    ) -> RecordedRequest:
        with self._lock:
            self._count += 1
            record = RecordedRequest(self._count, request_id, now, method, path, query, headers)
            self._requests.append(record)
            self._trim()
        return record

    def keep_body(self, record: RecordedRequest, body: bytes) -> None:
        """The body, as far as it was read; a request that is no longer kept stays forgotten."""
        with self._lock:
            record.body = body
            if any(kept is record for kept in reversed(self._requests)):
                self._bytes += len(body)
                self._trim()

    def requests(self, *, path: str | None = None, subject: str | None = None) -> list[RecordedRequest]:
        """The oldest first; optionally only those with this path and of this account."""
        with self._lock:
            return [
                record
                for record in self._requests
                if (path is None or record.path == path) and (subject is None or record.subject == subject)
            ]

    def clear(self) -> None:
        with self._lock:
            self._requests.clear()
            self._bytes = 0

    def _trim(self) -> None:
        while self._requests and (len(self._requests) > self._max_requests or self._bytes > self._max_bytes):
            self._bytes -= len(self._requests.popleft().body)
