"""The health endpoints, for the kubelet: `/healthz` (alive) and `/readyz` (at work).

They are served from a thread of their own, so that they answer, with the truth, also when the event loop is stuck.
"""

import json
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import AF_INET, AF_INET6
from threading import Thread

# A loop that has not turned for this long is stuck (it turns at least every 30 s).
STUCK_SECONDS = 90.0


def liveness(seconds_since_last_turn: float, why_deaf: str = "") -> tuple[HTTPStatus, dict[str, str]]:
    """`why_deaf` says that the watch is silent while it should not be; a new process is the remedy, as it is for a stuck loop."""
    is_stuck = seconds_since_last_turn > STUCK_SECONDS
    status = HTTPStatus.INTERNAL_SERVER_ERROR if is_stuck or why_deaf else HTTPStatus.OK
    return status, {"loop": "stuck" if is_stuck else "turning", "watch": why_deaf or "heard"}


def readiness(why_not: str) -> tuple[HTTPStatus, dict[str, str]]:
    if why_not:
        return HTTPStatus.SERVICE_UNAVAILABLE, {"ready": "no", "reason": why_not}
    return HTTPStatus.OK, {"ready": "yes"}


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, host: str, port: int, handler: type[BaseHTTPRequestHandler]) -> None:
        self.address_family = AF_INET6 if ":" in host else AF_INET  # `[::]` on a cluster that has no other
        super().__init__((host, port), handler)


class HealthServer:
    """Answers until `close`. The functions are called from its threads."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        seconds_since_last_turn: Callable[[], float],
        why_deaf: Callable[[], str],
        why_not_ready: Callable[[], str],
    ) -> None:
        pages = {
            "/healthz": lambda: liveness(seconds_since_last_turn(), why_deaf()),
            "/readyz": lambda: readiness(why_not_ready()),
        }

        class Handler(BaseHTTPRequestHandler):
            timeout = 10  # a client that says nothing does not keep a thread

            def do_GET(self) -> None:  # the name is http.server's
                page = pages.get(self.path.partition("?")[0])
                status, document = page() if page else (HTTPStatus.NOT_FOUND, {"pages": " ".join(pages)})
                body = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """A probe is not worth a line."""

        self._server = _Server(host, port, Handler)
        self._thread = Thread(target=self._server.serve_forever, name="health", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
