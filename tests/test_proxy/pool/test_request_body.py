"""What a request says about itself, and a prefix spliced into its system prompt with every other byte left alone."""

import json
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oauth_pool_proxy.pool.request_body import Description, members_of, with_system_prefix


def describe(body: bytes) -> Description | None:
    members = members_of(body)
    return None if members is None else Description(members)


NOT_OBJECTS = {
    "nothing": b"",
    "a list": b"[]",
    "a word": b"null",
    "not JSON": b"model=claude",
    "cut": b'{"model":"claude"',
    "two": b"{}{}",
    "trailing comma": b'{"model":"claude",}',
    "NaN": b'{"model":"claude","temperature":NaN}',
    "a lone surrogate": rb'{"model":"claude","messages":["\ud83d"]}',
    "a lone surrogate in a key": rb'{"model":"claude","\ude00":1}',
    "a byte order mark": b'\xef\xbb\xbf{"model":"claude"}',
    "a key that is not UTF-8": b'{"model":"claude","\xff":1}',
    "UTF-16": '{"model":"claude"}'.encode("utf-16"),
    "a line break in a string": b'{"model":"cla\nude"}',
    "too deep": b'{"model":"claude","messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "too deep and cut": b'{"messages":' + b'[{"content":' * 100_000,
}


@pytest.mark.parametrize("case", NOT_OBJECTS)
def test_what_is_no_json_object_is_neither_described_nor_changed(case: str) -> None:
    body = NOT_OBJECTS[case]
    assert describe(body) is None
    assert with_system_prefix(body, "P") is body


@pytest.mark.parametrize(
    ("body", "described"),
    [
        pytest.param(b"{}", (None, False, None), id="nothing"),
        pytest.param(b' {\n"model" : "claude-x" , "stream":true}\r\n', ("claude-x", True, None), id="white space"),
        pytest.param(b'{"model":1,"stream":"true"}', (None, False, None), id="other types"),
        pytest.param(b'{"model":null,"stream":1}', (None, False, None), id="other types again"),
        pytest.param(b'{"model":["x"],"stream":false,"metadata":[]}', (None, False, None), id="and again"),
        pytest.param(b'{"model":"a","stream":true,"model":"b","stream":false}', ("b", False, None), id="keys twice"),
        pytest.param(b'{"model":"a","mod\\u0065l":"\\u0062"}', ("b", False, None), id="escapes"),
        pytest.param(b'{"tools":[{"model":"x","stream":true}]}', (None, False, None), id="only the top counts"),
        pytest.param(b'{"model":"%s"}' % (b"m" * 200), ("m" * 200, False, None), id="a long name"),
        pytest.param(b'{"model":"%s"}' % (b"m" * 201), (None, False, None), id="too long for a name"),
        pytest.param(b'{"model":"\xff"}', (None, False, None), id="not UTF-8"),
        pytest.param(b'{"n":1e999,"i":%s,"model":"m"}' % (b"9" * 9000), ("m", False, None), id="huge numbers"),
        pytest.param(b'{"metadata":{"user_id":"u\\n1"}}', (None, False, b'"u\\n1"'), id="user id"),
        pytest.param(b'{"metadata":{"user_id": {"session_id": 1} }}', (None, False, b'{"session_id": 1}'), id="object"),
        pytest.param(b'{"metadata":{"user_id":null}}', (None, False, None), id="null user id"),
        pytest.param(b'{"metadata":{"user_id":""}}', (None, False, None), id="empty user id"),
        pytest.param(b'{"metadata":null}', (None, False, None), id="null metadata"),
        pytest.param(b'{"metadata":{}}', (None, False, None), id="no user id"),
    ],
)
def test_a_body_is_described(body: bytes, described: tuple[str | None, bool, bytes | None]) -> None:
    description = describe(body)
    assert description
    assert (description.model, description.is_stream, description.user_id) == described


MARK: dict[str, Any] = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}


def block(text: str, **more: object) -> dict[str, object]:
    return {"type": "text", "text": text, **more}


def message(content: object, role: object = "user", **more: object) -> dict[str, object]:
    return {"role": role, "content": content, **more}


def opening(messages: object, system: object = "Be kind.") -> bytes:
    description = describe(json.dumps({"system": system, "messages": messages}).encode())
    assert description
    assert description.opening == description.opening
    return description.opening


HELLO = opening([message("hello")])


@pytest.mark.parametrize(
    ("messages", "system"),
    [
        pytest.param([message("hello"), message("hi", "assistant"), message("x")], "Be kind.", id="it grew"),
        pytest.param([message([block("hello")])], "Be kind.", id="a text as a block"),
        pytest.param([message([block("hello", **MARK)])], [block("Be kind.")], id="a mark on the message"),
        pytest.param(
            [message([block("hello")], **MARK)], [block("Be kind.", **MARK)], id="a mark on the system prompt"
        ),
        pytest.param([{"content": "hello", "role": "user"}], "Be kind.", id="keys in another order"),
    ],
)
def test_a_conversation_keeps_its_opening(messages: object, system: object) -> None:
    assert HELLO
    assert opening(messages, system) == HELLO


@pytest.mark.parametrize(
    ("messages", "system"),
    [
        pytest.param([message("hello!")], "Be kind.", id="another first message"),
        pytest.param([message("hello")], "Be kind", id="another system prompt"),
        pytest.param([message("hello")], None, id="no system prompt"),
        pytest.param([message([block("hello"), block("again")])], "Be kind.", id="one more block"),
        pytest.param([message("Do", "system"), message("hello")], "Be kind.", id="a system message in front"),
        pytest.param([message([block("hello", source={"data": 1})])], "Be kind.", id="another field"),
        pytest.param([message("Be kind.")], "hello", id="the other way round"),
    ],
)
def test_other_conversations_have_other_openings(messages: object, system: object) -> None:
    assert opening(messages, system) not in (HELLO, b"")


def test_a_system_message_after_the_first_user_message_is_part_of_what_follows() -> None:
    assert opening([message("hello"), message("Do", "system")]) == HELLO


def test_what_a_user_says_counts_after_a_system_message_too() -> None:
    do = message("Do", "system")
    assert opening([do, message("hello")]) != opening([do, message("bye")])


def test_marks_deep_inside_the_first_message_make_no_difference() -> None:
    result = [{"type": "tool_result", "content": [block("x")]}]
    marked = [{"type": "tool_result", "content": [block("x", **MARK)], **MARK}]
    assert opening([message(result)]) == opening([message(marked)])


@pytest.mark.parametrize(
    "messages",
    [[], None, "hello", {}, [1, "user", None], [message("Do", "system")], [message("hi", "assistant")], [{"role": 1}]],
    ids=["empty", "null", "string", "object", "odd items", "system only", "assistant only", "odd role"],
)
def test_without_a_user_message_there_is_no_opening(messages: object) -> None:
    """The system prompt alone would take everybody for one conversation."""
    assert opening(messages) == b""


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 900 + b"]" * 900,
        b"[%s,1e999,-0,1E-5]" % (b"9" * 9000),
        '"\\ud83d\\ude00 世界"'.encode(),
        b'"\xff\xfe"',
    ],
    ids=["deep", "huge numbers", "surrogates and UTF-8", "not UTF-8"],
)
def test_odd_contents_have_an_opening_or_none_but_raise_nothing(content: bytes) -> None:
    description = describe(b'{"system":%s,"messages":[{"role":"user","content":%s}]}' % (content, content))
    assert description is None or len(description.opening) in (0, 16)


PREFIX = 'You are "P", 世界.'
P = json.dumps(PREFIX, ensure_ascii=False).encode()
BLOCK = b'{"type":"text","text":' + P + b"}"


SPLICES: dict[str, tuple[bytes, bytes]] = {
    "empty": (b"{}", b'{"system":' + P + b"}"),
    "empty with white space": (b" {\t} ", b' {"system":' + P + b"\t} "),
    "none": (b'{"a":1}', b'{"system":' + P + b',"a":1}'),
    "one of something else": (b'{ "a":{"system":"x"}}', b'{"system":' + P + b', "a":{"system":"x"}}'),
    "null": (b'{"system" : null , "a":1}', b'{"system" : ' + P + b' , "a":1}'),
    "empty string": (b'{"system":""}', b'{"system":' + P[:-1] + b' "}'),
    "string": (b'{"a":1, "system": "\\u0041b"}', b'{"a":1, "system": ' + P[:-1] + b' \\u0041b"}'),
    "empty list": (b'{"system":[]}', b'{"system":[' + BLOCK + b"]}"),
    "empty list with white space": (b'{"system":[ ]}', b'{"system":[' + BLOCK + b" ]}"),
    "blocks": (b'{"system":[ {"type":"text","text":"x"}]}', b'{"system":[' + BLOCK + b', {"type":"text","text":"x"}]}'),
    "odd list": (b'{"system":[1]}', b'{"system":[' + BLOCK + b",1]}"),
    "another type of block": (
        b'{"system":[{"type":"image","text":%s}]}' % P,
        b'{"system":[' + BLOCK + b',{"type":"image","text":%s}]}' % P,
    ),
    "an escaped key": (b'{"syst\\u0065m":"x"}', b'{"syst\\u0065m":' + P[:-1] + b' x"}'),
    "twice the same": (b'{"system":"x","system":"x"}', b'{"system":"x","system":' + P[:-1] + b' x"}'),
    "twice, null last": (b'{"system":[7],"a":1,"system":null}', b'{"system":[7],"a":1,"system":' + P + b"}"),
    "twice, list last": (b'{"system":1,"system":[[1]]}', b'{"system":1,"system":[' + BLOCK + b",[1]]}"),
    "twice, only the first has it": (
        b'{"system":%s,"system":"x"}' % P,
        b'{"system":%s,"system":' % P + P[:-1] + b' x"}',
    ),
    "another key three times": (
        b'{"a":1,"a":12,"a":1,"system":"x"}',
        b'{"a":1,"a":12,"a":1,"system":' + P[:-1] + b' x"}',
    ),
    "a number that another begins with": (
        b'{"a":12,"a":1,"system":"x"}',
        b'{"a":12,"a":1,"system":' + P[:-1] + b' x"}',
    ),
    "UTF-8 before it": (
        '{"é":"système","system":"é"}'.encode(),
        '{"é":"système","system":'.encode() + P[:-1] + ' é"}'.encode(),
    ),
}


@pytest.mark.parametrize("case", SPLICES)
def test_the_prefix_is_spliced_in(case: str) -> None:
    before, after = SPLICES[case]
    assert with_system_prefix(before, PREFIX) == after
    assert with_system_prefix(after, PREFIX) is after
    assert json.loads(after) == expected(json.loads(before), PREFIX)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b'{"system":%s}' % P, id="it is there"),
        pytest.param(b'{"system":"You are \\"P\\", \\u4e16\\u754c. Be kind"}', id="it is there, escaped"),
        pytest.param(b'{"system":[%s, 1]}' % BLOCK, id="a block has it"),
        pytest.param(b'{"system":[{"text":%s,"type":"text"}]}' % (P[:-1] + b' and more"'), id="a block begins with it"),
        pytest.param(b'{"system":"x","system":%s}' % P, id="the last has it"),
        pytest.param(b'{"system":1}', id="a number"),
        pytest.param(b'{"system":{}}', id="an object"),
        pytest.param(b'{"system":"x","system":false}', id="the last is something else"),
        pytest.param(b'{"a":"\xff"}', id="not UTF-8"),
        pytest.param(b'{"system":"\xff"}', id="a system prompt that is not UTF-8"),
        pytest.param(b'{"model":"Claude-HAIKU-9"}', id="an excluded model"),
        pytest.param(b'{"model":"x","model":"other haiku"}', id="an excluded model, last"),
    ],
)
def test_some_bodies_stay_the_same_object(body: bytes) -> None:
    assert with_system_prefix(body, PREFIX, ["none-such", "Haiku"]) is body


@pytest.mark.parametrize("model", [b'"haiku","model":"opus"', b'["haiku"]', b'"hai ku"', b"null"])
def test_other_models_are_not_excluded(model: bytes) -> None:
    body = b'{"model":%s}' % model
    assert with_system_prefix(body, PREFIX, ["haiku"]) == b'{"system":%s,"model":%s}' % (P, model)


def test_an_empty_prefix_changes_nothing() -> None:
    assert with_system_prefix(b"{}", "") == b"{}"


def expected(value: dict[str, Any], prefix: str) -> dict[str, Any]:
    """The rule, on decoded values."""
    system = value.get("system")
    if system is None:
        system = prefix
    elif isinstance(system, str):
        system = system if system.startswith(prefix) else f"{prefix} {system}"
    elif isinstance(system, list):
        first = system[0] if system and isinstance(system[0], dict) else {}
        if first.get("type") != "text" or not str(first.get("text")).startswith(prefix):
            system = [{"type": "text", "text": prefix}, *system]
    return {**value, "system": system}


def test_a_body_nested_as_deeply_as_can_just_be_read_raises_nothing() -> None:
    for depth in range(850, 1000):  # around Python's own limit, which depends on who calls
        nested = b"[" * depth + b"]" * depth
        body = b'{"a":%s,"a":1,"system":"x","messages":[{"role":"user","content":%s}]}' % (nested, nested)
        described = describe(body)
        assert described is None or len(described.opening) in (0, 16)
        assert with_system_prefix(body, "P") in (body, body.replace(b'"x"', b'"P x"'))


class Members(list[tuple[str, object]]):
    """An object in which a key may stand twice."""


texts = st.sampled_from(["system", "model", "type", "text", "P", "P and more", "é"]) | st.text(max_size=5)
numbers = st.sampled_from([0, -1, 12, 123, 10**30, 1.5, -1e-7, 1e300])
scalars = st.none() | st.booleans() | numbers | texts


def objects(values: st.SearchStrategy[object], keys: st.SearchStrategy[str] = texts) -> st.SearchStrategy[Members]:
    return st.lists(st.tuples(keys, values), max_size=5).map(Members)


blocks = objects(st.sampled_from(["text", "P", "P x", 1]), st.sampled_from(["type", "text", "type"]))
nested = st.recursive(scalars | blocks, lambda inner: objects(inner) | st.lists(inner, max_size=3), max_leaves=5)
tops = objects(nested | st.lists(blocks, max_size=2), st.sampled_from(["system", "system", "model", "a", "é", "b"]))


def written(value: object, how: Random) -> str:
    """One of the many ways to write this value as JSON."""

    def spaced(text: str) -> str:
        return how.choice(["", "", " ", "\r\n\t"]) + text + how.choice(["", "", "\n", "  "])

    match value:
        case Members():
            inside = ",".join(spaced(written(key, how)) + ":" + spaced(written(of, how)) for key, of in value)
            return "{" + (inside or spaced("")) + "}"
        case list():
            return "[" + (",".join(spaced(written(item, how)) for item in value) or spaced("")) + "]"
        case str():
            units = value.encode("utf-16-be").hex("-", 2).split("-") if value else []
            every = '"' + "".join(f"\\u{unit}" for unit in units) + '"'
            return how.choice([every, json.dumps(value), json.dumps(value, ensure_ascii=False)])
    return json.dumps(value)


bodies = st.builds(lambda top, seed: written([top], Random(seed))[1:-1].encode(), tops, st.integers(0, 1000))


@given(bodies)
def test_any_object_is_changed_as_the_rule_says_and_nothing_else_in_it_is(body: bytes) -> None:
    spliced = with_system_prefix(body, "P")
    value = json.loads(body)
    rule = expected(value, "P") if not isinstance(value.get("system"), bool | int | float | dict) else value
    assert json.loads(spliced) == rule
    assert (spliced is body) == (rule == value)
    assert with_system_prefix(spliced, "P") is spliced
    kept = common_beginning(body, spliced) + common_beginning(body[::-1], spliced[::-1])
    replaced = len("null") if "system" in value and value["system"] is None else 0
    assert kept >= len(body) - replaced


def common_beginning(one: bytes, other: bytes) -> int:
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


@given(bodies)
def test_any_object_is_described_as_it_decodes(body: bytes) -> None:
    value, description = json.loads(body), describe(body)
    assert description
    assert description.model == (value.get("model") if isinstance(value.get("model"), str) else None)


cut_bodies = st.builds(lambda body, at: body[:at], bodies, st.integers(0, 60))


@given(st.binary(max_size=60) | cut_bodies)
def test_no_bytes_raise(body: bytes) -> None:
    described = describe(body)
    assert described is None or described.opening == b""
    with_system_prefix(body, "P", ["x"])
