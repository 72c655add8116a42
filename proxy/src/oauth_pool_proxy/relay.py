"""Relays one answer to the client as it arrives, without buffering.

An answer that stops before its end must never look complete. On an event stream, the client first gets the API's own error
event. Then, as for every other answer, the code that catches the error raised here breaks the connection.
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
    """Return when the last byte is sent. Raise `StreamBroken` if the upstream does not get that far.

    `headers` go to the client as they are. `already_read` is the beginning of the body.
    """
    beginning = already_read + answer.read_now()
    progress.status, progress.has_started = answer.status, True
    progress.passes(beginning)
    if answer.is_at_end:
        client.respond(answer.status, headers, beginning)
        return
    client.start(answer.status, headers, beginning)
    takes_events = _takes_events(answer)
    # A stream may last an hour, and its head is a third of the memory it costs.
    del beginning, headers
    answer.forget_head()
    try:
        await client.pump(answer, progress.passes)
    except StreamBroken as error:
        if takes_events:
            _say_farewell(client, progress, str(error))
        raise
    except asyncio.CancelledError:
        # Either the client left, and nothing more is written, or the proxy is shutting down.
        if takes_events:
            _say_farewell(client, progress, "The proxy is shutting down")
        raise


def _takes_events(answer: Answer) -> bool:
    """Whether the body is an event stream to which text can be appended."""
    is_text = answer.fields.get(b"content-encoding", b"identity") == b"identity"
    return answer.is_event_stream and is_text and b"content-length" not in answer.fields


def _say_farewell(client: Client, progress: Progress, message: str) -> None:
    """Send the API's own error event."""
    # End an event that was cut short first, or it would swallow this one.
    is_between_events = progress.last_bytes.endswith((b"\n\n", b"\r\n\r\n")) or not progress.bytes_sent
    event = b"event: error\ndata: %s\n\n" % error_body("api_error", message, progress.request_id)
    client.last_words(event if is_between_events else b"\n\n" + event)
