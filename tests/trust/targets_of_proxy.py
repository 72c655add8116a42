"""What the proxy reads: the pool's ConfigMaps, limits and usage in answers, clients' bodies and tokens, its configuration."""

import json
import tempfile
from contextlib import suppress
from pathlib import Path

import msgspec

from oauth_pool_proxy.config import load_config
from oauth_pool_proxy.downstream.identity import tokens
from oauth_pool_proxy.errors import ConfigInvalid, PoolIndexInvalid
from oauth_pool_proxy.observe.usage import JsonReader, Usage, reader_for
from oauth_pool_proxy.pool import request_body
from oauth_pool_proxy.pool.account import Account
from oauth_pool_proxy.pool.index import IndexEntry, PoolIndexReader, parse_entry
from oauth_pool_proxy.pool.key_pair import KeyPair
from oauth_pool_proxy.pool.limits import LONGEST_COOLDOWN, limit_of
from oauth_pool_proxy.pool.sealed_entry import SealedTokenRefused, open_entry
from oauth_pool_proxy.pool.stream_start import MOST_OF_A_START, error_data
from tests.support.proxy_server import index_entry, token_of
from tests.support.sealing import new_key, sealed_entry
from tests.support.service_account_tokens import AUDIENCE, ISSUER, claims, published, rsa_key, token, unsigned

from .targets import Target, deep, header_lines, must, splits

NOW = 1_780_000_000.0
GOOD_ENTRY = json.dumps(index_entry("good"))
PRIVATE, PUBLIC = new_key()
KEYS, POD = KeyPair(PRIVATE), "proxy-0"
EXAMPLES = Path(__file__).parents[2] / "examples"


def limits(data: bytes) -> None:
    limit = limit_of(header_lines(data), NOW)
    if limit is not None:
        until = limit.until
        must(until is None or NOW < until <= NOW + LONGEST_COOLDOWN, f"a cooldown until {until}")
        for window in limit.windows:
            must(
                window.utilization is None or window.utilization >= 0, f"a window that is used to {window.utilization}"
            )


def usage(data: bytes) -> None:
    held = JsonReader._held
    for content_type in (b"text/event-stream", b"application/json"):
        for encoding in (b"", b"gzip", b"deflate"):
            said: list[tuple[Usage | None, str | None]] = []
            for pieces in splits(data):
                reader = reader_for(content_type, encoding)
                assert reader is not None
                for piece in pieces:
                    reader.feed(piece)
                said.append((reader.usage, reader.model))
                reader.close()
            must(said[0] == said[1] == said[2], f"usage depends on how {content_type!r} is split: {said}")
    must(JsonReader._held == held, "room is held by answers that are over")


def first_event(data: bytes) -> None:
    """Once it is known what a stream begins with, more of it does not change that."""
    whole = error_data(data)
    must(whole is not None or len(data) <= MOST_OF_A_START, "a stream is held back for ever")
    for at in range(0, min(len(data), 2000), 7):
        early = error_data(data[:at])
        must(early is None or early == whole, f"{at} bytes say {early!r}, all of them {whole!r}")


def index(data: bytes) -> None:
    """One bad entry costs one account."""
    text = data.decode(errors="replace")
    try:
        entry = parse_entry("bad", text)
        must(entry.name == "bad" and "/" not in entry.uid and ".." not in entry.uid[:2], "an entry of another name")
        Account(entry)
    except PoolIndexInvalid:
        pass
    names = [entry.name for entry in PoolIndexReader("anthropic").read({"bad": text, "good": GOOD_ENTRY})]
    must("good" in names, f"a bad entry has cost another: {names}")


def sealed(data: bytes) -> None:
    account = Account(msgspec.convert(index_entry("a"), IndexEntry))
    try:
        opened = open_entry(data.decode(errors="replace"), account, POD, KEYS)
        must(opened.value == token_of("a"), "a token that the index does not announce")
    except SealedTokenRefused as error:
        must(len(str(error)) < 200, "the refusal repeats what was sealed")


def bodies(data: bytes) -> None:
    if (members := request_body.members_of(data)) is not None:
        must(len(request_body.Description(members).opening) in (0, 16), "no digest")
    prefixed = request_body.with_system_prefix(data, "a prefix")
    must(len(prefixed) <= len(data) + 200, "the body has grown beyond the prefix")
    try:
        before = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        return
    if prefixed != data:
        after = msgspec.json.decode(prefixed, type=dict[str, msgspec.Raw])
        others = [name for name in before if name != "system"]
        must(
            [bytes(after[name]) for name in others] == [bytes(before[name]) for name in others],
            "other JSON was changed",
        )


def client_tokens(data: bytes) -> None:
    """Nobody gets in with what the API server has not signed."""
    rules = tokens.Rules(ISSUER, AUDIENCE)
    candidate = data if tokens.is_token(data) else b"ey" + data.replace(b".", b"") + b"..x"
    tokens.is_of_a_service_account(candidate)
    try:
        identity = tokens.read(candidate, {"first": rsa_key("first")}, rules, NOW).verified()
        must(candidate in SIGNED, f"a token that nobody signed is that of {identity.name}")
    except (tokens.TokenRefused, tokens.KeyUnknown) as error:
        must(len(str(error)) < 200, "the refusal repeats the token")


def client_keys(data: bytes) -> None:
    with suppress(ValueError, msgspec.DecodeError):  # as documented
        must(bool(tokens.keys_of(data)), "a set without keys is good")


def configuration(data: bytes) -> None:
    with tempfile.NamedTemporaryFile(suffix=".toml") as file:
        file.write(data)
        file.flush()
        try:
            load_config(Path(file.name), {})
        except ConfigInvalid as error:
            must("\n" not in str(error), "an error of more than one line")


SIGNED = (token(claims(NOW)),)
SSE = b'event: message_start\ndata: {"type":"message_start","message":{"model":"m","usage":{"input_tokens":3}}}\n\n'
DELTA = b'event: message_delta\ndata: {"type":"message_delta","usage":{"output_tokens":7}}\n\n'
PROXY_TOML = b"""[proxy]
listen_addr = "127.0.0.1:8080"
upstream_url = "https://api.example"
[oauth]
source = "file"
index_dir = "/i"
access_dir = "/a"
[[oauth.rules]]
status = [429]
verdict = "rate_limited"
[clients]
[[clients.keys]]
name = "a"
sha256 = "00"
"""

TARGETS = (
    Target(
        "limit headers",
        "no header benches an account for longer than eight days",
        limits,
        (
            b"anthropic-ratelimit-unified-5h-status: rejected\nanthropic-ratelimit-unified-5h-reset: 1780003600",
            b"anthropic-ratelimit-requests-reset: 2026-06-01T00:00:00Z\nanthropic-ratelimit-requests-remaining: 0",
            b"retry-after: Mon, 01 Jan 99999999999999999999 00:00:00 GMT",
            b"retry-after: Wed, 21 Oct 2026 07:28:00 GMT",
            b"retry-after: 120",
        ),
    ),
    Target(
        "usage",
        "no answer makes its reader raise, and how it is split says nothing",
        usage,
        (SSE + DELTA, b'{"model":"m","usage":{"input_tokens":3}}', deep(b'{"usage":', b"}"), SSE[:-1]),
    ),
    Target(
        "first event",
        "how a stream begins is decided once",
        first_event,
        (b": c\n\nevent: ping\ndata: {}\n\n", b'event: error\ndata: {"error":1}\n\n', b"data: x\r\n\r\n", SSE),
    ),
    Target(
        "pool index", "one bad entry costs one account", index, (GOOD_ENTRY.encode(), deep(b'{"version":1,"x":', b"}"))
    ),
    Target(
        "sealed tokens",
        "nothing but the announced token is used",
        sealed,
        (sealed_entry("a", {POD: PUBLIC}).encode(), deep(b'{"version":1,"x":', b"}"), b'{"version":1,"sealed":{}}'),
    ),
    Target(
        "request bodies",
        "a body is forwarded byte for byte, but for the prefix",
        bodies,
        (
            b'{"model":"m","system":"s","messages":[{"role":"user","content":"x"}]}',
            b'{"system":[{"type":"text","text":"a"}],"messages":[]}',
            deep(b'{"messages":', b"}"),
            b'{"a":1,"a":2,"system":null}',
        ),
    ),
    Target(
        "ServiceAccount tokens",
        "nobody gets in with what is not signed",
        client_tokens,
        (SIGNED[0], unsigned(claims(NOW), alg="none"), unsigned(claims(NOW), b"x", alg="HS256", kid="first")),
    ),
    Target(
        "keys of ServiceAccount tokens",
        "a key that cannot be read costs no other",
        client_keys,
        (published(rsa_key("first")), deep(b'{"keys":[', b"]}"), b'{"keys":[{"kty":"EC","kid":"a","crv":"P-256"}]}'),
    ),
    Target(
        "the proxy's configuration",
        "one line for a person, and never a traceback",
        configuration,
        (PROXY_TOML, deep(b"a = "), *(path.read_bytes() for path in sorted(EXAMPLES.glob("*proxy*.toml")))),
    ),
)
