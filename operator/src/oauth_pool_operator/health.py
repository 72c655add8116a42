"""The health endpoints, for the kubelet: `/healthz` (alive) and `/readyz` (at work).

They are served from a thread of their own, so that they answer, with the truth, also when the event loop is stuck.
"""

import json
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

# A loop that has not turned for this long is stuck (it turns at least every 30 s).
STUCK_SECONDS = 90.0


def liveness(seconds_since_last_turn: float) -> tuple[HTTPStatus, dict[str, str]]:
    if seconds_since_last_turn > STUCK_SECONDS:
        return HTTPStatus.INTERNAL_SERVER_ERROR, {"loop": "stuck"}
    return HTTPStatus.OK, {"loop": "turning"}


def readiness(why_not: str) -> tuple[HTTPStatus, dict[str, str]]:
    if why_not:
        return HTTPStatus.SERVICE_UNAVAILABLE, {"ready": "no", "reason": why_not}
    return HTTPStatus.OK, {"ready": "yes"}


class HealthServer:
    """Answers until `close`. Both functions are called from its thread."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        seconds_since_last_turn: Callable[[], float],
        why_not_ready: Callable[[], str],
    ) -> None:
        pages = {
            "/healthz": lambda: liveness(seconds_since_last_turn()),
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

        self._server = ThreadingHTTPServer((host, port), Handler)
        self._server.daemon_threads = True
        self._thread = Thread(target=self._server.serve_forever, name="health", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
