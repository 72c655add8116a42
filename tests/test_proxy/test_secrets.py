"""No access token, client credential, query or body in anything the proxy prints or publishes, at its most talkative."""

import asyncio
import json
import os
import sys
from pathlib import Path

from tests.support.proxy_server import PoolFolder, RawClient, token_of
from tests.support.upstream_server import DEADLINE, SSE_HEAD, RawRequest, UpstreamServer, json_answer

SCRIPT = Path(sys.executable).with_name("oauth-pool-proxy")
FAR = 4_000_000_000.0
MARK = "hush"
"""Part of everything that must not appear."""

ANSWERS = {
    b"/401": json_answer(b"hush-body", 401),
    b"/402": json_answer(b"hush-body", 402),
    b"/403": json_answer(b'{"error":{"message":"revoked hush-body"}}', 403),
    b"/429": json_answer(b"hush-body", 429, ("retry-after", "1")),
    b"/words": json_answer(b'{"error":{"message":"5-hour limit hush-body"}}', 429),
    b"/bad": b"HTTP/1.1 200 OK\r\nx: hush-header\x00\r\n\r\n",
    b"/cut": SSE_HEAD + b"ff\r\nhush-body",
    b"/good": json_answer(b"hush-body", 200, ("set-cookie", "hush-cookie")),
}


async def test_nothing_secret_is_printed_or_published(tmp_path: Path, upstream: UpstreamServer) -> None:
    folder = PoolFolder(tmp_path)
    names = [f"hidden-{number}" for number in range(12)]
    for name in names:
        folder.write_token(name, 1, FAR)
        folder.write_entry(name)
    folder.write_entry("broken")
    (folder.access / "uid-broken.json").write_text('{"generation":1,"access_token":"hush-token","expires":"hush"}')
    (folder.index / "odd").write_text('{"version":1,"hush":')
    (tmp_path / "proxy.toml").write_text(
        f'[proxy]\nlisten_addr = "127.0.0.1:0"\nupstream_url = "{upstream.url}"\n'
        f"[oauth]\n"
        + "".join(f"{key} = {json.dumps(value)}\n" for key, value in folder.oauth().items())
        + '[[oauth.headers]]\nname = "x-key"\nvalue = "hush-configured"\n'
    )

    def answer(request: RawRequest) -> bytes:
        answer = ANSWERS[request.target.partition(b"?")[0]]
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
    port = int(line["addr"].rpartition(":")[2])
    published = b""
    for target in [*(path.decode() for path in ANSWERS), "/health", "/ready", "/metrics"]:
        published += await exchange(
            port, target if target in ("/health", "/ready", "/metrics") else f"{target}?key=hush-query"
        )
    published += await exchange(port, "/good?hush", b"not http hush\r\n\r\n")
    process.terminate()
    async with asyncio.timeout(DEADLINE):
        rest = await process.stdout.read()
        assert await process.wait() == 0
    printed = json.dumps(lines) + rest.decode()
    assert "request finished" in printed and "account benched" in printed and "index entry ignored" in printed
    for secret in (MARK, *(token_of(name) for name in names)):
        assert secret not in printed
        assert secret not in published.decode()


async def exchange(port: int, target: str, raw: bytes | None = None) -> bytes:
    """One request full of secrets; returns what is not the upstream's in its answer."""
    client = RawClient(*await asyncio.open_connection("127.0.0.1", port))
    headers = "authorization: Bearer hush-client\r\nx-api-key: hush-key\r\ncookie: hush-cookie\r\nconnection: close\r\n"
    if raw:
        await client.send(raw)
    else:
        await client.request("GET" if target.startswith(("/health", "/ready", "/metrics")) else "POST", target, headers)
    answer = await client.rest()
    client.abort()
    return b"" if target.startswith(("/good", "/cut")) else answer
