"""Hostile actors: an author of accounts, a proxy and a client do their worst, each with the rights that it would have."""

from tests.support.control_plane import ControlPlane
from tests.support.stack import serve_accounts

from . import hostile_author, hostile_client, hostile_proxy
from .hostile_stack import COLUMNS, HostileStack, Log, hostile_stack
from .program import Program, Report, Say

PROMISE = "Who may write accounts, runs a proxy or reaches the port gets what docs/security.md says, and the others notice nothing."
ACTORS = {"author": hostile_author.act, "proxy": hostile_proxy.act, "client": hostile_client.act}
TIMES = {"author": 300, "proxy": 100, "client": 10_000}


def run(short: bool, say: Say) -> Report:
    report = Report(COLUMNS)
    with ControlPlane() as plane:
        serve_accounts(plane)
        with hostile_stack(plane) as stack:
            for who in ACTORS:
                say(f"the {who}")
                act(stack, who, report, TIMES[who] // 10 if short else TIMES[who])
    return report


def act(stack: HostileStack, who: str, report: Report, many: int) -> None:
    ACTORS[who](stack, Log(who, report), many)


PROGRAM = Program("hostile-actors", PROMISE, run, minutes=20)
