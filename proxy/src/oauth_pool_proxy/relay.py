"""Passes one answer on to the client as it arrives, without buffering.

An answer that stops before its end must never look complete: on an event stream the client is told with the API's own
error event, and then, as for every other answer, the connection is broken by whoever catches what is raised here.
"""

import asyncio
from dataclasses import dataclass

from oauth_pool_proxy.config import Header
from oauth_pool_proxy.downstream.client import Client
from oauth_pool_proxy.errors import StreamBroken, error_body
from oauth_pool_proxy.observe.usage import UsageReader
from oauth_pool_proxy.upstream.upstream import Answer


@dataclass(slots=True)
class Progress:
    """How far the answer to the client has come."""

    request_id: str
    status: int = 0
    has_started: bool = False
    bytes_sent: int = 0
    last_bytes: bytes = b""
    reader: UsageReader | None = None

    def passes(self, chunk: bytes) -> None:
        self.bytes_sent += len(chunk)
        if chunk:
            self.last_bytes = chunk[-4:]
            if self.reader:
                self.reader.feed(chunk)


async def relay(
    answer: Answer, headers: list[Header], client: Client, progress: Progress, already_read: bytes = b""
) -> None:
    """Returns when the last byte is sent; raises `StreamBroken` when the upstream does not get that far.

    `headers` are what the client is told; `already_read` is the beginning of the body.
    """
    beginning = already_read + answer.read_now()
    progress.status, progress.has_started = answer.status, True
    progress.passes(beginning)
    if answer.is_at_end:
        client.respond(answer.status, headers, beginning)
        return
    client.start(answer.status, headers, beginning)
    takes_events = _takes_events(answer)
    # A stream may last for an hour, and its head is a third of the memory that it costs.
    del beginning, headers
    answer.forget_head()
    try:
        await client.pump(answer, progress.passes)
    except StreamBroken as error:
        if takes_events:
            _say_farewell(client, progress, str(error))
        raise
    except asyncio.CancelledError:
        # Either the client left, and nothing is written any more, or the proxy is shutting down.
        if takes_events:
            _say_farewell(client, progress, "The proxy is shutting down")
        raise


def _takes_events(answer: Answer) -> bool:
    """Whether the body is an event stream that text can be added to."""
    is_text = answer.fields.get(b"content-encoding", b"identity") == b"identity"
    return answer.is_event_stream and is_text and b"content-length" not in answer.fields


def _say_farewell(client: Client, progress: Progress, message: str) -> None:
    """The API's own error event."""
    # An event that was cut is ended first: its rest must not become part of this one.
    is_between_events = progress.last_bytes.endswith((b"\n\n", b"\r\n\r\n")) or not progress.bytes_sent
    event = b"event: error\ndata: %s\n\n" % error_body("api_error", message, progress.request_id)
    client.last_words(event if is_between_events else b"\n\n" + event)
