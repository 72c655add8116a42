"""Tokens are read from answers however their bytes are split, and reading bounds what it keeps."""

import gzip
import json
import tracemalloc
import zlib
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from oauth_pool_proxy.observe.usage import EventStreamReader, JsonReader, Usage, UsageReader, reader_for

SSE, JSON = b"text/event-stream; charset=utf-8", b"application/json"


def event(data: object, *, end: str = "\n", named: bool = True, data_first: bool = False) -> bytes:
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    kind = data["type"] if isinstance(data, dict) else "message_delta"
    lines = [f"event: {kind}", *(f"data: {line}" for line in text.split("\n"))]
    lines = lines[1:] if not named else [*lines[1:], lines[0]] if data_first else lines
    return (end.join(lines) + end + end).encode()


def start(model: object = "claude-opus-4", **usage: object) -> dict[str, object]:
    return {"type": "message_start", "message": {"type": "message", "model": model, "usage": usage}}


def delta(**usage: object) -> dict[str, object]:
    return {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage}


def text(words: str) -> dict[str, object]:
    return {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": words}}


START = start(input_tokens=25, cache_creation_input_tokens=7, cache_read_input_tokens=900, output_tokens=1)
TRAP = text('\nevent: message_delta\ndata: {"type":"message_delta","usage":{"output_tokens":666}}\n\n')
EVENTS = [START, {"type": "ping"}, text("Grüße, 世界 🎉"), TRAP, delta(output_tokens=12), delta(output_tokens=40)]
EVENTS += [{"type": "message_stop"}]
STREAM = b"".join(map(event, EVENTS))
READ = Usage(input=25, output=40, cache_read=900, cache_creation=7)

ANSWER: dict[str, object] = {"type": "message", "model": "claude-haiku", "content": [{"usage": {"input_tokens": 5}}]}
ANSWER |= {"usage": {"input_tokens": 3, "output_tokens": 4, "cache_read_input_tokens": None}}


def read(chunks: list[bytes], kind: bytes = SSE, encoding: bytes = b"") -> tuple[Usage | None, str | None]:
    reader = reader_for(kind, encoding)
    assert reader
    return fed(reader, chunks)


def fed(reader: UsageReader, chunks: list[bytes]) -> tuple[Usage | None, str | None]:
    for chunk in chunks:
        reader.feed(chunk)
    return reader.usage, reader.model


def split(whole: bytes, cuts: list[int]) -> list[bytes]:
    bounds = [0, *sorted(cut % (len(whole) + 1) for cut in cuts), len(whole)]
    return [whole[a:b] for a, b in pairwise(bounds)]


@pytest.mark.parametrize(
    "how",
    [
        pytest.param({}, id="as the API sends it"),
        pytest.param({"end": "\r\n"}, id="CRLF"),
        pytest.param({"named": False}, id="data without an event line"),
        pytest.param({"data_first": True}, id="data before the event line"),
    ],
)
def test_a_stream_tells_its_usage_and_its_model_in_chunks_of_any_size(how: dict[str, object]) -> None:
    stream = b"".join(event(data, **how) for data in EVENTS)  # type: ignore[arg-type]
    for size in (1, 2, 3, 7, 100, len(stream)):
        chunks = [stream[at : at + size] for at in range(0, len(stream), size)]
        assert read(chunks) == (READ, "claude-opus-4"), size


@pytest.mark.parametrize(
    ("events", "usage"),
    [
        pytest.param([], None, id="nothing"),
        pytest.param([START], Usage(25, 1, 900, 7), id="broken off after the start"),
        pytest.param([start(), delta(output_tokens=9)], Usage(0, 9, 0, 0), id="only output"),
        pytest.param([START, delta(input_tokens=30, output_tokens=2)], Usage(30, 2, 900, 7), id="later fields replace"),
        pytest.param([START, delta(output_tokens=None)], Usage(25, 1, 900, 7), id="null keeps"),
        pytest.param([START, delta()], Usage(25, 1, 900, 7), id="absent keeps"),
        pytest.param([START, {"type": "message_delta", "usage": None}], Usage(25, 1, 900, 7), id="usage is null"),
        pytest.param([START, delta(output_tokens=0)], Usage(25, 0, 900, 7), id="zero replaces"),
        pytest.param([START, delta(output_tokens=-1)], Usage(25, 1, 900, 7), id="negative is a mistake"),
        pytest.param([START, delta(output_tokens=10**30)], Usage(25, 1, 900, 7), id="huge is a mistake"),
        pytest.param([START, delta(output_tokens="many")], Usage(25, 1, 900, 7), id="words are a mistake"),
        pytest.param([START, '{"type":"message_delta","usage":{'], Usage(25, 1, 900, 7), id="cut JSON"),
        pytest.param([START, "[" * 5000 + "message_"], Usage(25, 1, 900, 7), id="deep JSON"),
        pytest.param(
            ['{"message":{"usage":{"input_tokens":1}},\n"type":"message_start"}'],
            Usage(1, 0, 0, 0),
            id="two data lines",
        ),
        pytest.param([START, start(input_tokens=4)], Usage(4, 0, 0, 0), id="a second start begins anew"),
        pytest.param([{"type": "message", "usage": {"input_tokens": 1}}], None, id="another type"),
    ],
)
def test_what_events_say_is_taken_together(events: list[object], usage: Usage | None) -> None:
    assert read([event(data) for data in events])[0] == usage
    stream = b"".join(event(data) for data in events)
    assert read([stream])[0] == usage
    unnamed = b"".join(event(data, named=False) for data in events)
    assert read(unnamed.splitlines(keepends=True))[0] == usage


def test_bytes_that_are_no_text_cost_only_their_own_event() -> None:
    broken = event(delta(output_tokens=666)).replace(b"end_turn", b"\xff").replace(b"666", b"666,\xff")
    nameless = event(START).replace(b"claude", b"\xff")
    assert read([event(START), broken, nameless, event(delta(output_tokens=8))])[0] == Usage(25, 8, 900, 7)


def test_usage_is_known_as_soon_as_it_was_told() -> None:
    reader = EventStreamReader()
    seen = []
    for data in EVENTS:
        reader.feed(event(data))
        seen.append(reader.usage.output if reader.usage else None)
    assert seen == [1, 1, 1, 1, 12, 40, 40]


pieces = st.sampled_from([event(data, end=end) for data in EVENTS for end in ("\n", "\r\n")]) | st.sampled_from(
    [b"\n", b"\r\n", b"\r", b": comment\n\n", b"message_", b"data: ", b"\xf0\x9f", b"data: {}\n\r\n", b"event: x\r\n\n"]
)


@given(st.lists(pieces, max_size=12), st.lists(st.integers(0, 5000), max_size=30))
def test_a_stream_says_the_same_however_it_is_split(parts: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(parts)
    assert read(split(stream, cuts)) == read([stream])


@given(st.lists(st.sampled_from([198, 199, 200, 201, 202, 900]), max_size=6), st.integers(1, 1000))
@example([900, 200], 901)  # cut within the end of an event that is too long
def test_the_same_events_are_too_long_however_they_are_split(lengths: list[int], size: int) -> None:
    events = []
    for number, length in enumerate(lengths):
        whole = event(delta(output_tokens=number))
        events.append(b":" + b" " * (length + len("\n\n") - len(":\n") - len(whole)) + b"\n" + whole)
    stream = b"".join(events)
    usage, _ = fed(EventStreamReader(200), [stream[at : at + size] for at in range(0, len(stream), size)])
    within = [number for number, length in enumerate(lengths) if length <= 200]
    assert usage == (Usage(output=within[-1]) if within else None)


def test_an_event_without_an_end_is_not_collected_and_the_next_one_counts() -> None:
    reader = EventStreamReader()
    tracemalloc.start()
    try:
        for _ in range(1000):
            reader.feed(b"data: message_" + b"x" * 10_000)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()
    reader.feed(b"\n")
    reader.feed(b"\n" + event(delta(output_tokens=3)))
    assert reader.usage == Usage(output=3)


@given(st.lists(st.integers(0, 500), max_size=10))
def test_a_json_answer_tells_its_usage_at_the_top(cuts: list[int]) -> None:
    chunks = split(json.dumps(ANSWER).encode(), cuts)
    assert read(chunks, JSON) == (Usage(input=3, output=4), "claude-haiku")


@pytest.mark.parametrize(
    ("body", "read_from_it"),
    [
        (b"", (None, None)),
        (json.dumps(ANSWER).encode()[:-1], (None, None)),
        (b'{"model":"m","usage":null}', (None, "m")),
        (b'{"model":null,"usage":{"input_tokens":1}}', (Usage(1), None)),
        (b'{"model":"m","usage":[]}', (None, None)),
        (b'{"type":"error","error":{"message":"x"}}', (None, None)),
        (b'{"input_tokens":12}', (None, None)),
        (b"[1]", (None, None)),
        (b"<html>", (None, None)),
        (b'{"content":' + b"[" * 100_000, (None, None)),
    ],
    ids=["empty", "cut", "null usage", "null model", "odd usage", "error", "count_tokens", "list", "page", "deep"],
)
def test_a_json_answer_that_is_something_else_tells_nothing(body: bytes, read_from_it: object) -> None:
    assert read([body], JSON) == read_from_it


def test_a_json_answer_is_read_anew_when_more_of_it_came() -> None:
    reader, body = JsonReader(), json.dumps(ANSWER).encode()
    assert fed(reader, [body[:50]]) == (None, None)
    assert fed(reader, [body[50:]]) == (Usage(input=3, output=4), "claude-haiku")


@pytest.mark.parametrize(("over", "usage"), [(0, Usage(1)), (1, None)], ids=["as long as may be", "one byte more"])
def test_a_json_answer_beyond_the_limit_is_not_kept(over: int, usage: Usage | None) -> None:
    body = b'{"usage":{"input_tokens":1}}'
    reader = JsonReader(len(body) - over)
    assert fed(reader, [body[:10], body[10:]])[0] == usage
    assert fed(reader, [b""])[0] == usage
    if over:
        assert fed(reader, [body[1:]])[0] is None
        assert fed(JsonReader(len(body)), [b" " * 100, body])[0] is None


ENCODERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "X-GZIP": gzip.compress,
    "deflate": zlib.compress,
    " identity": bytes,
    "": bytes,
}


@pytest.mark.parametrize("encoding", ENCODERS)
@pytest.mark.parametrize("size", [1, 5, 64, 100_000])
def test_compressed_answers_are_read_as_they_come(encoding: str, size: int) -> None:
    for kind, answer, expected in (
        (SSE, STREAM, (READ, "claude-opus-4")),
        (JSON, json.dumps(ANSWER).encode(), (Usage(3, 4), "claude-haiku")),
    ):
        packed = ENCODERS[encoding](answer)
        chunks = [packed[at : at + size] for at in range(0, len(packed), size)]
        assert read(chunks, kind, encoding.encode()) == expected


def test_a_compressed_stream_is_read_while_it_runs() -> None:
    packer = zlib.compressobj()
    reader = reader_for(SSE, b"deflate")
    assert reader
    reader.feed(packer.compress(event(START)) + packer.flush(zlib.Z_SYNC_FLUSH))
    assert reader.usage == Usage(25, 1, 900, 7)
    reader.feed(b"\xff" * 1000)  # no deflate: what was read stays
    reader.feed(packer.compress(event(delta(output_tokens=5))) + packer.flush())
    assert reader.usage == Usage(25, 1, 900, 7)


@pytest.mark.parametrize("kind", [SSE, JSON])
def test_a_decompression_bomb_takes_neither_memory_nor_time(kind: bytes) -> None:
    bomb = zlib.compress(b"data: message_" + b"0" * 20_000_000)
    reader = reader_for(kind, b"deflate")
    assert reader
    tracemalloc.start()
    try:
        reader.feed(bomb)
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()
    assert reader.usage is None


def test_what_follows_a_compressed_answer_is_not_kept() -> None:
    reader = reader_for(SSE, b"gzip")
    assert reader
    reader.feed(gzip.compress(STREAM))
    tracemalloc.start()
    try:
        for _ in range(100):
            reader.feed(b"x" * 100_000)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
    assert reader.usage == READ


def test_a_bomb_is_given_up_in_its_first_chunk() -> None:
    """One mebibyte out of one chunk is enough: what stands behind it, even in the same chunk, is not looked at."""
    reader = reader_for(SSE, b"gzip")
    assert reader
    reader.feed(gzip.compress(b": \n" * 400_000 + b"\n" + event(START)))
    assert reader.usage is None


def test_much_in_one_chunk_is_still_read() -> None:
    assert read([gzip.compress(b": \n" * 300_000 + b"\n" + event(START))], SSE, b"gzip")[0] == Usage(25, 1, 900, 7)


@pytest.mark.parametrize(
    ("kind", "encoding"),
    [
        (b"", b""),
        (b"text/html", b""),
        (b"text/event-stream-not", b""),
        (b"application/jsonl", b""),
        (SSE, b"br"),
        (SSE, b"zstd"),
        (JSON, b"gzip, gzip"),
        (JSON, b"compress"),
    ],
)
def test_there_is_no_reader_for_what_cannot_be_read(kind: bytes, encoding: bytes) -> None:
    assert reader_for(kind, encoding) is None


@pytest.mark.parametrize("kind", [b"TEXT/EVENT-STREAM", b"text/event-stream;charset=x", b"Application/JSON ;a=b"])
def test_content_types_are_known_by_their_name(kind: bytes) -> None:
    assert reader_for(kind) is not None


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=5), st.sampled_from([b"", b"gzip", b"deflate"]))
def test_no_bytes_make_a_reader_raise(body: bytes, cuts: list[int], encoding: bytes) -> None:
    for kind in (SSE, JSON):
        read(split(body, cuts), kind, encoding)
