"""The configured system prefix on the wire: nothing of a body changes but the place where it is put in."""

import json

import pytest

from tests.support.proxy_server import PoolFolder
from tests.support.upstream_server import UpstreamServer, json_answer
from tests.test_proxy.conftest import Start
from tests.test_proxy.pool.test_failover import LIMIT, answers, asked

PREFIX = 'You are "P", 世界.'
ENCODED = json.dumps(PREFIX, ensure_ascii=False).encode()
HEAD = b'{ "model":"claude-x",\t"weird" : [1.0e5, "\\u00e9\\/"], '
TAIL = b'"messages":[{"role":"user","content":"' + b"x" * 100_000 + b'"}]}\n'


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (HEAD + TAIL, b'{"system":' + ENCODED + b"," + HEAD[1:] + TAIL),
        (HEAD + b'"system": "be kind",' + TAIL, HEAD + b'"system": ' + ENCODED[:-1] + b' be kind",' + TAIL),
        (
            HEAD + b'"system":[ {"type":"text","text":"be kind"}],' + TAIL,
            HEAD + b'"system":[{"type":"text","text":' + ENCODED + b'}, {"type":"text","text":"be kind"}],' + TAIL,
        ),
        (HEAD + b'"system":' + ENCODED + b"," + TAIL, HEAD + b'"system":' + ENCODED + b"," + TAIL),
        (HEAD.replace(b"claude-x", b"Claude-HAIKU-9") + TAIL, HEAD.replace(b"claude-x", b"Claude-HAIKU-9") + TAIL),
        (b"not json", b"not json"),
        (b"", b""),
    ],
    ids=["none", "text", "blocks", "has it", "excluded model", "no JSON", "no body"],
)
async def test_the_prefix_is_put_in_and_every_other_byte_kept(
    upstream: UpstreamServer, start: Start, folder: PoolFolder, before: bytes, after: bytes
) -> None:
    folder.account("a")
    upstream.answer_all(json_answer())
    proxy = start(oauth=folder.oauth(system_prefix=PREFIX, system_prefix_excluded_models=["haiku"]))
    await proxy.request("POST", "/v1/messages", "", before)
    (request,) = upstream.requests
    assert request.body == after
    assert request.values(b"content-length") == [b"%d" % len(after)]


async def test_it_is_put_in_once_however_many_accounts_are_asked(
    upstream: UpstreamServer, start: Start, folder: PoolFolder
) -> None:
    folder.account("a")
    folder.account("b")
    answers(upstream, {"a": json_answer(LIMIT, 429)})
    await start(oauth=folder.oauth(system_prefix=PREFIX, affinity=False)).request(
        "POST", "/v1/messages?beta=true", "", HEAD + TAIL
    )
    assert asked(upstream) == ["a-1", "b-1"]
    assert [request.body.count(ENCODED) for request in upstream.requests] == [1, 1]


@pytest.mark.parametrize("mode", ["pool", "passthrough"])
async def test_without_a_prefix_a_body_is_opaque(
    upstream: UpstreamServer, start: Start, folder: PoolFolder, mode: str
) -> None:
    folder.account("a")
    upstream.answer_all(json_answer())
    proxy = start(oauth=folder.oauth()) if mode == "pool" else start()
    for body in (HEAD + TAIL, b'{"system":"\xff"}', b"\x00\xff{"):
        await proxy.request("POST", "/v1/messages", "", body)
        assert upstream.requests[-1].body == body


@pytest.mark.parametrize(
    ("path", "is_prefixed"),
    [
        ("/v1/messages", True),
        ("/v1/messages?beta=true", True),
        ("/v1/messages/count_tokens", True),
        ("/v1/messages/batches", False),
        ("/v1/files", False),
        ("/v1/messages/", False),
        ("/", False),
    ],
)
async def test_only_messages_have_a_system_prompt(
    upstream: UpstreamServer, start: Start, folder: PoolFolder, path: str, is_prefixed: bool
) -> None:
    """`POST /v1/messages/batches` with a `system` is refused by the API."""
    folder.account("a")
    upstream.answer_all(json_answer())
    await start(oauth=folder.oauth(system_prefix=PREFIX)).request("POST", path, "", b'{"requests":[]}')
    (request,) = upstream.requests
    assert (ENCODED in request.body) is is_prefixed
    assert is_prefixed or request.body == b'{"requests":[]}'
