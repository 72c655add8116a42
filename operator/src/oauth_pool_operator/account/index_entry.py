"""One account as the pool index shows it to proxies: the wire format. Nothing in an entry is secret."""

import msgspec

from oauth_pool_operator.account import conditions as c
from oauth_pool_operator.account.cooldowns import REFUSALS
from oauth_pool_operator.account.documents import fingerprint
from oauth_pool_operator.account.facts import Facts
from oauth_pool_operator.account.policies import readiness
from oauth_pool_operator.account.spec import parse_duration, rfc3339

VERSION = 1


class Entry(msgspec.Struct, frozen=True, rename="camel"):
    """One account as proxies see it (design: the wire format). The order of the members is part of the golden files."""

    version: int
    name: str
    uid: str
    provider: str
    status: str
    priority: int
    weight: int
    max_concurrent_requests: int
    generation: int
    fingerprint: str
    expires: str | None
    cooldown_until: str | None
    cooldown_seconds: int
    labels: dict[str, str] | msgspec.UnsetType = msgspec.UNSET
    """Those of the object, by which proxies choose accounts for a client; left out where there are none."""


def render_entry(facts: Facts) -> Entry:
    """The same facts always give the same entry. To proxies, a probe is an account that takes one request at a time, and
    every cooldown is the same: they go by its end."""
    account, credential = facts.account, facts.credential
    status, probe = readiness(facts).reason, facts.probe
    if status in REFUSALS:
        status = c.COOLING_DOWN
    if probe is not None and status == c.COOLING_DOWN:
        status = c.AVAILABLE
    cooldown = facts.cooldown if probe is None else None
    return Entry(
        version=VERSION,
        name=account.name,
        uid=account.uid,
        provider=account.spec.provider,
        status=status,
        priority=account.spec.priority,
        weight=account.spec.weight if probe is None else 1,
        max_concurrent_requests=account.spec.max_concurrent_requests if probe is None else 1,
        generation=credential.generation if credential else 0,
        fingerprint=fingerprint(credential.access_token) if credential else "",
        expires=rfc3339(credential.expires) if credential else None,
        cooldown_until=rfc3339(cooldown.until) if cooldown else None,
        cooldown_seconds=int(parse_duration(account.spec.cooldown).total_seconds()),
        labels=dict(sorted(account.labels.items())) or msgspec.UNSET,
    )
