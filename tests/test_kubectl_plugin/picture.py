"""The picture of `top` in docs/, drawn by the code that draws it on a terminal: `make picture` writes it anew.

What is on it is made up; the accounts are objects as the API server has them.
"""

import io
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.terminal_theme import DIMMED_MONOKAI

from kubectl_oauthaccount.account import AccountView
from kubectl_oauthaccount.table import picture

FILE = Path(__file__).parents[2] / "docs/kubectl-top.svg"
NOW = datetime(2026, 11, 20, 18, 0, tzinfo=UTC)
WIDTH = 138
# without fonts from elsewhere: a page that shows the picture sends nobody's address anywhere
FORMAT = re.sub(r"@font-face \{\{.*?\}\}\n", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)


def draw() -> str:
    """The picture, the same at every call."""
    console = Console(file=io.StringIO(), record=True, width=WIDTH, force_terminal=True, color_system="truecolor")
    console.print(picture(accounts(), NOW, namespace="anthropic-oauth-proxy", width=WIDTH))
    return console.export_svg(
        title="kubectl oauthaccount top", theme=DIMMED_MONOKAI, code_format=FORMAT, unique_id="kubectl-top"
    )


def accounts() -> list[AccountView]:
    exhausted = {"untilTime": after(hours=1, minutes=12), "reason": "QuotaExhausted"}
    return [
        account("claude-1", "Available", five_hours=0.28, seven_days=0.61, rate=31),
        account("claude-2", "Available", five_hours=0.83, seven_days=0.47, rate=18),
        account(
            *("claude-3", "CoolingDown", "QuotaExhausted until 2026-11-20T19:12:00Z"),
            five_hours=1.0,
            seven_days=0.78,
            rate=0,
            cooldown=exhausted,
        ),
        account("claude-4", "Disabled", asked="GrantRevoked"),
        account("claude-5", "LoginRequired", asked="AwaitingAuthorizationCode"),
        account("inference", "Available", five_hours=0.12, seven_days=0.4, rate=54, weight=3),
        account("spare", "Suspended", "spec.suspend is true", five_hours=0.0, seven_days=0.05, priority=-1),
    ]


def account(
    name: str,
    word: str,
    message: str = "",
    *,
    five_hours: float | None = None,
    seven_days: float = 0.0,
    rate: int | None = None,
    asked: str | None = None,
    cooldown: dict[str, str] | None = None,
    **spec: object,
) -> AccountView:
    status: dict[str, Any] = {"conditions": [condition("Ready", word == "Available", word, message)]}
    if asked is not None:
        status["conditions"].append(condition("LoginRequired", True, asked, message))
    if five_hours is not None:
        windows = [("5h", five_hours, after(hours=2, minutes=41)), ("7d", seven_days, after(days=3, hours=6))]
        status["quota"] = {"windows": [{"name": n, "utilization": u, "resetTime": r} for n, u, r in windows]}
        status["quota"]["observedTime"] = after(seconds=-30 if rate else -3 * 3600)
        status["token"] = {"expirationTime": after(hours=5, minutes=3)}
    if rate is not None:
        status["reports"] = [{"reporter": "proxy-0", "observedTime": after(), "requestsPerMinute": rate}]
    if cooldown is not None:
        status["cooldown"] = cooldown
    return AccountView({"metadata": {"name": name}, "spec": spec, "status": status})


def condition(kind: str, is_true: bool, reason: str, message: str) -> dict[str, str]:
    return {"type": kind, "status": "True" if is_true else "False", "reason": reason, "message": message}


def after(**span: int) -> str:
    return (NOW + timedelta(**span)).isoformat()


if __name__ == "__main__":
    FILE.write_text(draw())
