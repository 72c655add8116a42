"""What the operator's benchmark does to it: accounts are created, looked for in the index, and reported on by a proxy."""

import asyncio
import json
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2

from tests.bench.operator_proxies import SimulatedProxies
from tests.support.stack import Stack

ACCOUNTS = "/apis/oauthpool.dev/v1alpha1/namespaces/{}/oauthaccounts"
INDEX = {"labelSelector": "oauthpool.dev/index=1"}
CREATES_AT_ONCE = 16
PAUSE_SECONDS = 0.05  # between two reports: the operator is at rest again
REPORTER = "bench"

Json = dict[str, Any]


class Load:
    """One namespace with accounts of grant WorkloadIdentity."""

    def __init__(self, stack: Stack, count: int, proxies: SimulatedProxies) -> None:
        self._stack = stack
        self.proxies = proxies
        self._api = stack.control_plane.api
        self._accounts = ACCOUNTS.format(stack.namespace)
        self._config_maps = f"/api/v1/namespaces/{stack.namespace}/configmaps"
        self.names = [f"account-{index:05}" for index in range(count)]

    def create(self) -> None:
        """All of them, as fast as the API server takes them."""
        asyncio.run(self._create())

    async def _create(self) -> None:
        plane, gate = self._stack.control_plane, asyncio.Semaphore(CREATES_AT_ONCE)
        headers = {"authorization": f"Bearer {plane.admin_token}"}
        async with httpx2.AsyncClient(
            base_url=plane.server, headers=headers, verify=plane.tls, trust_env=False, timeout=60
        ) as client:

            async def create(name: str) -> None:
                async with gate:
                    manifest = self._stack.workload_account(name)
                    (await client.post(self._accounts, json=manifest)).raise_for_status()

            await asyncio.gather(*(create(name) for name in self.names))

    def published(self) -> int:
        """How many accounts the index calls Available."""
        return sum(entry["status"] == "Available" for entry in self._index().values())

    def settled(self) -> int:
        """How many accounts are Available in status and index, with the same token, which every proxy can open."""
        index, tokens = self._index(), self.proxies.entries()
        count = 0
        for item in self._get(self._accounts)["items"]:
            name = item["metadata"]["name"]
            entry, status = index.get(name, {}), item.get("status", {})
            conditions = {each["type"]: each["reason"] for each in status.get("conditions", [])}
            if conditions.get("Ready") != "Available" or entry.get("status") != "Available":
                continue
            generation, fingerprint = entry["generation"], entry["fingerprint"]
            token = status.get("token", {})
            same = (token.get("generation"), token.get("fingerprint")) == (generation, fingerprint)
            count += same and self.proxies.opened(name, tokens.get(name)) == generation
        return count

    def report_latencies(self, count: int, say: Callable[[str], None]) -> list[float]:
        """Seconds from before a report is sent until a watcher of the index has the account's cooldown, one by one."""
        latencies = []
        with self._watch(**INDEX) as lines:
            for number, name in enumerate(random.sample(self.names, min(count, len(self.names))), start=1):
                began = time.monotonic()
                self._report(name)
                latencies.append(_arrival(lines, name, '"status":"CoolingDown"') - began)
                if number % 50 == 0:
                    say(f"{number} of {count} reports")
                time.sleep(PAUSE_SECONDS)
        return latencies

    def floor_latencies(self, count: int) -> list[float]:
        """The same without an operator: one key of a ConfigMap like the index's largest is patched, and watched."""
        items = self._get(self._config_maps, **INDEX)["items"]
        data = max((item.get("data") or {} for item in items), key=len)
        document = {"metadata": {"name": "floor"}, "data": data}
        self._api.post(self._config_maps, json=document, timeout=60).raise_for_status()
        name, latencies = min(data), []
        with self._watch(fieldSelector="metadata.name=floor") as lines:
            for number in range(count):
                began, mark = time.monotonic(), f"floor-{number}."
                self._patch(f"{self._config_maps}/floor", "merge-patch+json", {"data": {name: mark + data[name]}})
                latencies.append(_arrival(lines, name, mark) - began)
                time.sleep(PAUSE_SECONDS)
        return latencies

    def _report(self, name: str) -> None:
        """As a proxy does. The cooldown ends after everything here has: an account comes back to nobody's surprise."""
        now = datetime.now(UTC)
        entry = {
            "reporter": REPORTER,
            "observedTime": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "reason": "RateLimited",
            "untilTime": (now + timedelta(hours=2)).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        document = {
            "apiVersion": "oauthpool.dev/v1alpha1",
            "kind": "OAuthAccount",
            "metadata": {"name": name},
            "status": {"reports": [entry]},
        }
        path = f"{self._accounts}/{name}/status?fieldManager=oauth-pool-proxy-{REPORTER}&force=true"
        self._patch(path, "apply-patch+yaml", document)

    @contextmanager
    def _watch(self, **selector: str) -> Iterator[Iterator[str]]:
        """What changes in ConfigMaps from now on, a line an event."""
        version = self._get(self._config_maps, **selector)["metadata"]["resourceVersion"]
        parameters = {**selector, "watch": "1", "resourceVersion": version}
        with self._api.stream("GET", self._config_maps, params=parameters, timeout=30) as watch:
            yield watch.raise_for_status().iter_lines()

    def _patch(self, path: str, kind: str, document: Json) -> None:
        headers = {"content-type": f"application/{kind}"}
        self._api.patch(path, content=json.dumps(document), headers=headers, timeout=60).raise_for_status()

    def _index(self) -> dict[str, Json]:
        """The union of all ConfigMaps of the index."""
        items = self._get(self._config_maps, **INDEX)["items"]
        return {name: json.loads(value) for item in items for name, value in (item.get("data") or {}).items()}

    def _get(self, path: str, **parameters: str) -> Json:
        found: Json = self._api.get(path, params=parameters, timeout=60).raise_for_status().json()
        return found


def _arrival(lines: Iterator[str], name: str, mark: str) -> float:
    """When the watch brought a ConfigMap with this mark in the account's entry."""
    for line in lines:
        instant = time.monotonic()
        if mark in (json.loads(line)["object"].get("data") or {}).get(name, ""):
            return instant
    raise TimeoutError(f"the watch ended before {name} had changed")
