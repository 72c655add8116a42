"""Proxies of the operator's benchmark: key pairs that are declared, and a watch of what is sealed to them, which they open."""

import json
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.support.declared_proxies import DeclaredProxy
from tests.support.stack import Stack

TOKENS = {"labelSelector": "oauthpool.dev/tokens=1"}
PAUSE_SECONDS = 0.05  # between two tokens: the operator is at rest again
LONGEST_SECONDS = 60.0


class SimulatedProxies:
    """Those of one namespace. They watch the ConfigMaps together, and each opens what is its own."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._api = stack.control_plane.api
        self._objects = f"/apis/oauthpool.dev/v1alpha1/namespaces/{stack.namespace}"
        self._config_maps = f"/api/v1/namespaces/{stack.namespace}/configmaps"
        self.declared: list[DeclaredProxy] = []

    def declare(self) -> DeclaredProxy:
        """One more."""
        one = DeclaredProxy(f"oauth-pool-proxy-5d9c7b8f6d-{len(self.declared):05}")
        self._api.post(f"{self._objects}/oauthproxies", json=one.manifest, timeout=60).raise_for_status()
        self.declared.append(one)
        return one

    def opened(self, name: str, value: str | None) -> int:
        """The generation of the token that every proxy can open in the entry; 0 when one of them cannot."""
        tokens = [one.opened(value) for one in self.declared]
        return min((token["generation"] if token is not None else 0 for token in tokens), default=0)

    def entries(self) -> dict[str, str]:
        """The union of all ConfigMaps."""
        items = self._listed()["items"]
        return {name: value for item in items for name, value in (item.get("data") or {}).items()}

    def join_seconds(self, names: list[str]) -> float:
        """From before one more proxy declares itself until it has opened the token of every account."""
        lacking, version = set(names), self._listed()["metadata"]["resourceVersion"]
        began = time.monotonic()
        one = self.declare()
        with self._watched(version) as news:
            for data in news:
                lacking -= {name for name in lacking & data.keys() if one.opened(data[name]) is not None}
                if not lacking:
                    return time.monotonic() - began
        raise TimeoutError(f"{len(lacking)} of {len(names)} tokens were not sealed to the proxy that joined")

    def token_latencies(self, names: list[str], count: int, say: Callable[[str], None]) -> list[float]:
        """Seconds from before a new token is asked for until every proxy has opened it, one by one."""
        latencies = []
        listed = self._listed()
        generations = {name: json.loads(value)["generation"] for name, value in self.entries().items()}
        with self._watched(listed["metadata"]["resourceVersion"]) as news:
            for number in range(1, count + 1):
                name = random.choice(names)
                began = time.monotonic()
                self._ask_for_a_token(name, number)
                generations[name] = self._next_token(news, name, generations[name])
                latencies.append(time.monotonic() - began)
                if number % 50 == 0:
                    say(f"{number} of {count} tokens")
                time.sleep(PAUSE_SECONDS)
        return latencies

    def _next_token(self, news: Iterator[dict[str, str]], name: str, before: int) -> int:
        for data in news:
            if (generation := self.opened(name, data.get(name))) > before:
                return generation
        raise TimeoutError(f"the watch ended before {name} had a new token")

    def _ask_for_a_token(self, name: str, number: int) -> None:
        patch = {"metadata": {"annotations": {"oauthpool.dev/refresh-requested": f"bench-{number}"}}}
        headers = {"content-type": "application/merge-patch+json"}
        path = f"{self._objects}/oauthaccounts/{name}"
        self._api.patch(path, content=json.dumps(patch), headers=headers, timeout=60).raise_for_status()

    def _listed(self) -> dict[str, Any]:
        found: dict[str, Any] = self._api.get(self._config_maps, params=TOKENS, timeout=60).raise_for_status().json()
        return found

    @contextmanager
    def _watched(self, version: str) -> Iterator[Iterator[dict[str, str]]]:
        """What the ConfigMaps hold from now on, each time that one changes."""
        parameters = {**TOKENS, "watch": "1", "resourceVersion": version}
        with self._api.stream("GET", self._config_maps, params=parameters, timeout=LONGEST_SECONDS) as watch:
            yield (json.loads(line)["object"].get("data") or {} for line in watch.raise_for_status().iter_lines())
