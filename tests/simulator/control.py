"""The control API below /_simulator/ is the Python API of `Simulator` for processes that are not Python. Bodies are JSON.

  GET    health                      {"status": "ok"} when it serves
  POST   approve                     {"authorization_url", "subject"}: log in and approve; answers what is pasted
  POST   device/approve              {"user_code", "subject"}: enter the code, log in and approve
  POST   device/deny                 {"user_code"}: enter the code and refuse
  GET    switches                    every switch as it stands for all accounts
  PATCH  switches                    set some for all accounts; null puts one back
  DELETE switches                    all switches as they were at first, those of single accounts included
  GET    accounts                    everybody who can log in or did, with windows and counts, without secrets
  PATCH  accounts/SUBJECT            set switches for this account alone; null puts one back
  POST   accounts/SUBJECT/COMMAND    one of the commands below; answers the account
  GET    requests                    what was received and how it was answered; ?path=… and ?subject=… choose
  DELETE requests                    forget them
  GET    secrets                     every token, code, verifier, state and assertion issued or received
  GET    clock                       {"now"}: the simulator's time in epoch seconds
  POST   clock                       {"advance": SECONDS}; negative for a skewed clock

Commands:

  exhaust                {"window": "5h" | "7d" | "7d_oi", "reset_in": SECONDS}: used up until its reset
  utilization            {"utilization": 0.93, "window", "reset_in"}: used up so far (0.9 and more is a warning)
  recover                all windows start anew
  issue-tokens           {"expires_in": SECONDS}: answers an access and a refresh token, without any login
  expire-access-tokens   every access token ends now, whatever expires_in said
  revoke-grants          the grants are withdrawn: 403 revoked, and invalid_grant for a refresh

A mistake is a 400 with {"error": …} that says what is known. It is open to whoever reaches the port, and it shows
secrets: that is its purpose. Keep it on loopback or inside a test cluster.
"""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .exchange import CONTROL_PREFIX
from .simulator import Simulator

T = TypeVar("T", bound=msgspec.Struct)


class ApproveBody(msgspec.Struct, forbid_unknown_fields=True):
    authorization_url: str
    subject: str


class ApproveDeviceBody(msgspec.Struct, forbid_unknown_fields=True):
    user_code: str
    subject: str


class DenyDeviceBody(msgspec.Struct, forbid_unknown_fields=True):
    user_code: str


class ExhaustBody(msgspec.Struct, forbid_unknown_fields=True):
    window: str = "5h"
    reset_in: float | None = None


class UtilizationBody(msgspec.Struct, forbid_unknown_fields=True):
    utilization: float
    window: str = "5h"
    reset_in: float | None = None


class IssueBody(msgspec.Struct, forbid_unknown_fields=True):
    expires_in: int | None = None


class AdvanceBody(msgspec.Struct, forbid_unknown_fields=True):
    advance: float


class NoBody(msgspec.Struct, forbid_unknown_fields=True):
    pass


class Control:
    """One method a route."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator
        self.commands: dict[str, Callable[[str, bytes], dict[str, Any] | None]] = {
            "exhaust": self._exhaust,
            "expire-access-tokens": self._expire_access_tokens,
            "issue-tokens": self._issue_tokens,
            "recover": self._recover,
            "revoke-grants": self._revoke_grants,
            "utilization": self._set_utilization,
        }

    def routes(self) -> list[Route]:
        table: list[tuple[str, str, Callable[[Request], Awaitable[Response]]]] = [
            ("GET", "/health", self.health),
            ("POST", "/approve", self.approve),
            ("POST", "/device/approve", self.approve_device),
            ("POST", "/device/deny", self.deny_device),
            ("GET", "/switches", self.show_switches),
            ("PATCH", "/switches", self.change_switches),
            ("DELETE", "/switches", self.reset_switches),
            ("GET", "/accounts", self.accounts),
            ("PATCH", "/accounts/{subject}", self.change_account),
            ("POST", "/accounts/{subject}/{command}", self.command),
            ("GET", "/requests", self.requests),
            ("DELETE", "/requests", self.clear_requests),
            ("GET", "/secrets", self.secrets),
            ("GET", "/clock", self.clock),
            ("POST", "/clock", self.advance),
        ]
        return [
            Route(f"{CONTROL_PREFIX}{path}", _readable(endpoint), methods=[method]) for method, path, endpoint in table
        ]

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def approve(self, request: Request) -> Response:
        body = _decode(await request.body(), ApproveBody)
        approval = self._simulator.authorize(body.authorization_url, body.subject)
        return JSONResponse(
            {
                "code": approval.code,
                "state": approval.state,
                "pasted": approval.pasted,
                "redirect_url": approval.redirect_url,
            }
        )

    async def approve_device(self, request: Request) -> Response:
        body = _decode(await request.body(), ApproveDeviceBody)
        self._simulator.approve_device(body.user_code, body.subject)
        return JSONResponse({})

    async def deny_device(self, request: Request) -> Response:
        self._simulator.deny_device(_decode(await request.body(), DenyDeviceBody).user_code)
        return JSONResponse({})

    async def show_switches(self, request: Request) -> Response:
        return self._switches()

    async def change_switches(self, request: Request) -> Response:
        self._simulator.switches.set(None, **_object(await request.body()))
        return self._switches()

    async def reset_switches(self, request: Request) -> Response:
        self._simulator.switches.reset()
        return self._switches()

    async def accounts(self, request: Request) -> Response:
        return JSONResponse({"accounts": self._simulator.accounts()})

    async def change_account(self, request: Request) -> Response:
        subject = request.path_params["subject"]
        self._simulator.switches.set(subject, **_object(await request.body()))
        self._simulator.directory.add(subject)
        return JSONResponse(self._simulator.account(subject))

    async def command(self, request: Request) -> Response:
        subject, name = request.path_params["subject"], request.path_params["command"]
        if name not in self.commands:
            raise ValueError(f"unknown command {name!r}; known are {', '.join(self.commands)}")
        answer = self.commands[name](subject, await request.body())
        self._simulator.directory.add(subject)
        return JSONResponse(answer or self._simulator.account(subject))

    async def requests(self, request: Request) -> Response:
        query = request.query_params
        records = self._simulator.requests(path=query.get("path"), subject=query.get("subject"))
        return JSONResponse({"requests": [record.as_dict() for record in records]})

    async def clear_requests(self, request: Request) -> Response:
        self._simulator.clear_requests()
        return JSONResponse({"requests": []})

    async def secrets(self, request: Request) -> Response:
        return JSONResponse(self._simulator.secrets())

    async def clock(self, request: Request) -> Response:
        return JSONResponse({"now": self._simulator.clock.now()})

    async def advance(self, request: Request) -> Response:
        self._simulator.clock.advance(_decode(await request.body(), AdvanceBody).advance)
        return JSONResponse({"now": self._simulator.clock.now()})

    def _switches(self) -> Response:
        return JSONResponse(msgspec.to_builtins(self._simulator.switches.get()))

    # --- commands ----------------------------------------------------------------------------------------------

    def _exhaust(self, subject: str, body: bytes) -> None:
        wanted = _decode(body, ExhaustBody)
        self._simulator.exhaust(subject, wanted.window, wanted.reset_in)

    def _set_utilization(self, subject: str, body: bytes) -> None:
        wanted = _decode(body, UtilizationBody)
        self._simulator.limits.set_utilization(subject, wanted.window, wanted.utilization, reset_in=wanted.reset_in)

    def _recover(self, subject: str, body: bytes) -> None:
        _decode(body, NoBody)
        self._simulator.recover(subject)

    def _expire_access_tokens(self, subject: str, body: bytes) -> None:
        _decode(body, NoBody)
        self._simulator.expire_access_tokens(subject)

    def _revoke_grants(self, subject: str, body: bytes) -> None:
        _decode(body, NoBody)
        self._simulator.revoke_grants(subject)

    def _issue_tokens(self, subject: str, body: bytes) -> dict[str, Any]:
        issued = self._simulator.issue_tokens(subject, _decode(body, IssueBody).expires_in)
        return {
            "access_token": issued.access_token,
            "refresh_token": issued.refresh_token,
            "expires_in": issued.expires_in,
        }


def _readable(
    endpoint: Callable[[Request], Awaitable[Response]],
) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint, with mistakes of its caller answered in words."""

    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except ValueError as error:
            return JSONResponse({"error": str(error)}, 400)

    return answer


def _object(body: bytes) -> dict[str, Any]:
    return msgspec.json.decode(body, type=dict[str, Any])


def _decode(body: bytes, kind: type[T]) -> T:
    return msgspec.json.decode(body or b"{}", type=kind)
