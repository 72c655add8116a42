"""The id of a request, as it appears in the log, in the proxy's own errors, and in their `request-id` header."""

import random

_NOT_VERSION = ~(0xF << 76 | 0x3 << 62)
_VERSION_4 = 0x4 << 76 | 0x2 << 62


def new_request_id() -> str:
    """`req_` and a random UUID (RFC 9562 5.4). It need not be hard to guess, so it costs no system call."""
    digits = f"{random.getrandbits(128) & _NOT_VERSION | _VERSION_4:032x}"
    return f"req_{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
