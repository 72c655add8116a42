"""Certificates that are replaced while the proxy runs, and the one that it shows."""

import asyncio
import os
import shutil
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from oauth_pool_proxy.config import ClientCertificate, UpstreamUrl
from oauth_pool_proxy.errors import UpstreamUnreachable
from oauth_pool_proxy.upstream.certificate_files import LOOK_SECONDS
from oauth_pool_proxy.upstream.upstream import Upstream
from tests.support.proxy_server import Clock
from tests.support.upstream_server import DEADLINE, UpstreamServer, json_answer, upstream_server
from tests.test_proxy.upstream.test_upstream import ask, read_all
from tests.test_proxy.upstream.test_upstream_tls import certificate, server_context

CLOSING = json_answer(b"{}", 200, ("connection", "close"))


class Files:
    """Where a volume is mounted: a CA, and our own certificate with its key."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.ca, self.certificate, self.key = root / "ca.pem", root / "certificate.pem", root / "key.pem"

    def made(self, name: str, host: str = "127.0.0.1") -> tuple[Path, Path]:
        folder = self._root / name
        folder.mkdir()
        return certificate(folder, host)

    def replace(self, path: Path, by: Path) -> None:
        """At once, as volumes do, and with a time that says nothing."""
        temporary = path.with_suffix(".new")
        shutil.copy(by, temporary)
        os.utime(temporary, (0, 0))
        temporary.rename(path)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@contextmanager
def client_of(server: UpstreamServer, files: Files, clock: Clock, *, shows: bool = False) -> Iterator[Upstream]:
    url = UpstreamUrl(True, "127.0.0.1", server.port, b"")
    shown = ClientCertificate(files.certificate, files.key) if shows else None
    client = Upstream(url, timeout=60, ca_file=files.ca, client_certificate=shown, clock=clock)
    try:
        yield client
    finally:
        client.close()


async def test_a_ca_file_is_read_again_when_it_has_changed(files: Files, clock: Clock) -> None:
    old, new = files.made("old"), files.made("new")
    files.replace(files.ca, old[0])
    context = server_context(*old)
    context.num_tickets = 0  # no session is resumed: each handshake shows the certificate
    async with upstream_server(context) as server:
        server.answer_all(CLOSING)
        with client_of(server, files, clock) as client:
            await read_all(await ask(client))
            context.load_cert_chain(*new)
            with pytest.raises(UpstreamUnreachable, match="certificate"):
                await ask(client)
            files.replace(files.ca, new[0])
            with pytest.raises(UpstreamUnreachable, match="certificate"):
                await ask(client)  # not looked at for every connection
            clock.advance(LOOK_SECONDS)
            await read_all(await ask(client))


@pytest.mark.parametrize("what", ["no certificate", "gone"])
async def test_a_file_that_turned_bad_changes_nothing_but_the_log(
    files: Files, clock: Clock, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    pair = files.made("old")
    files.replace(files.ca, pair[0])
    async with upstream_server(server_context(*pair)) as server:
        server.answer_all(CLOSING)
        with client_of(server, files, clock) as client:
            if what == "gone":
                files.ca.unlink()
            else:
                files.ca.write_text("secret words")
            for _ in range(3):
                clock.advance(LOOK_SECONDS)
                await read_all(await ask(client))
            (record,) = caplog.records
            assert "last good one is kept" in record.message
            assert record.__dict__["fields"]["files"] == [str(files.ca)]
            assert "secret" not in str(record.__dict__)

            files.replace(files.ca, files.made("good again")[0])
            clock.advance(LOOK_SECONDS)
            with pytest.raises(UpstreamUnreachable, match="certificate"):
                await ask(client)


def demanding(pair: tuple[Path, Path], *clients: Path) -> ssl.SSLContext:
    """A server's context that lets in only those with one of these certificates."""
    context = server_context(*pair)
    context.verify_mode = ssl.CERT_REQUIRED
    for path in clients:
        context.load_verify_locations(path)
    return context


def shown_to(server: UpstreamServer) -> list[str]:
    """The names of the clients, by their connections."""
    shown = [connection.writer.get_extra_info("peercert") for connection in server.connections]
    return [subject["subject"][0][0][1] for subject in shown]


async def test_an_upstream_that_asks_for_it_is_shown_the_client_certificate(files: Files, clock: Clock) -> None:
    pair, old, new = files.made("server"), files.made("a", "old.example"), files.made("b", "new.example")
    files.replace(files.ca, pair[0])
    files.replace(files.certificate, old[0])
    files.replace(files.key, old[1])
    async with upstream_server(demanding(pair, old[0], new[0])) as server:
        server.answer_all(CLOSING)
        with client_of(server, files, clock, shows=True) as client:
            await read_all(await ask(client))
            files.replace(files.certificate, new[0])  # and its key a moment later
            clock.advance(LOOK_SECONDS)
            await read_all(await ask(client))
            files.replace(files.key, new[1])
            clock.advance(LOOK_SECONDS)
            await read_all(await ask(client))
        assert shown_to(server) == ["old.example", "old.example", "new.example"]


async def test_without_it_the_upstream_s_alert_is_told(files: Files, clock: Clock) -> None:
    """TLS 1.3 refuses a client when that has finished its handshake and sent its request."""
    pair, client_pair = files.made("server"), files.made("a", "client.example")
    files.replace(files.ca, pair[0])
    context = demanding(pair, client_pair[0])

    has_read = threading.Event()

    def refuse(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection.dup():  # closed with bytes unread, it would reset the connection, and the alert could be lost
            with pytest.raises(ssl.SSLError):
                context.wrap_socket(connection, server_side=True)
            has_read.wait(DEADLINE)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        refusing = asyncio.create_task(asyncio.to_thread(refuse, listener))
        url = UpstreamUrl(True, "127.0.0.1", listener.getsockname()[1], b"")
        client = Upstream(url, timeout=60, ca_file=files.ca, clock=clock)
        with pytest.raises(UpstreamUnreachable, match="CERTIFICATE_REQUIRED"):
            await ask(client)
        has_read.set()
        await refusing
        client.close()
