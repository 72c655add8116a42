"""`key create`: a key with which a client proves to the proxy who it is. Made here, shown once, and known to nobody else.

The proxy's configuration gets its digest, which is not secret: nobody finds 256 random bits from their SHA-256.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import sys
from datetime import UTC, datetime, timedelta

import click

from kubectl_oauthaccount.errors import UsageError
from kubectl_oauthaccount.instants import rfc3339
from kubectl_oauthaccount.options import ClusterOptions, Group, command, output

MARK = "oap_"
"""How keys begin, so that scanners for secrets can find them, and the proxy never passes one on."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,62}")

EXAMPLES = """\
kubectl oauthaccount key create ci
kubectl oauthaccount key create ci --days 90 > ci.key    # the key alone; the lines are shown"""


@command("create", "make a key for a client, and the lines for the proxy's configuration", EXAMPLES)
@click.argument("name", metavar="NAME", help="what the client is called: key:NAME")
@click.option("--days", type=click.IntRange(1, 36500), help="until it expires (default: it does not)")
@output
def create(_: ClusterOptions, name: str, days: int | None, output: str | None) -> None:
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} is no name for a client: letters, digits and ._@-, 63 at most")
    key = MARK + secrets.token_urlsafe(32)
    digest = hashlib.sha256(key.encode()).hexdigest()
    expires = rfc3339(datetime.now(UTC) + timedelta(days=days)) if days is not None else None
    if output:
        document = {"name": name, "key": key, "sha256": digest, "expires": expires}
        sys.stdout.write(f"{json.dumps(document, indent=2)}\n")
        return
    lines = [
        "[[clients.keys]]",
        f'name = "{name}"',
        f'sha256 = "{digest}"',
        *([f"expires = {expires}"] if expires else []),
    ]
    sys.stdout.write(f"{key}\n")
    sys.stdout.flush()
    told = "\n".join(lines)
    sys.stderr.write(f"\nThis was the key: it is shown once. For the proxy's configuration:\n\n{told}\n")


key = Group(
    "key",
    commands=[create],
    examples="kubectl oauthaccount key create ci",
    help="Keys by which clients prove to the proxy who they are.",
    short_help="make keys for clients of the proxy",
)
