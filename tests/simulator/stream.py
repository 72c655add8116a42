"""A message as server-sent events, in the API's order, and everything a stream can do wrong.

`message_start` → for each block `content_block_start` → `content_block_delta`… → `content_block_stop` → `message_delta`
(stop reason and cumulative usage) → `message_stop`. A `ping` follows the first block's start.
"""

import json
import re
import zlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

from .envelope import RATE_LIMIT_TEXT, error_document
from .exchange import Exchange, fall_silent, pause
from .switches import Position, Switches

Event = dict[str, Any]

_PING: Event = {"type": "ping"}
_ERROR_TEXTS = {
    "api_error": "Internal server error",
    "overloaded_error": "Overloaded",
    "rate_limit_error": RATE_LIMIT_TEXT,
}


def message_events(message: dict[str, Any]) -> Iterator[Event]:
    """The events of a healthy stream; together they make the same message."""
    usage: dict[str, Any] = message["usage"]
    yield {
        "type": "message_start",
        "message": {**message, "content": [], "stop_reason": None, "usage": _usage_at_start(usage)},
    }
    for index, block in enumerate(message["content"]):
        empty, deltas = _parts(block)
        yield {"type": "content_block_start", "index": index, "content_block": empty}
        if index == 0:
            yield _PING
        for delta in deltas:
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    cumulative = {key: value for key, value in usage.items() if key != "service_tier"}
    delta = {"stop_reason": message["stop_reason"], "stop_sequence": message["stop_sequence"]}
    yield {"type": "message_delta", "delta": delta, "usage": cumulative}
    yield {"type": "message_stop"}


def _usage_at_start(usage: dict[str, Any]) -> dict[str, Any]:
    """What is known before the first word. `message_delta` has the totals: whoever adds the two counts twice."""
    caches = ("cache_creation_input_tokens", "cache_read_input_tokens")
    return {**usage, **{name: usage[name] // 2 for name in caches}, "output_tokens": 1}


def _parts(block: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A content block as it begins, and the deltas that fill it."""
    if block["type"] == "tool_use":
        # the API begins with an empty piece; the others split the JSON text anywhere, also inside a word
        pieces = ["", *re.findall(r"(?s).{1,9}", json.dumps(block["input"]))]
        return {**block, "input": {}}, [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
    # one delta a word, with the space that follows it
    words = re.findall(r"\S+\s*|\s+", block["text"])
    return {**block, "text": ""}, [{"type": "text_delta", "text": word} for word in words]


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
    events = list(message_events(message))
    error_at, end_at, cut_at, stall_at = (
        _count(after, events)
        for after in (
            switches.stream_error_after,
            switches.stream_end_after,
            switches.stream_cut_after,
            switches.stream_stall_after,
        )
    )
    for position, event in enumerate(events):
        if position > 0:
            await pause(switches.event_delay)
        if error_at == position:
            kind = switches.stream_error_type
            yield error_document(kind, _ERROR_TEXTS[kind], exchange.record.request_id)
            return
        if end_at == position:
            return
        if cut_at == position:
            await exchange.drop()
        if stall_at == position:
            if switches.stream_stall_seconds is None:
                await fall_silent()
            await pause(switches.stream_stall_seconds)
        yield event


def _count(after: Position | None, events: list[Event]) -> int | None:
    """The position as a number of events."""
    if not isinstance(after, str):
        return after
    # a message without text has no delta
    return next((number for number, event in enumerate(events, 1) if event["type"] == after), None)


def _pieces(data: bytes, size: int | None) -> Iterator[bytes]:
    if size is None:
        yield data
        return
    for start in range(0, len(data), size):
        yield data[start : start + size]
