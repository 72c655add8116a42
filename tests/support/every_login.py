"""Every way in which a login can go, well and badly, for tests that look for what it leaves behind."""

import json
from subprocess import CompletedProcess

from tests.support.stack import Stack

WRONG_CODE = "a-code-that-was-never-issued"
DEAD = {"refresh": "a-refresh-token-of-nobody", "access": "an-access-token-of-nobody"}


def log_in_in_every_way(stack: Stack) -> list[CompletedProcess[str]]:
    """A wrong code, somebody else, device codes, and tokens that are brought; returns the ended `import` commands.

    Accounts carol, dora, erin, fred and gina must not be there yet.
    """
    # a wrong code as well, whose handling has texts of its own
    stack.apply(stack.account("carol"))
    good = stack.simulator.approve(stack.authorization_url("carol"), "carol@example.com")
    stack.paste("carol", f"{WRONG_CODE}#{good.partition('#')[2]}")
    stack.wait_for_reason("carol", "LoginRequired", "CodeRejected")
    stack.log_in("carol", "carol@example.com")
    # the login of somebody else, whose grant is given back
    stack.apply(stack.account("dora", expectedSubject="dora@example.com"))
    stack.paste("dora", stack.simulator.approve(stack.authorization_url("dora"), "mallory@example.com"))
    stack.wait_for_reason("dora", "LoginRequired", "SubjectMismatch")
    # device codes: one approved, one refused
    stack.simulator.set(device_interval=1)
    for name, decide in (("erin", stack.simulator.approve_device), ("fred", None)):
        stack.apply(stack.account(name, grant="DeviceCode"))
        user_code = stack.user_code(name)
        if decide is not None:
            decide(user_code, f"{name}@example.com")
        else:
            stack.simulator.deny_device(user_code)
    stack.wait_for_reason("erin", "Ready", "Available")
    stack.wait_for_reason("fred", "LoginRequired", "AccessDenied")
    # tokens that somebody brings: good ones, dead ones, and ones in a file that makes no sense
    tokens = stack.simulator.issue_tokens("gina@example.com")
    brought = {"type": "oauth", "refresh": tokens["refresh_token"], "access": tokens["access_token"], "expires": 0}
    stack.apply(stack.account("gina"))
    commands = [
        stack.command("import", "gina", stdin=json.dumps(given).encode())
        for given in (brought | {"type": "none"}, [brought], brought, brought | DEAD)
    ]
    assert [ended.returncode for ended in commands] == [1, 1, 0, 1]
    return commands
