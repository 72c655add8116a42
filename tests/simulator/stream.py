"""A message as server-sent events, in the API's order, and everything a stream can do wrong.

`message_start` → `content_block_start` → `ping` → `content_block_delta`… → `content_block_stop` → `message_delta`
(stop reason and cumulative usage) → `message_stop`.
"""

import json
import re
import zlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

from .envelope import error_document
from .exchange import Exchange, fall_silent, pause
from .switches import Switches

Event = dict[str, Any]

_PING: Event = {"type": "ping"}


def message_events(message: dict[str, Any]) -> Iterator[Event]:
    """The events of a healthy stream; together they make the same message."""
    text: str = message["content"][0]["text"]
    usage: dict[str, Any] = message["usage"]
    start = {**message, "content": [], "stop_reason": None, "usage": {**usage, "output_tokens": 1}}
    yield {"type": "message_start", "message": start}
    yield {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    yield _PING
    # one delta a word, with the space that follows it
    for part in re.findall(r"\S+\s*|\s+", text):
        yield {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": part}}
    yield {"type": "content_block_stop", "index": 0}
    cumulative = {key: value for key, value in usage.items() if key != "service_tier"}
    delta = {"stop_reason": message["stop_reason"], "stop_sequence": message["stop_sequence"]}
    yield {"type": "message_delta", "delta": delta, "usage": cumulative}
    yield {"type": "message_stop"}


def encode(event: Event) -> bytes:
    """The `event:` name is always the data's `type`. Text is not escaped: characters of several bytes are on the wire."""
    data = json.dumps(event, ensure_ascii=False)
    return f"event: {event['type']}\ndata: {data}\n\n".encode()


async def event_stream(
    message: dict[str, Any], switches: Switches, exchange: Exchange, *, is_compressed: bool
) -> AsyncIterator[bytes]:
    """The body of a streamed answer, piece by piece as it is to be sent."""
    compressor = zlib.compressobj(wbits=31) if is_compressed else None
    async for event in _misbehave(message, switches, exchange):
        data = encode(event)
        if compressor is not None:
            data = compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH)
        for piece in _pieces(data, switches.chunk_bytes):
            yield piece
    if compressor is not None:
        yield compressor.flush()


async def _misbehave(message: dict[str, Any], switches: Switches, exchange: Exchange) -> AsyncIterator[Event]:
    """The events as the switches want them."""
    while switches.stream_pings_only:
        yield _PING
        # without a pace of their own, not as fast as the machine can
        await pause(switches.event_delay or 0.05)
    for position, event in enumerate(message_events(message)):
        if position > 0:
            await pause(switches.event_delay)
        if switches.stream_error_after == position:
            yield error_document("overloaded_error", "Overloaded", exchange.record.request_id)
            return
        if switches.stream_end_after == position:
            return
        if switches.stream_cut_after == position:
            await exchange.drop()
        if switches.stream_stall_after == position:
            if switches.stream_stall_seconds is None:
                await fall_silent()
            await pause(switches.stream_stall_seconds)
        yield event


def _pieces(data: bytes, size: int | None) -> Iterator[bytes]:
    if size is None:
        yield data
        return
    for start in range(0, len(data), size):
        yield data[start : start + size]
