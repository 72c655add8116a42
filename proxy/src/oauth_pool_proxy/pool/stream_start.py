"""Reads how an event stream begins (https://html.spec.whatwg.org/multipage/server-sent-events.html, 9.2.6). Pure.

After a 200, an upstream may still refuse, with an error as the first event. Comments and pings may come before it, the fields
of an event may be in any order, and the space after a colon may be missing.
"""

import re

MOST_OF_A_START = 16 * 1024
"""This much without a complete event is not an API error."""

_GOOD_START = b"event: message_start\n"
_END_OF_LINE = re.compile(rb"\r\n|\n|\r")
_PING = re.compile(rb'\{\s*"type"\s*:\s*"ping"\s*\}')


def error_data(text: bytes) -> bytes | None:
    """The data of the first real event, if it is an error. Empty if it is not.

    None if the first real event is not complete yet.
    """
    if text.startswith(_GOOD_START):  # as nearly every stream does
        return b""
    name, data, is_event = b"", [], False
    lines = _END_OF_LINE.split(text.removeprefix(b"\xef\xbb\xbf"))
    for line in lines[:-1]:  # the last one may be incomplete
        if line:
            field, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            if field == b"event":
                if value not in (b"error", b"ping"):
                    return b""
                name, is_event = value, True
            elif field == b"data":
                data.append(value)
                is_event = True
        elif is_event:
            whole = b"\n".join(data)
            if name == b"error" or (not name and b'"error"' in whole):
                return whole
            if not name and not _PING.fullmatch(whole):
                return b""
            name, data, is_event = b"", [], False
    return b"" if len(text) > MOST_OF_A_START else None
