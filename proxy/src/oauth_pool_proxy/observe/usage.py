"""Counts the tokens that an answer used, read from its bytes as they pass. Pure: chunks in, numbers out.

A reader never changes, holds back or refuses anything, and never raises: what it cannot read counts as absent. Its result is
valid at any time, so an answer that breaks off is counted as far as it came. Its memory is limited, whatever is sent. An event
without a count costs two searches (0.3 µs). Only the two or three events with counts, and errors that report a limit, are
decoded.
"""

import re
import zlib
from collections.abc import Callable
from functools import lru_cache
from typing import Annotated, ClassVar, Protocol

import msgspec

MOST_EVENT_BYTES = 256 * 1024
MOST_JSON_BYTES = 4 * 1024 * 1024
MOST_HELD_BYTES = 16 * 1024 * 1024
"""For all JSON answers at once: slow clients with large answers must not cost memory. Beyond it, new ones are not counted."""
MOST_DECOMPRESSED = 1024 * 1024
"""The limit for one decompressed chunk. Even the API's longest answers are shorter as a whole."""

_PIECE = 64 * 1024
_MARK = b"message_"
"""Occurs in every event with token counts, and hardly in any other."""
_LIMIT_MARK = b"rate_limit_error"
_EVENT_ENDS = (b"\n\n", b"\n\r\n")
_EVENT_END = re.compile(rb"\n\r?\n")

# A number beyond what a counter can hold exactly is a mistake.
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class Usage(msgspec.Struct, frozen=True):
    """Tokens of one answer. `input` excludes tokens read from or written to a prompt cache."""

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_creation: int = 0


_NO_USAGE = Usage()


class UsageReader(Protocol):
    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the answer's body, split anywhere."""

    @property
    def usage(self) -> Usage | None:
        """The tokens used, as far as the answer has reported them. None if it has not."""

    @property
    def model(self) -> str | None:
        """The model that answered, as the answer names it."""

    @property
    def object_id(self) -> str | None:
        """The `id` at the top of a JSON answer."""

    def close(self) -> None:
        """Free the memory: no further call will follow."""


OnLimit = Callable[[bytes], None]
"""Called with the data of an event that may report a limit."""


def reader_for(
    content_type: bytes, content_encoding: bytes = b"", on_limit: OnLimit = lambda _: None
) -> UsageReader | None:
    """A reader for an answer with these headers. None if it has nothing to read."""
    kind, is_compressed = _form(content_type, content_encoding)
    reader: UsageReader
    if kind == b"application/json":
        reader = JsonReader()
    elif kind == b"text/event-stream":
        reader = EventStreamReader(on_limit=on_limit)
    else:
        return None
    return DecompressingReader(reader) if is_compressed else reader


@lru_cache(64)
def _form(content_type: bytes, content_encoding: bytes) -> tuple[bytes, bool]:
    """The media type, empty if the coding cannot be read, and whether it is compressed."""
    kind, encoding = content_type.partition(b";")[0].strip().lower(), content_encoding.strip().lower()
    if encoding in (b"", b"identity"):
        return kind, False
    return (kind, True) if encoding in (b"gzip", b"x-gzip", b"deflate") else (b"", False)


class _Counts(msgspec.Struct):
    """The fields of `usage`. Absent or null fields change nothing."""

    input_tokens: _Count | None = None
    output_tokens: _Count | None = None
    cache_read_input_tokens: _Count | None = None
    cache_creation_input_tokens: _Count | None = None

    def on_top_of(self, known: Usage) -> Usage:
        read, created = self.cache_read_input_tokens, self.cache_creation_input_tokens
        return Usage(
            known.input if self.input_tokens is None else self.input_tokens,
            known.output if self.output_tokens is None else self.output_tokens,
            known.cache_read if read is None else read,
            known.cache_creation if created is None else created,
        )


class _Message(msgspec.Struct):
    id: str | None = None
    model: str | None = None
    usage: _Counts | None = None


class _MessageStart(msgspec.Struct, tag="message_start"):
    message: _Message


class _MessageDelta(msgspec.Struct, tag="message_delta"):
    usage: _Counts | None = None


_event = msgspec.json.Decoder(_MessageStart | _MessageDelta)
_message = msgspec.json.Decoder(_Message)
_MALFORMED = (msgspec.DecodeError, UnicodeError, RecursionError)


class EventStreamReader:
    """Reads `message_start` and `message_delta` of an event stream (lines end with LF or CRLF).

    The `type` in an event's data identifies it; its `event:` line only repeats that. The counts of a `message_delta` are totals,
    and replace earlier ones.
    """

    __slots__ = ("_is_too_long", "_most_bytes", "_on_limit", "_rest", "model", "usage")
    object_id = None

    def __init__(self, most_event_bytes: int = MOST_EVENT_BYTES, on_limit: OnLimit = lambda _: None) -> None:
        self._on_limit = on_limit
        self.usage: Usage | None = None
        self.model: str | None = None
        self._most_bytes = most_event_bytes
        self._rest = bytearray()
        """The beginning of an incomplete event. If it is too long, only the last two bytes."""
        self._is_too_long = False

    def feed(self, chunk: bytes) -> None:
        # Nearly every chunk consists of whole events without a count. `find` takes half the time of `in`.
        is_whole = not self._rest and chunk.endswith(_EVENT_ENDS)
        if not is_whole or chunk.find(_MARK) >= 0 or chunk.find(_LIMIT_MARK) >= 0:
            self._collect(chunk)

    def close(self) -> None:
        self._rest = bytearray()

    def _collect(self, chunk: bytes) -> None:
        """Read the events that this chunk completes, and keep the incomplete rest."""
        rest = self._rest
        unseen = max(len(rest) - 2, 0)
        rest += chunk
        if end := _end_of_last_event(rest, unseen):
            self._read_events(bytes(rest[:end]))
            del rest[:end]
            self._is_too_long = False
        if len(rest) > self._most_bytes + 2:  # the last two bytes may belong to its end
            self._is_too_long = True
            del rest[:-2]

    def _read_events(self, events: bytes) -> None:
        if events.find(_MARK) < 0 and events.find(_LIMIT_MARK) < 0:
            return
        for number, event in enumerate(_EVENT_END.split(events)):
            is_too_long = len(event) > self._most_bytes or (number == 0 and self._is_too_long)
            if not is_too_long and (_MARK in event or _LIMIT_MARK in event):
                self._read_event(event)

    def _read_event(self, event: bytes) -> None:
        data = b"\n".join(line[5:] for line in event.split(b"\n") if line.startswith(b"data:"))
        if _LIMIT_MARK in event:
            self._on_limit(data)
        try:
            decoded = _event.decode(data)
        except _MALFORMED:
            return
        if isinstance(decoded, _MessageStart):
            self.model, self.usage = decoded.message.model, None
            counts = decoded.message.usage
        else:
            counts = decoded.usage
        if counts:
            self.usage = counts.on_top_of(self.usage or _NO_USAGE)


def _end_of_last_event(text: bytearray, start: int) -> int:
    """The end of the last event that ends at or after `start`. 0 if there is none."""
    lf, crlf = text.rfind(b"\n\n", start), text.rfind(b"\n\r\n", start)
    return max(lf + 2, crlf + 3) if lf >= 0 or crlf >= 0 else 0


class JsonReader:
    """Reads the `usage` at the top of a JSON answer, once it is complete."""

    __slots__ = ("_answer", "_is_too_long", "_most_bytes", "_parts", "_size")
    _held: ClassVar[int] = 0
    """Bytes held by all readers together."""

    def __init__(self, most_bytes: int = MOST_JSON_BYTES) -> None:
        self._most_bytes = most_bytes
        self._parts: list[bytes] = []
        self._size = 0
        self._is_too_long = False
        self._answer: _Message | None = None
        """The decoded parts, cached on first use."""

    def feed(self, chunk: bytes) -> None:
        self._answer = None
        size = len(chunk)
        if self._size + size > self._most_bytes or JsonReader._held + size > MOST_HELD_BYTES:
            self._is_too_long = True
            self.close()
        if not self._is_too_long:
            self._parts.append(chunk)
            self._size += size
            JsonReader._held += size

    def close(self) -> None:
        JsonReader._held -= self._size
        self._parts.clear()
        self._size = 0

    @property
    def usage(self) -> Usage | None:
        counts = self._decoded().usage
        return counts.on_top_of(_NO_USAGE) if counts else None

    @property
    def model(self) -> str | None:
        return self._decoded().model

    @property
    def object_id(self) -> str | None:
        return self._decoded().id

    def _decoded(self) -> _Message:
        if self._answer is None:
            try:
                self._answer = _message.decode(b"".join(self._parts))
            except _MALFORMED:
                self._answer = _Message()
        return self._answer


class DecompressingReader:
    """Decompresses gzip and deflate (RFC 9110 8.4.1) for another reader, piece by piece.

    It gives up at the first invalid byte, and at a chunk that decompresses to more than `MOST_DECOMPRESSED`.
    """

    __slots__ = ("_decompressor", "_is_done", "_reader")

    def __init__(self, reader: UsageReader) -> None:
        self._reader = reader
        self._decompressor = zlib.decompressobj(zlib.MAX_WBITS | 32)  # detects which of the two from the first bytes
        self._is_done = False

    @property
    def usage(self) -> Usage | None:
        return self._reader.usage

    @property
    def model(self) -> str | None:
        return self._reader.model

    @property
    def object_id(self) -> str | None:
        return self._reader.object_id

    def close(self) -> None:
        self._reader.close()

    def feed(self, chunk: bytes) -> None:
        decompressed = 0
        while not self._is_done:
            try:
                piece = self._decompressor.decompress(chunk, _PIECE)
            except zlib.error:
                self._is_done = True
                return
            self._reader.feed(piece)
            decompressed += len(piece)
            self._is_done = self._decompressor.eof or decompressed > MOST_DECOMPRESSED
            if len(piece) < _PIECE:  # the decompressor holds no more output
                return
            chunk = self._decompressor.unconsumed_tail
