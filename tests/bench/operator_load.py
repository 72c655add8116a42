"""What the operator's benchmark does to it: accounts are created, looked for in the index, and reported on by a proxy."""

import asyncio
import json
import random
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2

from tests.support.stack import Stack

ACCOUNTS = "/apis/oauthpool.dev/v1alpha1/namespaces/{}/oauthaccounts"
INDEX = {"labelSelector": "oauthpool.dev/index=1"}
CREATES_AT_ONCE = 16
REPORTER = "bench"

Json = dict[str, Any]


class Load:
    """One namespace with accounts of grant WorkloadIdentity."""

    def __init__(self, stack: Stack, count: int) -> None:
        self._stack = stack
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
        """How many accounts are Available in status, index and access file alike, with the same token."""
        index, access = self._index(), self._stack.access_dir
        count = 0
        for item in self._get(self._accounts)["items"]:
            entry, status = index.get(item["metadata"]["name"], {}), item.get("status", {})
            path = access / f"{item['metadata']['uid']}.json"
            conditions = {each["type"]: each["reason"] for each in status.get("conditions", [])}
            if conditions.get("Ready") != "Available" or entry.get("status") != "Available" or not path.exists():
                continue
            generation, fingerprint = entry["generation"], entry["fingerprint"]
            token = status.get("token", {})
            same = (token.get("generation"), token.get("fingerprint")) == (generation, fingerprint)
            count += same and json.loads(path.read_text())["generation"] == generation
        return count

    def report_latencies(self, count: int, say: Callable[[str], None]) -> list[float]:
        """Seconds from before a report is sent until a watcher of the index has the account's cooldown, one by one."""
        latencies = []
        version = self._get(self._config_maps, **INDEX)["metadata"]["resourceVersion"]
        parameters = {**INDEX, "watch": "1", "resourceVersion": version}
        with self._api.stream("GET", self._config_maps, params=parameters, timeout=30) as watch:
            lines = watch.raise_for_status().iter_lines()
            for number, name in enumerate(random.sample(self.names, min(count, len(self.names))), start=1):
                began = time.monotonic()
                self._report(name)
                latencies.append(_arrival(lines, name) - began)
                if number % 50 == 0:
                    say(f"{number} of {count} reports")
                time.sleep(0.05)
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
        self._api.patch(
            f"{self._accounts}/{name}/status",
            params={"fieldManager": f"oauth-pool-proxy-{REPORTER}", "force": "true"},
            content=json.dumps(document),
            headers={"content-type": "application/apply-patch+yaml"},
        ).raise_for_status()

    def _index(self) -> dict[str, Json]:
        """The union of all ConfigMaps of the index."""
        items = self._get(self._config_maps, **INDEX)["items"]
        return {name: json.loads(value) for item in items for name, value in (item.get("data") or {}).items()}

    def _get(self, path: str, **parameters: str) -> Json:
        found: Json = self._api.get(path, params=parameters, timeout=60).raise_for_status().json()
        return found


def _arrival(lines: Iterator[str], name: str) -> float:
    """When the watch brought the index with the account cooling down."""
    for line in lines:
        instant = time.monotonic()
        entry = (json.loads(line)["object"].get("data") or {}).get(name, "")
        if '"status":"CoolingDown"' in entry:
            return instant
    raise TimeoutError(f"the watch ended before the report on {name} was in the index")
