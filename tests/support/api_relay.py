"""What may stand between a client and the API server: a gateway that answers itself, stalls, cuts, or garbles answers.

It speaks plain HTTP with the client, one request a connection, and TLS with the real API server. With no fault it hands on
every byte as it comes, of watches, too. It runs in threads of its own, so the test may be of any kind.
"""

import json
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer
from urllib.parse import urlsplit

import yaml

# What Go's httputil.ReverseProxy answers by itself: no Content-Type and no body.
BARE_502 = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


def answer(status: int, body: bytes = b"", content_type: str = "application/json") -> bytes:
    """An answer of the gateway's own."""
    head = f"HTTP/1.1 {status} Whatever\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Connection: close\r\n\r\n".encode() + body


def refusal(status: int, reason: str) -> bytes:
    """The API server's own way to refuse."""
    document = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": status}
    return answer(status, json.dumps(document).encode())


@dataclass(frozen=True, eq=False)
class Request:
    method: str
    target: str

    @property
    def is_watch(self) -> bool:
        return "watch=true" in self.target


Which = Callable[[Request], bool]


def every(_: Request) -> bool:
    return True


@dataclass
class Fault:
    """What happens to the requests that `which` picks; to the first `times` only, if that is said."""

    which: Which = every
    answers: bytes | None = None
    rewrites: tuple[bytes, bytes] | None = None
    stalls: bool = False
    times: int | None = None
    met: list[Request] = field(default_factory=list)


class ApiRelay:
    """Listens between `with`; `faults` may be changed at any time."""

    def __init__(self, server: str, tls: ssl.SSLContext) -> None:
        self._address = (urlsplit(server).hostname or "", urlsplit(server).port or 443)
        self._tls = tls
        self.faults: list[Fault] = []
        self._open: dict[socket.socket, Request] = {}
        self._ends = threading.Event()

    @contextmanager
    def running(self) -> Iterator["ApiRelay"]:
        relay = self

        class Handler(StreamRequestHandler):
            def handle(self) -> None:
                with suppress(OSError, ValueError):
                    relay._serve(self.connection, self.rfile.readline, self.rfile.read)

        with ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
            server.daemon_threads = True
            self.url = f"http://127.0.0.1:{server.server_address[1]}"
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
            thread.start()
            try:
                yield self
            finally:
                self._ends.set()
                self.cut(every)
                server.shutdown()
                thread.join()

    def kubeconfig(self, original: Path, to: Path) -> Path:
        """The same, by way of the relay."""
        config = yaml.safe_load(original.read_text())
        for cluster in config["clusters"]:
            cluster["cluster"] = {"server": self.url}
        to.write_text(yaml.safe_dump(config))
        return to

    @contextmanager
    def fault(self, which: Which = every, **members: object) -> Iterator[Fault]:
        fault = Fault(which, **members)  # type: ignore[arg-type]
        self.faults.append(fault)
        try:
            yield fault
        finally:
            self.faults.remove(fault)

    @property
    def open_requests(self) -> list[Request]:
        """Those that are being answered."""
        return list(self._open.values())

    def cut(self, which: Which) -> None:
        """Break the connections of these requests."""
        for connection, request in list(self._open.items()):
            if which(request):
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def _serve(self, client: socket.socket, readline: Callable[[], bytes], read: Callable[[int], bytes]) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = readline()
            if not line:
                return
            head += line
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        body = read(int(length[1])) if length else b""
        method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ", 2)
        request = Request(method, target)
        self._open[client] = request
        try:
            self._answer(client, request, head, body)
        finally:
            del self._open[client]

    def _answer(self, client: socket.socket, request: Request, head: bytes, body: bytes) -> None:
        fault = next((one for one in self.faults if one.which(request) and one.times != len(one.met)), None)
        if fault is not None:
            fault.met.append(request)
        if fault is not None and fault.answers is not None:
            client.sendall(fault.answers)
            return
        with (
            socket.create_connection(self._address) as plain,
            self._tls.wrap_socket(plain, server_hostname=self._address[0]) as server,
        ):
            self._open[server] = request
            try:
                server.sendall(_for_one_request(head) + body)
                if fault is not None and fault.rewrites is not None:
                    client.sendall(b"".join(iter(lambda: server.recv(65536), b"")).replace(*fault.rewrites))
                    return
                while data := server.recv(65536):
                    self._wait_while_stalled(request)
                    client.sendall(data)
            finally:
                del self._open[server]

    def _wait_while_stalled(self, request: Request) -> None:
        """Also what is under way already stalls."""
        while any(one.stalls and one.which(request) for one in self.faults):
            if self._ends.wait(0.05):
                raise OSError("the relay ends")


def _for_one_request(head: bytes) -> bytes:
    """The head with `Connection: close`, and without what would make an answer hard to look into."""
    head = re.sub(rb"(?i)\r\n(connection|accept-encoding): [^\r]*", b"", head)
    return head.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
