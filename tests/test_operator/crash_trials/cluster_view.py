"""What the API server tells everybody: the accounts' status and the pool index, watched; and the little that others write."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import httpx2

GROUP, VERSION = "oauthpool.dev", "v1alpha1"
REPORTER = "crash-trials"

Json = dict[str, Any]


class ClusterView:
    """One namespace, as the admin and the proxies see it. `run` keeps it up to date."""

    def __init__(
        self, client: httpx2.AsyncClient, namespace: str, on_entry: Callable[[str, Json | None], None]
    ) -> None:
        self._client = client
        self._accounts = f"/apis/{GROUP}/{VERSION}/namespaces/{namespace}/oauthaccounts"
        self._config_maps = f"/api/v1/namespaces/{namespace}/configmaps"
        self._on_entry = on_entry
        self._maps: dict[str, dict[str, str]] = {}
        self.objects: dict[str, Json] = {}
        self.index: dict[str, Json] = {}

    # --- looking -----------------------------------------------------------------------------------------------------

    async def watch_accounts(self) -> None:
        await self._watch(self._accounts, {}, lambda item: self.objects.update({item["metadata"]["name"]: item}))

    async def watch_index(self) -> None:
        await self._watch(self._config_maps, {"labelSelector": f"{GROUP}/index=1"}, self._take_config_map)

    def status(self, name: str) -> Json:
        status: Json = self.objects.get(name, {}).get("status", {})
        return status

    def condition(self, name: str, kind: str) -> Json:
        """The condition of that type; empty when there is none."""
        conditions: list[Json] = self.status(name).get("conditions", [])
        return next((entry for entry in conditions if entry["type"] == kind), {})

    def _take_config_map(self, item: Json) -> None:
        """The index is the union of all ConfigMaps with the label."""
        self._maps[item["metadata"]["name"]] = item.get("data") or {}
        data = {name: value for entries in self._maps.values() for name, value in entries.items()}
        before, self.index = self.index, {name: json.loads(value) for name, value in data.items()}
        for name in before.keys() | self.index.keys():
            if before.get(name) != self.index.get(name):
                self._on_entry(name, self.index.get(name))

    async def _watch(self, path: str, selector: dict[str, str], take: Callable[[Json], None]) -> None:
        """List, then watch; and again when the API server ends the watch, as it does after a while."""
        while True:
            listed = (await self._client.get(path, params=selector)).raise_for_status().json()
            for item in listed["items"]:
                take(item)
            parameters = {**selector, "watch": "1", "resourceVersion": listed["metadata"]["resourceVersion"]}
            timeout = httpx2.Timeout(30, read=None)
            async with self._client.stream("GET", path, params=parameters, timeout=timeout) as stream:
                stream.raise_for_status()
                async for line in stream.aiter_lines():
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        break
                    if event["type"] != "DELETED":
                        take(event["object"])

    # --- writing -----------------------------------------------------------------------------------------------------

    async def create_account(self, name: str, provider: str) -> str:
        """A new account; returns its UID."""
        manifest = {
            "apiVersion": f"{GROUP}/{VERSION}",
            "kind": "OAuthAccount",
            "metadata": {"name": name},
            "spec": {"provider": provider, "grant": "AuthorizationCode"},
        }
        answer = (await self._client.post(self._accounts, json=manifest)).raise_for_status()
        uid: str = answer.json()["metadata"]["uid"]
        return uid

    async def annotate(self, name: str, key: str, value: str) -> None:
        patch = {"metadata": {"annotations": {f"{GROUP}/{key}": value}}}
        await self._patch(f"{self._accounts}/{name}", "application/merge-patch+json", patch)

    async def report_unauthorized(self, name: str, generation: int) -> None:
        """What a proxy reports of a token that was refused, the way it does."""
        await self._report(name, {"reason": "Unauthorized", "tokenGeneration": generation})

    async def report_well(self, name: str) -> None:
        """What it reports when the account works, in place of what it reported before."""
        await self._report(name, {})

    async def _report(self, name: str, found: Json) -> None:
        entry = {"reporter": REPORTER, "observedTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), **found}
        document = {
            "apiVersion": f"{GROUP}/{VERSION}",
            "kind": "OAuthAccount",
            "metadata": {"name": name},
            "status": {"reports": [entry]},
        }
        path = f"{self._accounts}/{name}/status?fieldManager=oauth-pool-proxy-{REPORTER}&force=true"
        await self._patch(path, "application/apply-patch+yaml", document)

    async def _patch(self, path: str, kind: str, document: Json) -> None:
        answer = await self._client.patch(path, content=json.dumps(document), headers={"content-type": kind})
        answer.raise_for_status()
