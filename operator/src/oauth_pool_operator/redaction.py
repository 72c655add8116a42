"""Takes out of a log line what looks like a credential. Pure.

Our own lines never hold one. This is the net below them: an exception of a library, or of code that does not exist yet,
may quote what it stumbled over. The proxy has the same net, and one test holds both.
"""

import logging
import re

REDACTED = "[redacted]"

# What is no plain word after it: "Basic authentication" stays.
_SCHEMES = re.compile(r"\b((?i:Bearer|Basic))\s+(?=[a-z]*[^a-z\s])[A-Za-z0-9._~+/=-]{8,}")
_JWT = re.compile(r"\beyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]*)?")
_PREFIXED = re.compile(r"\b(sk-ant-|sk-|sess-|gh[opsur]_|ya29\.|xox[a-z]-)[A-Za-z0-9._-]{8,}")
_NAMED = re.compile(  # as in a form, a query, JSON, a dict, a pair or a dataclass; quotes may be escaped
    r"\b((?:access|refresh|id|subject|actor)_token|client_secret|client_assertion|assertion|code_verifier|device_code"
    r"|x-api-key|authorization|password|cookie|(?<=[?&'\"])(?:code|state|verifier|token))"
    r"""(\\?['"]?\s*[=:,]\s*b?\\?['"]?)(?!None\b|null\b)([^\s'"\\&,;(){}\[\]]{4,})""",
    re.IGNORECASE,
)
_URL_PASSWORD = re.compile(r"(://[^\s/:@'\"]*:)[^\s/@'\"]+@")
# Tokens are random, and most have no mark: what a library quotes is taken out when it looks like that.
_OPAQUE = re.compile(r"[A-Za-z0-9_~+=-]{20,}")
_UPPER, _LOWER, _DIGIT = re.compile("[A-Z]"), re.compile("[a-z]"), re.compile("[0-9]")
_HEX = re.compile(r"[0-9a-fA-F]{32,}")


def redacted(text: str) -> str:
    """Without what is a credential by its form or by the name before it."""
    text = _SCHEMES.sub(rf"\1 {REDACTED}", text)
    text = _JWT.sub(REDACTED, text)
    text = _PREFIXED.sub(REDACTED, text)
    text = _NAMED.sub(rf"\1\2{REDACTED}", text)
    return _URL_PASSWORD.sub(rf"\1{REDACTED}@", text)


def redacted_exception(text: str) -> str:
    """For the texts of exceptions and tracebacks, which nobody has worded: also without what looks random."""
    return _OPAQUE.sub(_unless_a_word, redacted(text))


def message_of(record: logging.LogRecord) -> str:
    """The record's message. Exceptions among its arguments, and words of libraries, are taken for what they are: asyncio
    puts the `repr` of an exception that nobody retrieved into its message."""
    if record.exc_info or not record.name.startswith("oauth_pool_"):
        return redacted_exception(record.getMessage())
    arguments = record.args
    if isinstance(arguments, tuple) and any(isinstance(argument, BaseException) for argument in arguments):
        plain = (redacted_exception(str(one)) if isinstance(one, BaseException) else one for one in arguments)
        return redacted(str(record.msg) % tuple(plain))
    return redacted(record.getMessage())


def _unless_a_word(match: re.Match[str]) -> str:
    run = match[0]
    is_random = all(kind.search(run) for kind in (_UPPER, _LOWER, _DIGIT)) or _HEX.fullmatch(run)
    return REDACTED if is_random else run
