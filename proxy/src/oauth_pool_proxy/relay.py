"""Passes one answer on to the client, chunk by chunk as it arrives, without buffering.

An answer that stops before its end must never look complete: on an event stream the client is told with the API's own
error event, and then, as for every other answer, the connection is broken by whoever catches what is raised here.
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass

from starlette.types import Send

from oauth_pool_proxy.errors import StreamBroken, error_body
from oauth_pool_proxy.headers import response_headers
from oauth_pool_proxy.upstream import Answer

FAREWELL_SECONDS = 0.2
"""How long a client may take for the error event. One that does not read gets none."""


@dataclass(slots=True)
class Progress:
    """How far the answer to the client has come."""

    request_id: str
    status: int = 0
    has_started: bool = False
    bytes_sent: int = 0
    last_bytes: bytes = b""


async def relay(answer: Answer, send: Send, progress: Progress, already_read: bytes = b"") -> None:
    """Returns when the last byte is sent; raises `StreamBroken` when the upstream does not get that far."""
    headers = response_headers(answer.headers, status=answer.status)
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    progress.status, progress.has_started = answer.status, True
    try:
        is_at_end = bool(already_read) and answer.is_at_end
        if already_read:
            await _send_body(send, already_read, progress, more=not is_at_end)
        while not is_at_end:
            chunk = await answer.read()
            is_at_end = answer.is_at_end
            await _send_body(send, chunk, progress, more=not is_at_end)
    except StreamBroken as error:
        await _say_farewell(answer, send, progress, str(error))
        raise
    except asyncio.CancelledError:
        # Either the client left, and nothing is written any more, or the proxy is shutting down.
        await _say_farewell(answer, send, progress, "The proxy is shutting down")
        raise


async def _send_body(send: Send, chunk: bytes, progress: Progress, *, more: bool) -> None:
    await send({"type": "http.response.body", "body": chunk, "more_body": more})
    progress.bytes_sent += len(chunk)
    if chunk:
        progress.last_bytes = chunk[-4:]


async def _say_farewell(answer: Answer, send: Send, progress: Progress, message: str) -> None:
    """The API's error event, where the answer is an event stream that text can be added to."""
    headers = dict(answer.headers)
    if not headers.get(b"content-type", b"").lower().startswith(b"text/event-stream"):
        return
    if headers.get(b"content-encoding", b"identity") != b"identity" or b"content-length" in headers:
        return
    # An event that was cut is ended first: its rest must not become part of this one.
    is_between_events = progress.last_bytes.endswith((b"\n\n", b"\r\n\r\n")) or not progress.bytes_sent
    event = b"event: error\ndata: %s\n\n" % error_body("api_error", message, progress.request_id)
    with suppress(TimeoutError):
        async with asyncio.timeout(FAREWELL_SECONDS):
            await send(
                {
                    "type": "http.response.body",
                    "body": event if is_between_events else b"\n\n" + event,
                    "more_body": True,
                }
            )
