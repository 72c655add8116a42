"""Has an ASGI application answer a request: the proxy's own paths. That application reads no body."""

import asyncio
import logging

from starlette.types import ASGIApp, Message, Scope

from oauth_pool_proxy.downstream.client import Client

log = logging.getLogger(__name__)

_tasks: set[asyncio.Task[object] | None] = set()
"""Nothing else keeps a reference to them."""


async def answer_by(application: ASGIApp, client: Client) -> None:
    """Send the answer once it is complete."""
    task = asyncio.current_task()
    _tasks.add(task)
    answer = _Answer()
    try:
        await application(_scope(client), answer.receive, answer.send)
    except Exception:  # Starlette has already answered with 500
        log.exception("unexpected error", extra={"fields": {"path": client.target.decode("ascii")}})
    finally:
        _tasks.discard(task)
        client.respond(answer.status, answer.headers, answer.body)


class _Answer:
    def __init__(self) -> None:
        self.status, self.body = 500, b""
        self.headers = [(b"content-length", b"0")]

    async def receive(self) -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], list(message["headers"])
        elif message["type"] == "http.response.body":
            self.body += message.get("body", b"")


def _scope(client: Client) -> Scope:
    path, _, query = client.target.partition(b"?")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1" if client.is_http_1_1 else "1.0",
        "method": client.method,
        "scheme": "http",
        "root_path": "",
        "path": path.decode("ascii"),
        "raw_path": path,
        "query_string": query,
        "headers": client.headers,
        "client": None,
        "server": None,
    }
