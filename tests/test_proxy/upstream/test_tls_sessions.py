"""A new connection to the upstream resumes the TLS session of one before, and only where it may."""

import ssl
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from oauth_pool_proxy.config import UpstreamUrl
from oauth_pool_proxy.errors import UpstreamUnreachable
from oauth_pool_proxy.upstream.certificate_files import LOOK_SECONDS
from oauth_pool_proxy.upstream.tls import SESSION_SECONDS, TlsSessions
from oauth_pool_proxy.upstream.upstream import Upstream
from tests.support.proxy_server import Clock
from tests.support.upstream_server import UpstreamServer, json_answer, upstream_server
from tests.test_proxy.upstream.test_upstream import ask, read_all
from tests.test_proxy.upstream.test_upstream_tls import certificate, server_context

CLOSING = json_answer(b"{}", 200, ("connection", "close"))


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return certificate(tmp_path, "127.0.0.1")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@contextmanager
def client_of(port: int, ca_file: Path, clock: Clock | None = None) -> Iterator[Upstream]:
    client = Upstream(UpstreamUrl(True, "127.0.0.1", port, b""), timeout=60, ca_file=ca_file, clock=clock)
    try:
        yield client
    finally:
        client.close()


async def new_connection(client: Upstream, server: UpstreamServer) -> bool:
    """Ask once over a connection of its own; whether the server says that it was resumed."""
    server.answer_all(CLOSING)
    await read_all(await ask(client))
    return bool(server.connections[-1].writer.get_extra_info("ssl_object").session_reused)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_the_next_connections_resume_the_latest_session(pair: tuple[Path, Path], version: ssl.TLSVersion) -> None:
    context = server_context(*pair)
    context.maximum_version = version
    async with upstream_server(context) as server:
        with client_of(server.port, pair[0]) as client:
            assert [await new_connection(client, server) for _ in range(4)] == [False, True, True, True]
            assert client.handshakes == {"full": 1, "resumed": 3}


async def test_a_server_without_tickets_is_asked_as_ever(pair: tuple[Path, Path]) -> None:
    context = server_context(*pair)
    context.num_tickets = 0
    async with upstream_server(context) as server:
        with client_of(server.port, pair[0]) as client:
            assert [await new_connection(client, server) for _ in range(3)] == [False] * 3
            assert client.handshakes == {"full": 3, "resumed": 0}


async def test_a_server_that_has_forgotten_shakes_hands_anew(pair: tuple[Path, Path]) -> None:
    """As after a restart, or when it is another one behind the same address: its keys for tickets are others."""
    async with AsyncExitStack() as first:
        server = await first.enter_async_context(upstream_server(server_context(*pair)))
        with client_of(server.port, pair[0]) as client:
            await new_connection(client, server)
            await first.aclose()
            async with upstream_server(server_context(*pair), port=server.port) as second:
                assert [await new_connection(client, second) for _ in range(2)] == [False, True]


class CountedSession:
    """Of a TLS connection: how often it was copied."""

    def __init__(self, *, is_reused: bool) -> None:
        self.session_reused = is_reused
        self.copies = 0

    @property
    def session(self) -> ssl.SSLSession | None:
        self.copies += 1
        return cast(ssl.SSLSession, object())


def test_a_session_that_is_resumed_is_copied_once_in_a_while_and_one_that_is_refused_gives_way_at_once(
    clock: Clock,
) -> None:
    sessions, context = TlsSessions(clock), ssl.create_default_context()
    first, resumed, refused = (CountedSession(is_reused=reused) for reused in (False, True, False))
    sessions.offer(context, cast(Any, first))
    before = sessions.of(context)
    sessions.offer(context, cast(Any, resumed))
    assert (first.copies, resumed.copies, sessions.of(context)) == (1, 0, before)
    sessions.offer(context, cast(Any, refused))
    assert (refused.copies, sessions.of(context) is before) == (1, False)
    clock.advance(SESSION_SECONDS)
    sessions.offer(context, cast(Any, resumed))
    assert resumed.copies == 1


async def test_another_certificate_authority_does_not_trust_what_the_last_one_did(tmp_path: Path, clock: Clock) -> None:
    folder, other = tmp_path / "one", tmp_path / "other"
    folder.mkdir()
    other.mkdir()
    pair, others = certificate(folder, "127.0.0.1"), certificate(other, "127.0.0.1")
    ca_file = tmp_path / "ca.pem"
    ca_file.write_bytes(pair[0].read_bytes())
    async with upstream_server(server_context(*pair)) as server:
        with client_of(server.port, ca_file, clock) as client:
            assert [await new_connection(client, server) for _ in range(2)] == [False, True]
            ca_file.write_bytes(others[0].read_bytes())
            clock.advance(LOOK_SECONDS)
            with pytest.raises(UpstreamUnreachable, match="certificate"):
                await ask(client)
