"""No access token, client credential, query or body in anything the proxy prints or publishes, at its most talkative."""

import asyncio
import hashlib
import json
import os
import sys
from pathlib import Path

import pytest

from tests.support.proxy_server import PoolFolder, RawClient, token_of
from tests.support.upstream_server import DEADLINE, SSE_HEAD, RawRequest, UpstreamServer, json_answer

SCRIPT = Path(sys.executable).with_name("oauth-pool-proxy")
FAR = 4_000_000_000.0
MARK = "hush"
"""Part of everything that must not appear. Names of models are meant to."""
OWN = ("/health", "/ready", "/metrics")
BODY = json.dumps(
    {
        "model": "claude-shown",
        "system": "hush-system",
        "metadata": {"user_id": "hush-user"},
        "messages": [{"role": "user", "content": "hush-text"}],
    }
).encode()

ANSWERS = {
    b"/401": json_answer(b"hush-body", 401),
    b"/402": json_answer(b"hush-body", 402),
    b"/403": json_answer(b'{"error":{"message":"revoked hush-body"}}', 403),
    b"/429": json_answer(b"hush-body", 429, ("retry-after", "1")),
    b"/words": json_answer(b'{"error":{"message":"5-hour limit hush-body"}}', 429),
    b"/bad": b"HTTP/1.1 200 OK\r\nx: hush-header\x00\r\n\r\n",
    b"/cut": SSE_HEAD + b"ff\r\nhush-body",
    b"/first": SSE_HEAD
    + b"%x\r\n%s\r\n0\r\n\r\n"
    % (len(FIRST := b'event: error\ndata: {"error":{"type":"rate_limit_error","message":"hush-body"}}\n\n'), FIRST),
    b"/model": json_answer(
        b'{"error":{"message":"hush-body"}}',
        429,
        ("anthropic-ratelimit-unified-7d_oi-status", "rejected"),
        ("anthropic-ratelimit-unified-7d_oi-reset", str(int(FAR))),
    ),
    b"/used": json_answer(b'{"model":"claude-shown","content":"hush-body","usage":{"input_tokens":7}}'),
    b"/good": json_answer(b"hush-body", 200, ("set-cookie", "hush-cookie")),
}


CLIENTS = f"""
[clients]
require = false
service_accounts = false
tailscale_listen_addr = "127.0.0.1:0"
[[clients.keys]]
name = "shown"
sha256 = "{hashlib.sha256(b"hush-client").hexdigest()}"
[[clients.rules]]
match = ["key:*"]
denied_models = ["hush-*"]
"""


@pytest.mark.parametrize("clients", ["", CLIENTS], ids=["", "clients"])
async def test_nothing_secret_is_printed_or_published(tmp_path: Path, upstream: UpstreamServer, clients: str) -> None:
    folder = PoolFolder(tmp_path)
    names = [f"hidden-{number}" for number in range(16)]
    for name in names:
        folder.write_token(name, 1, FAR)
        folder.write_entry(name)
    folder.write_entry("broken")
    (folder.access / "uid-broken.json").write_text('{"generation":1,"access_token":"hush-token","expires":"hush"}')
    (folder.index / "odd").write_text('{"version":1,"hush":')
    (tmp_path / "proxy.toml").write_text(
        f'[proxy]\nlisten_addr = "127.0.0.1:0"\nmetrics_addr = "127.0.0.1:0"\nupstream_url = "{upstream.url}"\n{clients}'
        f"[oauth]\n"
        + "".join(f"{key} = {json.dumps(value)}\n" for key, value in folder.oauth().items())
        + 'system_prefix = "hush-prefix"\n[[oauth.headers]]\nname = "x-key"\nvalue = "hush-configured"\n'
    )

    left = dict(ANSWERS)

    def answer(request: RawRequest) -> bytes:
        """Each once, so that what an account is blamed for costs one account."""
        answer = left.pop(request.target.partition(b"?")[0], json_answer(b"fine"))
        if request.target.startswith(b"/cut"):
            upstream.connections[-1].writer.write(answer)
            upstream.connections[-1].close()
            return b""
        return answer

    upstream.answer_all(answer)
    process = await asyncio.create_subprocess_exec(
        *(SCRIPT, "--config", tmp_path / "proxy.toml", "--log-level", "trace"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "PYTHONASYNCIODEBUG": "1"},
    )
    assert process.stdout is not None
    lines = []
    async with asyncio.timeout(DEADLINE):
        while "addr" not in (line := json.loads(await process.stdout.readline())):
            lines.append(line)
    port, metrics_port = (int(line[name].rpartition(":")[2]) for name in ("addr", "metrics_addr"))
    published = b""
    for target in [*(path.decode() for path in ANSWERS), *OWN]:
        is_own = target in OWN
        published += await exchange(metrics_port if is_own else port, target if is_own else f"{target}?key=hush-query")
    for raw in (b"not http hush\r\n\r\n", b"GET /x?hush HTTP/1.1\r\nhost: hush\r\nx: " + b"hush" * 20_000, TRAILERS):
        published += await exchange(port, "/good?hush", raw)
    process.terminate()
    async with asyncio.timeout(DEADLINE):
        rest = await process.stdout.read()
        assert await process.wait() == 0
    printed = json.dumps(lines) + rest.decode()
    assert not left
    for word in [
        "Unauthorized",
        "Billing",
        "Forbidden",
        "RateLimited",
        "QuotaExhausted",
        "ModelLimited",
        "truncated",
        "unreachable",
    ]:
        assert word in printed
    assert ('"client":"key:shown"' in printed) is bool(clients)
    assert "claude-shown" in printed and b'model="claude-shown"' in published
    assert "request finished" in printed and "account benched" in printed and "index entry ignored" in printed
    for secret in (MARK, *(token_of(name) for name in names)):
        assert secret not in printed
        assert secret not in published.decode()


TRAILERS = (
    b"POST /good HTTP/1.1\r\nhost: a\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
    b"4\r\nhush\r\n0\r\nauthorization: Bearer hush-trailer\r\n\r\n"
)


async def exchange(port: int, target: str, raw: bytes | None = None) -> bytes:
    """One request full of secrets; returns what is not the upstream's in its answer."""
    client = RawClient(*await asyncio.open_connection("127.0.0.1", port))
    is_own = target in OWN
    headers = "authorization: Bearer hush-client\r\nx-api-key: hush-key\r\ncookie: hush-cookie\r\nconnection: close\r\n"
    if target.startswith("/4"):
        headers += "x-claude-code-session-id: hush-session\r\n"
    if raw:
        await client.send(raw)
    else:
        await client.request("GET" if is_own else "POST", target, headers, b"" if is_own else BODY)
    answer = await client.rest()
    client.abort()
    return b"" if target.startswith(("/good", "/cut", "/used")) else answer
