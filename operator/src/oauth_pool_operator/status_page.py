"""Turns the accounts as last seen into cards of the status page, and serves the page beside `/metrics`.

It shows what `kubectl get oauthaccounts` shows: no login link, and nothing that a reader of the objects would not see.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from importlib.metadata import version
from socket import AF_INET, AF_INET6
from socketserver import ThreadingMixIn
from threading import Thread
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app

from oauth_pool_operator.account import conditions as c
from oauth_pool_operator.account.spec import Account
from oauth_pool_operator.status_html import HEADERS, Bar, Card, Tone, page, when

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

NEWS = timedelta(minutes=3)
"""How long what a proxy says of its requests counts."""
_BY_ITSELF = frozenset((c.COOLING_DOWN, c.REFRESHING))


def render(accounts: list[Account], figures: list[tuple[str, str]], now: datetime, *, reloads: bool) -> bytes:
    cards = [_card(account, now) for account in accounts if not account.deleting]
    seen_by = f"oauth-pool-operator {version('oauth-pool-operator')}: what the objects say"
    return page("OAuth accounts", seen_by, figures, cards, now.timestamp(), reloads=reloads)


def _card(account: Account, now: datetime) -> Card:
    status, conditions = account.status, account.conditions
    ready = c.find(conditions, c.READY) or {}
    word = str(ready.get("reason") or "New")
    needs_login, is_stalled = c.is_true(conditions, c.LOGIN_REQUIRED), c.is_true(conditions, c.STALLED)
    facts = [("provider", account.spec.provider), ("grant", account.spec.grant)]
    if (rate := _rate(status.get("reports") or [], now)) is not None:
        facts.append(("requests/min", str(rate)))
    if until := _instant(status.get("cooldown", {}).get("untilTime")):
        facts.append(("back", when(until, now.timestamp())))
    if expires := _instant(status.get("token", {}).get("expirationTime")):
        facts.append(("token expires", when(expires, now.timestamp())))
    verb = "login" if needs_login else "resume" if word == c.SUSPENDED else "describe" if is_stalled else ""
    return Card(
        account.name,
        word,
        _tone(word, is_ready=ready.get("status") == "True", needs_somebody=needs_login or is_stalled),
        [_bar(window) for window in status.get("quota", {}).get("windows", [])],
        facts,
        _advice(status, conditions, ready),
        f"kubectl oauthaccount {verb} {account.name}" if verb else "",
    )


def _advice(status: dict[str, Any], conditions: list[dict[str, Any]], ready: dict[str, Any]) -> str:
    """What the condition says, without what the card says better: until when, and how to log in."""
    if (c.find(conditions, c.LOGIN_REQUIRED) or {}).get("reason") in (c.AWAITING_CODE, c.AWAITING_APPROVAL):
        return "It needs a login."
    if ready.get("status") == "True":
        return ""
    why = status.get("cooldown", {}).get("reason") if ready.get("reason") == c.COOLING_DOWN else None
    return str(why or ready.get("message") or "")


def _tone(word: str, *, is_ready: bool, needs_somebody: bool) -> Tone:
    if word == c.SUSPENDED:
        return Tone.OFF
    if needs_somebody:
        return Tone.ACT
    if is_ready:
        return Tone.WELL
    return Tone.WAIT if word in _BY_ITSELF else Tone.ACT


def _bar(window: dict[str, Any]) -> Bar:
    return Bar(str(window.get("name", "?")), window.get("utilization"), _instant(window.get("resetTime")))


def _rate(reports: list[dict[str, Any]], now: datetime) -> int | None:
    """The sum over the proxies that have said so lately."""
    oldest = (now - NEWS).timestamp()
    rates = [
        int(report["requestsPerMinute"])
        for report in reports
        if "requestsPerMinute" in report and (_instant(report.get("observedTime")) or 0) > oldest
    ]
    return sum(rates) if rates else None


def _instant(text: object) -> float | None:
    """Unix time; None for what is no instant, whoever wrote it."""
    try:
        return datetime.fromisoformat(str(text)).timestamp() if text else None
    except ValueError:
        return None


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Handler(WSGIRequestHandler):
    timeout = 10  # a client that says nothing does not keep a thread

    def log_message(self, *_: object) -> None:
        """A scrape is not worth a line."""


class MetricsServer:
    """`/` is the status page, every other path the metrics, as they always were. From threads of its own, until `close`."""

    def __init__(
        self, host: str, port: int, registry: CollectorRegistry, render_page: Callable[[bool], bytes] | None = None
    ) -> None:
        self.render_page = render_page
        """Given by whoever knows the accounts, when it does; until then there are none."""
        metrics = make_wsgi_app(registry)

        def app(environ: "WSGIEnvironment", start_response: "StartResponse") -> Any:
            if environ["PATH_INFO"] != "/" or environ["REQUEST_METHOD"] != "GET" or self.render_page is None:
                return metrics(environ, start_response)
            reloads = "no" not in parse_qs(environ.get("QUERY_STRING", "")).get("reload", ())
            body = self.render_page(reloads)
            start_response("200 OK", [*HEADERS.items(), ("content-length", str(len(body)))])
            return [body]

        family = AF_INET6 if ":" in host else AF_INET

        class Server(_Server):
            address_family = family

        self._server = Server((host, port), _Handler)
        self._server.set_app(app)
        self._thread = Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
