"""`describe`: one account, whole."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from kubectl_oauthaccount.options import ClusterOptions, command, name, output, session

EXAMPLES = """\
kubectl oauthaccount describe claude-1
kubectl oauthaccount describe claude-1 -o json"""


@command("describe", "show everything about an account, and its history", EXAMPLES)
@name
@output
def describe(options: ClusterOptions, name: str, output: str | None) -> None:
    from kubectl_oauthaccount.description import as_json, history, picture

    with session(options) as (cluster, terminal):
        account = cluster.account(name)
        happened = history(account, cluster.events(account))
        if output == "json":
            terminal.show_json(json.dumps(as_json(account, happened), indent=2))
        else:
            terminal.show(picture(account, happened, datetime.now(UTC)))
