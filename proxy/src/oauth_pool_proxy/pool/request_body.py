"""What the proxy reads from the JSON body of a request, and the one thing it may splice into it. Pure: bytes in, bytes out.

Nothing here raises, whatever the bytes: judging an unreadable body is the upstream's job, not the proxy's. If a key occurs
twice, the last one counts, as in nearly every server. For that reason there is no shortcut to a single key. Scanning a body
takes 1 µs per KB, and only the requested values are decoded.
"""

import json
import re
from collections.abc import Iterator, Sequence
from hashlib import blake2b

import msgspec

MOST_NAME_CHARACTERS = 200
"""The longest model name. Names are kept and logged, so their length is limited; no real one is longer."""

_object = msgspec.json.Decoder(dict[str, msgspec.Raw])
_array = msgspec.json.Decoder(list[msgspec.Raw])
_string = msgspec.json.Decoder(str)
_encode = msgspec.json.encode
_MALFORMED = (msgspec.DecodeError, UnicodeError, RecursionError)

# Walks over JSON known to be valid. In Latin-1 every byte is one character, so positions in the text are positions in the bytes.
# Numbers stay as written: the largest cannot be converted.
_parse = json.JSONDecoder(parse_int=str, parse_float=str).raw_decode
_gap = re.compile(r"[ \t\n\r,:]*").match


Members = dict[str, msgspec.Raw]
"""The members of a JSON object, not decoded. They refer to its bytes, so they should not outlive the request."""


class Description:
    """What a request says about itself. `opening` costs 1 µs per KB of the text that it covers."""

    __slots__ = ("_messages", "_opening", "_system", "is_stream", "model", "user_id")

    def __init__(self, members: Members) -> None:
        model = _text(members.get("model"))
        self.model = model if model is None or len(model) <= MOST_NAME_CHARACTERS else None
        self.is_stream = _is_literal(members.get("stream"), b"true")
        self.user_id = _user_id(members.get("metadata"))
        """`metadata.user_id` as written, of any type. None if it is null or an empty string."""
        self._system, self._messages = members.get("system"), members.get("messages")
        self._opening: bytes | None = None

    @property
    def opening(self) -> bytes:
        """A digest of the system prompt and the first user message. Empty if there is no such message.

        It stays the same while a conversation grows. Clients move `cache_control` from message to message, and turn a text
        into a block to mark it, so neither makes a difference.
        """
        if self._opening is None:
            try:
                self._opening = _opening(self._system, self._messages)
            except RecursionError:
                self._opening = b""
        return self._opening


def with_system_prefix(body: bytes, prefix: str, excluded: Sequence[str] = ()) -> bytes:
    """The body with this prefix before its system prompt, and every other byte unchanged.

    Returns the same object if there is nothing to change: the prefix is already there, the model's name contains an excluded
    word, or no prefix can be added to the body or its `system`.
    """
    members = members_of(body)
    if not prefix or members is None:
        return body
    model = (_text(members.get("model")) or "").lower()
    if any(word.lower() in model for word in excluded):
        return body
    try:
        spliced = _spliced(body, members, prefix)
    except RecursionError:
        return body
    return spliced if spliced is not body and _is_utf8(body) else body


def _spliced(body: bytes, members: Members, prefix: str) -> bytes:
    system = members.get("system")
    if system is None:
        comma = b"," if members else b""
        return _inserted(body, body.index(b"{") + 1, b'"system":' + _encode(prefix) + comma)
    if _is_literal(system, b"null"):
        return _inserted(body, _place_of_system(body, members), _encode(prefix), instead_of=len(b"null"))
    if (text := _text(system)) is not None:
        if text.startswith(prefix):
            return body
        return _inserted(body, _place_of_system(body, members) + 1, _encode(prefix + " ")[1:-1])
    try:
        blocks = _array.decode(system)
    except _MALFORMED:
        return body
    if blocks and _is_text_block(blocks[0], prefix):
        return body
    block = _encode({"type": "text", "text": prefix})
    return _inserted(body, _place_of_system(body, members) + 1, block + b"," if blocks else block)


def _inserted(body: bytes, at: int, piece: bytes, instead_of: int = 0) -> bytes:
    view = memoryview(body)
    return b"".join((view[:at], piece, view[at + instead_of :]))


def _is_text_block(block: msgspec.Raw, prefix: str) -> bool:
    members = members_of(block) or {}
    return _text(members.get("type")) == "text" and (_text(members.get("text")) or "").startswith(prefix)


def _place_of_system(body: bytes, members: Members) -> int:
    """Where the value of the last `system` key begins. The body must have one."""
    text = body.decode("latin-1")
    place = 0
    at = text.index("{") + 1
    while text[at := _skip_gap(text, at)] != "}":
        key, at = _parse(text, at)
        at = _skip_gap(text, at)
        if key == "system":
            place = at
        at = _end_of_value(body, text, at, members.get(key))
    return place


def _end_of_value(body: bytes, text: str, at: int, known: msgspec.Raw | None) -> int:
    """Where the value that begins here ends.

    `known` is the last value of the same key, whose length is known. It is nearly always this one. A string, array or object
    that begins with the same bytes also ends with them. A number may go on.
    """
    if known is not None and text[at] in '"[{' and body.startswith(memoryview(known), at):
        return at + len(memoryview(known))
    return _parse(text, at)[1]


def _skip_gap(text: str, at: int) -> int:
    """The beginning of the next token. In valid JSON, nothing between tokens matters."""
    gap = _gap(text, at)
    return gap.end() if gap else at


def _opening(system: msgspec.Raw | None, messages: msgspec.Raw | None) -> bytes:
    parts: list[object] = [] if system is None else [_as_blocks(_parse(_latin(system))[0])]
    for message in _items(messages):
        if isinstance(message, dict):
            parts.append(message | {"content": _as_blocks(message.get("content"))})
            if message.get("role") == "user":
                return blake2b(_encode(_unmarked(parts), order="deterministic"), digest_size=16).digest()
    return b""


def _as_blocks(content: object) -> object:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _unmarked(value: object) -> object:
    """The value without any `cache_control`."""
    if isinstance(value, dict):
        return {key: _unmarked(member) for key, member in value.items() if key != "cache_control"}
    return [_unmarked(item) for item in value] if isinstance(value, list) else value


def _items(array: msgspec.Raw | None) -> Iterator[object]:
    """The items of an array, decoded one by one, so the rest of a long conversation costs nothing. Other values have none."""
    text = _latin(array) if array is not None else ""
    if text.startswith("["):
        at = 1
        while text[at := _skip_gap(text, at)] != "]":
            item, at = _parse(text, at)
            yield item


def _latin(raw: msgspec.Raw) -> str:
    return str(memoryview(raw), "latin-1")


def members_of(value: bytes | msgspec.Raw) -> Members | None:
    """The members. None if it is not a JSON object. Costs 1 µs per KB."""
    try:
        return _object.decode(value)
    except _MALFORMED:
        return None


def _user_id(metadata: msgspec.Raw | None) -> bytes | None:
    members = members_of(metadata) if metadata is not None else None
    user_id = members.get("user_id") if members else None
    if user_id is None or _is_literal(user_id, b"null") or _is_literal(user_id, b'""'):
        return None
    return bytes(user_id)


def _text(value: msgspec.Raw | None) -> str | None:
    """The value, if it is a string."""
    try:
        return None if value is None else _string.decode(value)
    except _MALFORMED:
        return None


def _is_literal(value: msgspec.Raw | None, literal: bytes) -> bool:
    return value is not None and memoryview(value) == literal


def _is_utf8(body: bytes) -> bool:
    """The decoder does not check the bytes in strings that it skips."""
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True
