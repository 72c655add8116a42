"""What the endurance trial runs on: many accounts whose tokens live for seconds, and clocks that can be made to jump."""

import json
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import httpx2

from tests.support.control_plane import ControlPlane, wait_until

from .pool_stack import PoolStack, subject_of
from .proxy_process import ProxyProcess

LONG_LIFE_SECONDS = 8 * 3600
LOGINS_AT_ONCE = 4


class EnduranceStack(PoolStack):
    """Begin it with `begin`. Two proxies stay from then on."""

    def __init__(self, plane: ControlPlane, folder: Path, accounts: int, life: int) -> None:
        """`life` of an access token, in seconds; at half of that it is refreshed."""
        self._life = life
        self._clocks = {program: folder / f"{program}-clock" for program in ("operator", "proxy")}
        super().__init__(plane, folder, operator=self._jumping("operator"), tokens="sealed")
        few = max(accounts // 5, 2)
        self.logins = [f"login-{number}" for number in range(few)]
        self.workloads = [f"workload-{number}" for number in range(accounts - few)]
        self.stay: list[ProxyProcess] = []

    @property
    def names(self) -> list[str]:
        return [*self.logins, *self.workloads]

    @property
    def pids(self) -> dict[str, int]:
        """Of the processes that stay."""
        return {"operator": self.operator.pid} | {proxy.name: proxy.process.pid for proxy in self.stay}

    def begin(self) -> None:
        """Until both proxies hold the tokens of all accounts."""
        self.start(with_proxy=False)
        self.simulator.set(expires_in=self._life)
        for name in self.workloads:
            self.apply(self.workload_account(name))
        with ThreadPoolExecutor(LOGINS_AT_ONCE) as pool:
            list(pool.map(self._log_in, self.logins))
        self.stay = [self.join(f"proxy-{number}", self._jumping("proxy")) for number in range(2)]
        for proxy in self.stay:
            self.wait_until_it_holds(proxy, len(self.names))

    def jump(self, program: str, seconds: float) -> None:
        """The wall clock of `operator` or of each `proxy` that stays is that far ahead from now on."""
        self._clocks[program].write_text(str(seconds))

    def give_long_tokens(self) -> None:
        """Return when every account has one that outlives any jump."""
        self.simulator.set(expires_in=LONG_LIFE_SECONDS)
        wait_until(self._all_are_long, "long tokens for all accounts", 30 + 3 * self._life)
        for proxy in self.stay:
            wait_until(lambda proxy=proxy: self._has_long_tokens(proxy), f"long tokens in {proxy.name}")  # type: ignore[misc]

    def refreshes(self, result: str) -> int:
        """`success` or `failure`, of all accounts, as the operator counts them."""
        text = httpx2.get(f"{self.metrics_url}/metrics", timeout=30, trust_env=False, verify=False).text
        lines = [line for line in text.splitlines() if line.startswith("pool_token_refreshes_total{")]
        return sum(int(float(line.rpartition(" ")[2])) for line in lines if f'result="{result}"' in line)

    def _all_are_long(self) -> bool:
        now = datetime.now(UTC)
        expiries = [entry["expires"] for entry in self.index().values()]
        return all(text and (datetime.fromisoformat(text) - now).total_seconds() > 2 * 3600 for text in expiries)

    def _has_long_tokens(self, proxy: ProxyProcess) -> bool:
        soon = datetime.now(UTC).timestamp() + 2 * 3600
        kind = "pool_account_token_expiry_timestamp_seconds"
        return all(value > soon for name, value in proxy.metrics().items() if name.startswith(kind))

    def _log_in(self, name: str) -> None:
        self.apply(self.account(name))
        self.log_in(name, subject_of(name))

    def _jumping(self, program: str) -> Sequence[str]:
        return (sys.executable, "-m", "tests.trust.jumping_clock", program, str(self._clocks[program]))


def message_of(line: str) -> str:
    """What a log line says; the whole line if it is no JSON."""
    try:
        return str(json.loads(line).get("message", line))
    except ValueError:
        return line
