"""An API server's exec, over a real WebSocket: it runs the command here, as a kubelet would in the pod.

Of the API it has what the plugin asks for on the way: one pod, and any account. Frames are RFC 6455; channels are those
of v4.channel.k8s.io and v5.channel.k8s.io, of which v5 can say that the input has ended.
"""

import base64
import hashlib
import json
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

STDIN, STDOUT, STDERR, ERROR, CLOSE = 0, 1, 2, 3, 255
POD = "operator-0"


class ExecServer:
    """Answers until closed; `commands` are what it was asked to run, `program` is what it runs instead.

    With `passes_arguments`, it stands for the command's first word only.
    """

    def __init__(
        self,
        program: list[str],
        protocols: tuple[str, ...],
        *,
        breaks_off: bool,
        passes_arguments: bool,
        environment: Mapping[str, str] | None,
    ) -> None:
        self.program = program
        self.passes_arguments = passes_arguments
        self.environment = environment
        self.protocols = protocols
        self.breaks_off = breaks_off
        self.commands: list[list[str]] = []
        self.containers: list[str] = []
        self.received = b""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"owner": self}))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def kubeconfig(self, folder: Path) -> Path:
        path = folder / "kubeconfig"
        config = {
            "current-context": "here",
            "clusters": [{"name": "here", "cluster": {"server": f"http://127.0.0.1:{self._server.server_port}"}}],
            "users": [{"name": "me", "user": {"token": "a-token"}}],
            "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
        }
        path.write_text(yaml.safe_dump(config))
        return path

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


@contextmanager
def exec_server(
    *program: str,
    protocols: tuple[str, ...] = ("v5.channel.k8s.io",),
    breaks_off: bool = False,
    passes_arguments: bool = False,
    environment: Mapping[str, str] | None = None,
) -> Iterator[ExecServer]:
    server = ExecServer(
        list(program),
        protocols,
        breaks_off=breaks_off,
        passes_arguments=passes_arguments,
        environment=environment,
    )
    try:
        yield server
    finally:
        server.close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: ExecServer

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        if parts.path.endswith("/exec"):
            query = parse_qs(parts.query)
            self.owner.commands.append(query["command"])
            self.owner.containers += query["container"]
            return self._exec()
        if parts.path.endswith("/pods"):
            assert parse_qs(parts.query)["labelSelector"] == ["app.kubernetes.io/name=oauth-pool-operator"]
            return self._answer({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": [_pod()]})
        name = parts.path.rpartition("/")[2]
        return self._answer({"metadata": {"name": name, "resourceVersion": "1"}, "spec": {}})

    def _answer(self, body: dict[str, Any]) -> None:
        text = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def _exec(self) -> None:
        offered = [name.strip() for name in self.headers["sec-websocket-protocol"].split(",")]
        protocol = next(name for name in offered if name in self.owner.protocols)
        key = self.headers["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101)
        self.send_header("upgrade", "websocket")
        self.send_header("connection", "Upgrade")
        self.send_header("sec-websocket-accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode())
        self.send_header("sec-websocket-protocol", protocol)
        self.end_headers()
        self.close_connection = True
        if self.owner.breaks_off:
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        with suppress(ConnectionError):
            self._run()

    def _run(self) -> None:
        process = subprocess.Popen(
            [*self.owner.program, *(self.owner.commands[-1][1:] if self.owner.passes_arguments else ())],
            env=self.owner.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdin and process.stdout and process.stderr
        with process:
            self._feed(process.stdin)
            for channel, stream in ((STDOUT, process.stdout), (STDERR, process.stderr)):
                while chunk := stream.read1(4096):  # type: ignore[attr-defined]
                    self._send(bytes([channel]) + chunk)
            code = process.wait()
        status: dict[str, Any] = {"metadata": {}, "status": "Success"}
        if code:
            causes = [{"reason": "ExitCode", "message": str(code)}]
            status = {"status": "Failure", "reason": "NonZeroExitCode", "details": {"causes": causes}}
        self._send(bytes([ERROR]) + json.dumps(status).encode())
        self._send(struct.pack("!H", 1000), opcode=8)

    def _feed(self, stdin: Any) -> None:
        """Until the client says that the input has ended."""
        while (frame := self._receive()) != bytes([CLOSE, STDIN]):
            assert frame[:1] == bytes([STDIN]), frame[:20]
            self.owner.received += frame[1:]
            with suppress(BrokenPipeError):  # the command may end without reading it
                stdin.write(frame[1:])
        with suppress(BrokenPipeError):
            stdin.close()

    def _receive(self) -> bytes:
        head = self._exactly(2)
        length = head[1] & 127
        if length == 126:
            (length,) = struct.unpack("!H", self._exactly(2))
        elif length == 127:
            (length,) = struct.unpack("!Q", self._exactly(8))
        assert head[1] & 128, "clients mask"
        mask = self._exactly(4)
        data = self._exactly(length)
        if head[0] & 15 == 8:
            raise ConnectionResetError("the client closed")
        return bytes(byte ^ mask[index % 4] for index, byte in enumerate(data))

    def _exactly(self, count: int) -> bytes:
        data = self.rfile.read(count)
        if len(data) < count:
            raise ConnectionResetError("the client is gone")
        return data

    def _send(self, data: bytes, opcode: int = 2) -> None:
        size = bytes([len(data)]) if len(data) < 126 else bytes([126]) + struct.pack("!H", len(data))
        self.wfile.write(bytes([128 | opcode]) + size + data)


def _pod() -> dict[str, Any]:
    return {
        "metadata": {"name": POD, "labels": {"app.kubernetes.io/name": "oauth-pool-operator"}},
        "spec": {"containers": [{"name": "operator"}]},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
    }
