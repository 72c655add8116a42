"""Kopf's part: settings, and the watches of accounts and proxies. It unpacks what happened and hands it to the controller.

There are no create, update or delete handlers: everything is level-based, so Kopf keeps no state on the objects, and the
finalizer is our own.
"""

import asyncio
import logging
import signal
from datetime import timedelta
from typing import Any

import kopf

from oauth_pool_operator.account.backoff import Backoff
from oauth_pool_operator.account.spec import GROUP, PLURAL, VERSION
from oauth_pool_operator.cluster.leadership import Leadership
from oauth_pool_operator.cluster.proxies import PROXY_PLURAL
from oauth_pool_operator.cluster.watch import BOOKMARK_SECONDS, Logins
from oauth_pool_operator.controller import Controller
from oauth_pool_operator.oauth.profiles import LONGEST_TIMEOUT_SECS

log = logging.getLogger(__name__)

# SIGTERM waits this long for refreshes in flight, so none is cut off: the longest request, and time to store its answer.
# terminationGracePeriodSeconds has to be longer.
DRAIN_SECONDS = LONGEST_TIMEOUT_SECS + 15


class SpecOnlyDiffBase(kopf.AnnotationsDiffBaseStorage):
    """If Kopf ever stores what it has handled, then without annotations: a pasted code may be among them."""

    def build(self, *, body: Any, extra_fields: Any = None) -> Any:
        essence: Any = super().build(body=body, extra_fields=extra_fields)
        essence.pop("metadata", None)
        return essence


def configure(settings: kopf.OperatorSettings) -> None:
    """The settings measured for this operator: namespaced, alone, patient with the API server."""
    settings.scanning.disabled = True
    settings.peering.standalone = True
    settings.networking.connect_timeout = 10
    settings.networking.request_timeout = 60
    # Without an end: an API server that is away must not end the operator, because tokens have to be refreshed meanwhile.
    # Within seconds of its return all has to be as before.
    settings.networking.error_backoffs = Backoff(longest=timedelta(seconds=5))
    settings.watching.server_timeout = 290
    settings.watching.client_timeout = 320
    settings.watching.inactivity_timeout = BOOKMARK_SECONDS
    settings.watching.reconnect_backoff = 1.0
    # A worker for each object ends so long after its last event: of thousands that come at once, few are there together.
    settings.queueing.idle_timeout = 1.0
    settings.posting.enabled = False
    settings.persistence.finalizer = f"{GROUP}/kopf"
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=f"kopf.{GROUP}", v1=False)
    settings.persistence.diffbase_storage = SpecOnlyDiffBase(prefix=f"kopf.{GROUP}", v1=False)
    settings.process.ultimate_exiting_timeout = DRAIN_SECONDS + 30


def register(controller: Controller) -> kopf.OperatorRegistry:
    """Kopf's registry with this operator's handlers, bound to `controller`."""
    registry = kopf.OperatorRegistry()
    kopf.on.login(registry=registry)(Logins(controller.pulse).log_in)

    @kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)
    async def observe(event: kopf.RawEvent, **_: Any) -> None:
        controller.observe(event["type"], dict(event["object"]))

    if controller.watches_proxies:

        @kopf.on.event(GROUP, VERSION, PROXY_PLURAL, registry=registry)
        async def observe_proxy(event: kopf.RawEvent, **_: Any) -> None:
            controller.observe_proxy(event["type"], dict(event["object"]))

    @kopf.on.cleanup(registry=registry)
    async def drain(**_: Any) -> None:
        if not await controller.stop(DRAIN_SECONDS):
            log.error("a refresh is still in flight after %d s; ending without it", DRAIN_SECONDS)

    return registry


async def _served(controller: Controller) -> bool:
    """Wait for the kinds to be there; False when SIGTERM comes first (afterwards, signals are Kopf's)."""
    loop, waiting = asyncio.get_running_loop(), asyncio.ensure_future(controller.wait_until_served())
    loop.add_signal_handler(signal.SIGTERM, waiting.cancel)
    try:
        await waiting
    except asyncio.CancelledError:
        return False
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
    return True


async def run(controller: Controller, leadership: Leadership, *, namespace: str) -> None:
    """Watch and reconcile until SIGTERM or SIGINT."""
    settings = kopf.OperatorSettings()
    configure(settings)
    if not await _served(controller):
        return
    controller.pulse.beat()
    # These exist before Kopf's own tasks do, so that Kopf leaves them alone when it cancels its tasks at the end.
    async with controller.running():
        await kopf.operator(
            registry=register(controller),
            settings=settings,
            standalone=True,
            namespaces=[namespace],
        )
        await asyncio.sleep(0)
    await leadership.release()  # an end by an exception lets the Lease expire: something may be in flight
