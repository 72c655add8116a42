"""Receives the redirect to this machine (RFC 8252 7.3): if a login's page sends the browser back to a loopback address, the
plugin listens there, and nobody has to copy a code.

It listens on loopback addresses only, and accepts only a request with the login's own `state`: any other program on this
machine, and any page in the browser, can send requests here. It logs and shows nothing of what arrives.
"""

import errno
import hmac
import queue
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any
from urllib.parse import SplitResult, parse_qs, urlsplit, urlunsplit

# `localhost` is both: a browser tries one and then the other.
ADDRESSES = {"127.0.0.1": ("127.0.0.1",), "::1": ("::1",), "localhost": ("127.0.0.1", "::1")}
SILENCE_SECONDS = 10.0  # of a connection: browsers open some in advance

PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>kubectl oauthaccount</title>
<style>body {{ font: 1.1em sans-serif; margin: 4em auto; max-width: 32em; }}</style></head>
<body><h1>{title}</h1><p>{text}</p></body>
</html>
"""


class PortTaken(Exception):
    """The port that the browser will come back to is taken, or nobody may listen on it; the text says which."""


class Callback:
    """Where the browser comes back to, with what it brought."""

    def __init__(self, redirect_uri: str, state: str) -> None:
        self.where = urlsplit(redirect_uri)
        self.state = state
        self._came: queue.Queue[str] = queue.Queue(maxsize=1)

    def wait(self, seconds: float) -> str | None:
        """The whole URL that the browser came to, or None when it did not in time. It holds the code."""
        try:
            return self._came.get(timeout=seconds)
        except queue.Empty:
            return None

    def take(self, url: SplitResult) -> bool:
        """Whether this is the answer that is waited for; the first such is kept."""
        given = _parameter(url.geturl(), "state")
        if url.path != (self.where.path or "/") or not hmac.compare_digest(given.encode(), self.state.encode()):
            return False
        with suppress(queue.Full):  # the page was loaded again
            self._came.put_nowait(urlunsplit(self.where._replace(query=url.query)))
        return True


def callback_of(authorization_url: str) -> Callback | None:
    """Of a login whose redirect URI is on this machine; None if the page shows the code instead."""
    redirect_uri, state = _parameter(authorization_url, "redirect_uri"), state_of(authorization_url)
    try:
        where = urlsplit(redirect_uri)
        is_here = where.scheme == "http" and where.hostname in ADDRESSES and where.port != 0
    except ValueError:
        return None
    return Callback(redirect_uri, state) if is_here and state else None


def state_of(authorization_url: str) -> str:
    """What tells one login from another (RFC 6749 4.1.1)."""
    return _parameter(authorization_url, "state")


def _parameter(url: str, name: str) -> str:
    return parse_qs(urlsplit(url).query).get(name, [""])[0]


@contextmanager
def listening(callback: Callback) -> Iterator[None]:
    """Answer the browser while this lasts; `PortTaken` when that cannot be."""
    with ExitStack() as stack:
        servers = list(_servers(callback))
        for server in servers:
            stack.callback(server.server_close)
            threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True).start()
            stack.callback(server.shutdown)
        yield


def _servers(callback: Callback) -> Iterator[ThreadingHTTPServer]:
    port = callback.where.port or 80
    handler = type("Handler", (_Handler,), {"callback": callback})
    opened: list[ThreadingHTTPServer] = []
    try:
        for address in ADDRESSES[callback.where.hostname or ""]:
            try:
                opened.append(
                    _Server6((address, port), handler) if ":" in address else _Server((address, port), handler)
                )
            except OSError as error:
                # a machine without IPv6 has no ::1, and its browsers go to 127.0.0.1
                if not (":" in address and opened and error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)):
                    raise PortTaken(f"{callback.where.netloc} cannot be listened on: {error.strerror}") from None
    except PortTaken:
        for server in opened:
            server.server_close()
        raise
    yield from opened


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def server_bind(self) -> None:
        """Without asking for this machine's name, as http.server would: a resolver may take its time."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]  # typeshed: or a path

    def handle_error(self, *_: object) -> None:
        """A browser that goes away is nothing to tell."""


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Handler(BaseHTTPRequestHandler):
    callback: Callback
    timeout = SILENCE_SECONDS
    server_version, sys_version = "kubectl-oauthaccount", ""

    def log_message(self, *_: Any) -> None:
        """Nothing: the code is in the request line."""

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if not self.callback.take(url):
            return self._answer(404, "Not found", "This is not the login that kubectl oauthaccount is waiting for.")
        if "error" in parse_qs(url.query):
            return self._answer(200, "Not logged in", "The login was refused. The terminal says how to go on.")
        return self._answer(200, "You can close this window", "The terminal says whether the account works.")

    def _answer(self, status: int, title: str, text: str) -> None:
        page = PAGE.format(title=title, text=text).encode()
        self.send_response(status)
        self.send_header("content-type", "text/html; charset=utf-8")
        self.send_header("content-length", str(len(page)))
        self.send_header("content-security-policy", "default-src 'none'; style-src 'unsafe-inline'")
        self.send_header("referrer-policy", "no-referrer")  # the code is in this page's address
        self.send_header("cache-control", "no-store")
        self.end_headers()
        self.wfile.write(page)
