"""The token server: refresh tokens are good for one use. Every pair of tokens that it issues to an account has a number.

The number tells which of two tokens is newer, whatever the operator calls their generation.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx2

from tests.simulator.recorder import Outcome
from tests.simulator.server import SimulatorServer
from tests.simulator.settings import Settings

CLIENT_ID = "crash-trials"
REDIRECT_URI = "https://trials.invalid/callback"
TOKEN_PATH = "/v1/oauth/token"
GRACE_SECONDS = 24 * 3600  # with a grace window, then one that no trial outlasts


def fingerprint(secret: str) -> str:
    """What may be printed of a token; the index uses the same."""
    return hashlib.sha256(secret.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Issue:
    """One pair of tokens: the account's first, second, and so on, and the login that it follows from."""

    subject: str
    number: int
    family: int = 0


@dataclass(frozen=True)
class Refresh:
    """One request to the token endpoint."""

    received_at: float
    sent: int  # the number of the refresh token in it, 0 for one that this account never had
    status: int | None
    outcome: Outcome

    def __str__(self) -> str:
        return f"#{self.sent} sent, {self.status or 'no status'}, {self.outcome}"


class Provider:
    """The simulator on a socket, and what it knows of the accounts."""

    def __init__(self) -> None:
        self._server = SimulatorServer(
            Settings(client_id=CLIENT_ID, redirect_uris=(REDIRECT_URI,), scopes=("inference",))
        )
        self._issues: dict[str, dict[str, Issue]] = {"access_token": {}, "refresh_token": {}}
        self._read: dict[str, int] = defaultdict(int)
        self._counts: dict[tuple[str, str], int] = defaultdict(int)
        self._families: dict[str, list[object]] = defaultdict(list)

    @contextmanager
    def running(self) -> Iterator[None]:
        with self._server:
            yield

    @property
    def url(self) -> str:
        return self._server.url

    def approve(self, authorization_url: str, subject: str) -> str:
        """A person logs in and approves; what the page shows then."""
        return self._server.simulator.approve(authorization_url, subject)

    def behave(self, subject: str, **switches: Any) -> None:
        """As healthy as ever, but for these switches."""
        self._server.simulator.switches.reset(subject)
        self._server.simulator.switches.set(subject, **switches)

    def forget_requests(self) -> None:
        self._server.simulator.clear_requests()

    def refreshes(self, subject: str, since: float = 0) -> list[Refresh]:
        """The refreshes that came in, the oldest first. A code exchange is none."""
        found = []
        for record in self._server.simulator.requests(TOKEN_PATH, subject):
            if record.received_at < since or b'"refresh_token"' not in record.body:
                continue
            sent = self.refresh_token(json.loads(record.body)["refresh_token"])
            number = sent.number if sent and sent.subject == subject else 0
            found.append(Refresh(record.received_at, number, record.status, record.outcome))
        return found

    def latest(self, subject: str) -> int:
        """The number of the newest pair that was issued to the account."""
        self._catch_up()
        return self._counts["refresh_token", subject]

    def families(self, subject: str) -> int:
        """How many logins tokens were issued for."""
        self._catch_up()
        return len(self._families[subject])

    def refresh_token(self, value: str) -> Issue | None:
        return self._issue("refresh_token", fingerprint(value))

    def access_token(self, value: str) -> Issue | None:
        return self._issue("access_token", fingerprint(value))

    def access_fingerprint(self, value: str) -> Issue | None:
        return self._issue("access_token", value)

    async def accepts(self, access_token: str, client: httpx2.AsyncClient) -> bool:
        """Ask the API itself."""
        headers = {
            "authorization": f"Bearer {access_token}",
            "anthropic-beta": "oauth-2025-04-20",
            "anthropic-version": "2023-06-01",
        }
        return (await client.get(f"{self.url}/v1/models", headers=headers)).status_code == 200

    def _issue(self, kind: str, value: str) -> Issue | None:
        if value not in self._issues[kind]:
            self._catch_up()
        return self._issues[kind].get(value)

    def _catch_up(self) -> None:
        """Number what was issued since the last look. What was only received belongs to nobody, and is skipped."""
        simulator = self._server.simulator
        secrets = simulator.secrets()
        for value in secrets["access_token"][self._read["access_token"] :]:
            token = simulator.grants.access_token(value)
            if token is not None:
                families = self._families[token.grant.subject]
                if token.grant not in families:
                    families.append(token.grant)
                self._number("access_token", value, token.grant.subject, families.index(token.grant) + 1)
        for value in secrets["refresh_token"][self._read["refresh_token"] :]:
            subject = simulator.grants.subject_of_refresh_token(value)
            if subject is not None:
                self._number("refresh_token", value, subject, 0)
        for kind in self._issues:
            self._read[kind] = len(secrets[kind])

    def _number(self, kind: str, value: str, subject: str, family: int) -> None:
        self._counts[kind, subject] += 1
        self._issues[kind][fingerprint(value)] = Issue(subject, self._counts[kind, subject], family)
