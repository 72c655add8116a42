"""Assembles the reception, and returns what has to run beside it."""

from collections.abc import Awaitable, Callable, Coroutine

from oauth_pool_proxy.config import ClientsConfig
from oauth_pool_proxy.downstream.identity.known import Known
from oauth_pool_proxy.downstream.identity.reception import Reception

Run = Callable[[], Coroutine[object, object, None]]


def reception_of(
    config: ClientsConfig,
    fetch: Callable[[str], Awaitable[bytes]] | None,
    clock: Callable[[], float],
    *,
    keeps_credentials: bool,
) -> tuple[Reception, Run | None, Callable[[], bool]]:
    """The reception, the task to run while it is in use, if any, and whether it can tell clients from strangers yet.

    `fetch` gets documents from the API server whose tokens are accepted. Without it, no token is accepted, and no cryptography
    is imported.
    """
    known = Known()
    if fetch is None:
        return Reception(config, known, None, clock, keeps_credentials=keeps_credentials), None, lambda: True

    from oauth_pool_proxy.downstream.identity.issuer import Issuer
    from oauth_pool_proxy.downstream.identity.service_accounts import ServiceAccountTokens

    issuer = Issuer(fetch, known.clear)
    tokens = ServiceAccountTokens(issuer, config.audience)
    reception = Reception(config, known, tokens, clock, keeps_credentials=keeps_credentials)
    return reception, issuer.run, lambda: issuer.name is not None
