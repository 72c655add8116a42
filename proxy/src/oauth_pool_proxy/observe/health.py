"""The documents behind `/health` and `/ready`."""

from math import inf

from oauth_pool_proxy.pool.account import State
from oauth_pool_proxy.pool.pool import Pool


def health(
    mode: str, uptime: float, served: int, errors: int, pool: Pool | None, now: float, *, names: bool = True
) -> dict[str, object]:
    """The pool's state, never whether the proxy runs: an answer already shows that it does.

    Without `names`, the accounts are counted but not listed.
    """
    counts = pool.counts(now) if pool else None
    document: dict[str, object] = {
        "status": _status(counts),
        "mode": mode,
        "uptime_seconds": int(uptime),
        "requests_served": served,
        "errors_total": errors,
    }
    if pool and counts:
        waits = {} if pool.is_ready else {"waits_for": pool.waits_for}
        document["pool"] = {**counts, **waits, **({"accounts": _accounts(pool, now)} if names else {})}
    return document


def health_for_strangers(pool: Pool | None, now: float) -> dict[str, object]:
    """Only whether it works. This is for unknown clients, where clients are identified."""
    return {"status": _status(pool.counts(now) if pool else None)}


def readiness(is_running: bool, pool: Pool | None, *, knows_clients: bool = True) -> tuple[int, dict[str, str]]:
    """Ready means that the proxy accepts requests, knows the pool in pool mode, and can identify clients where that matters.
    A pool without usable accounts is still ready: its answers explain themselves.
    """
    if not is_running:
        return 503, {"status": "not ready", "reason": "the proxy is starting or shutting down"}
    if pool and not pool.is_ready:
        return 503, {"status": "not ready", "reason": pool.waits_for}
    if not knows_clients:
        return 503, {"status": "not ready", "reason": "the API server's keys have not been read yet"}
    return 200, {"status": "ready"}


def _status(counts: dict[str, int] | None) -> str:
    if counts is None or 0 < counts["accounts_total"] == counts["accounts_available"]:
        return "healthy"
    return "degraded" if counts["accounts_available"] else "unhealthy"


def _accounts(pool: Pool, now: float) -> list[dict[str, object]]:
    documents = []
    for account in pool.accounts:
        state = account.state(now)
        document: dict[str, object] = {"id": account.name, "status": state.value}
        if reason := account.why_not(now):
            document["reason"] = reason
        if state is State.COOLING_DOWN and account.cooling_until < inf:
            document["cooldown_remaining_secs"] = max(1, round(account.cooling_until - now))
        documents.append(document)
    return documents
