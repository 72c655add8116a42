"""What an answer says about the account that was used. Pure: status, headers and body in, a verdict out.

The user's rules decide first, then the limits in headers, then the built-in table (`rules.py`). Words are proof only if they
are the upstream's own: APIs repeat in errors what they were sent, and no client may bench an account by what it sends.
"""

import re
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from urllib.parse import unquote_to_bytes

import msgspec

from oauth_pool_proxy.config import Header, Rule, Verdict
from oauth_pool_proxy.pool.limits import Limit, Window, limit_of
from oauth_pool_proxy.pool.rules import ACCOUNT_STATUSES, BUILT_IN, LIMIT

MOST_TEXT = 4 * 1024
"""The most text of a body that is not JSON. Error messages are shorter, and a page is not a message."""
MOST_DECOMPRESSED = 1 << 20

STATUS_OF_TYPE = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "rate_limit_error": LIMIT,
}
"""An error event has a type in place of a status."""

_DISGUISED = re.compile(rb"\\u00(?:2[07]|[46][1-9a-f]|[57][0-9a])", re.IGNORECASE)
"""An escaped letter, space or apostrophe, which JSON does not need to escape."""
_BENCHES_ACCOUNT = frozenset((Verdict.UNAUTHORIZED, Verdict.FORBIDDEN, Verdict.BILLING, Verdict.QUOTA_EXHAUSTED))


@dataclass(frozen=True, slots=True)
class Judgement:
    verdict: Verdict
    until: float | None = None
    """When the limit ends, if the answer says so."""
    windows: tuple[Window, ...] = ()
    status: int = field(default=0, compare=False)
    """The status that was judged. For an error event, the one that its type stands for."""


@dataclass(frozen=True, slots=True)
class Question:
    """The parts of a request that an answer may repeat."""

    target: bytes = b""
    headers: Sequence[Header] = ()
    body: bytes = b""
    model: str | None = None

    def may_have_said(self, words: bytes) -> bool:
        """Whether these words in an error may come from the client."""
        if _DISGUISED.search(self.body):
            return True
        said = re.compile(re.escape(words), re.IGNORECASE)
        texts = (self.body, unquote_to_bytes(self.target), *(value for _, value in self.headers))
        return any(map(said.search, texts))


class Judge:
    """`rules` are the user's. They come before the built-in ones."""

    def __init__(self, rules: Iterable[Rule] = ()) -> None:
        self._own = tuple(rules)
        statuses = [rule.statuses for rule in self._own]
        self._any_status = not all(statuses)
        self._statuses = frozenset((*ACCOUNT_STATUSES, LIMIT)).union(*statuses)

    def needs_body(self, status: int, headers: list[Header], now: float) -> bool:
        """Whether status and headers are not enough to decide."""
        if status < 400 or (status not in self._statuses and not self._any_status):
            return False
        return status != LIMIT or bool(self._own) or limit_of(headers, now) is None

    def judge(self, status: int, headers: list[Header], body: bytes, question: Question, now: float) -> Judgement:
        if status < 400:
            return Judgement(Verdict.PASS_ON)
        answer = _Answer(status, headers, body)
        limit = limit_of(headers, now) if status == LIMIT else None
        if found := _first_that_fits(self._own, answer, question):
            return _judgement(found[0].verdict, found[0], limit, status, now)
        if limit:
            return Judgement(limit.verdict, limit.until, limit.windows, status)
        found = _first_that_fits(BUILT_IN, answer, question)
        if found is None:
            return Judgement(Verdict.PASS_ON)
        (rule, words), verdict = found, found[0].verdict
        if words and verdict in _BENCHES_ACCOUNT and question.may_have_said(words):
            verdict = Verdict.NEXT_ACCOUNT if status == LIMIT else Verdict.SUSPECT
        return _judgement(verdict, rule, limit, status, now)

    def judge_event(self, data: bytes, headers: list[Header], question: Question, now: float) -> Judgement:
        """Judge an error event in a stream, with the headers of the stream."""
        status = STATUS_OF_TYPE.get(_error_of(_decoded(data)).get("type", ""))
        if status is None:
            return Judgement(Verdict.PASS_ON)
        plain = [header for header in headers if header[0] != b"content-encoding"]
        return self.judge(status, plain, data, question, now)


def decompressed(headers: list[Header], body: bytes) -> bytes | None:
    """The body without its content coding. None for a coding that cannot be decoded here (br, zstd, several)."""
    codings = [value.strip().lower() for name, value in headers if name == b"content-encoding"]
    if not codings or codings == [b"identity"]:
        return body
    if len(codings) > 1 or codings[0] not in (b"gzip", b"x-gzip", b"deflate"):
        return None
    try:
        return zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(body, MOST_DECOMPRESSED)
    except zlib.error:
        return None


class _Answer:
    """An error answer, decoded only when a rule needs it."""

    def __init__(self, status: int, headers: list[Header], body: bytes) -> None:
        self.status, self.headers = status, headers
        self._body = body
        self._document: object = ...

    @property
    def document(self) -> object:
        if self._document is ...:
            self._document = _decoded(self._text)
        return self._document

    @property
    def message(self) -> str:
        """The error message: from the API's envelope, from RFC 6749's, or a short plain text."""
        if self.document is not None:
            return _error_of(self.document).get("message", "")
        is_page = any(name == b"content-type" and b"html" in value.lower() for name, value in self.headers)
        text = self._text
        return "" if is_page or len(text) > MOST_TEXT or text[:1] == b"<" else text.decode("utf-8", "replace")

    @property
    def _text(self) -> bytes:
        return decompressed(self.headers, self._body) or b""

    def value_at(self, path: Sequence[str]) -> str | None:
        value = self.document
        for name in path:
            value = value.get(name) if isinstance(value, dict) else None
        return None if value is None else str(value)


def _first_that_fits(rules: Iterable[Rule], answer: _Answer, question: Question) -> tuple[Rule, bytes] | None:
    """The first matching rule, and the words in the error that matched, if it matches by words."""
    for rule in rules:
        words = _fits(rule, answer, question)
        if words is not None:
            return rule, words
    return None


def _fits(rule: Rule, answer: _Answer, question: Question) -> bytes | None:
    if rule.statuses and answer.status not in rule.statuses:
        return None
    if rule.header and not _header_fits(rule, answer.headers):
        return None
    if rule.json_path and not _value_fits(answer.value_at(rule.json_path), rule.json_values):
        return None
    return _words_in(answer.message, rule.words, question.model) if rule.words else b""


def _header_fits(rule: Rule, headers: list[Header]) -> bool:
    values = [value.decode("latin-1") for name, value in headers if name == rule.header]
    return any(_value_fits(value, rule.header_values) for value in values)


def _value_fits(value: str | None, globs: tuple[str, ...]) -> bool:
    return value is not None and (not globs or any(_glob(glob).fullmatch(value) for glob in globs))


def _words_in(message: str, words: tuple[str, ...], model: str | None) -> bytes | None:
    if model and "{model}" in words and model in message:
        return model.encode()
    found = _pattern(words).search(message.encode())
    return found[0] if found else None


@lru_cache(1024)
def _pattern(words: tuple[str, ...]) -> re.Pattern[bytes]:
    """Matches any of these words. `*` is a gap of up to 40 characters."""
    parts = ("[^\n]{0,40}?".join(map(re.escape, word.split("*"))) for word in words if word != "{model}")
    return re.compile("|".join(parts).encode() or b"(?!)", re.IGNORECASE)


@lru_cache(1024)
def _glob(glob: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, glob.split("*"))), re.IGNORECASE | re.DOTALL)


def _judgement(verdict: Verdict, rule: Rule, limit: Limit | None, status: int, now: float) -> Judgement:
    until = limit.until if limit else None
    if until is None and rule.cooldown:
        until = now + rule.cooldown
    return Judgement(verdict, until, limit.windows if limit else (), status)


def _decoded(body: bytes) -> object:
    try:
        document: object = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        return None
    return document


def _error_of(document: object) -> dict[str, str]:
    """The type and message of an error, from the API's envelope or another common one."""
    if not isinstance(document, dict):
        return {}
    error = document.get("error")
    if isinstance(error, dict):
        return {key: str(error[key]) for key in ("type", "message") if error.get(key) is not None}
    texts = [document.get(key) for key in ("error", "error_description", "message", "detail")]
    return {"message": " ".join(text for text in texts if isinstance(text, str))}
