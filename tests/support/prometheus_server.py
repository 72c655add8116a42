"""A real Prometheus that scrapes processes of this machine, and what it answers."""

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import yaml

from tests.support.control_plane import wait_until
from tests.support.control_plane.plane import free_port
from tests.support.control_plane.processes import Processes


@dataclass(frozen=True)
class Answer:
    """One series of an answer: its labels, and pairs of an instant (Unix time) and a value, which may be NaN."""

    labels: dict[str, str]
    points: list[tuple[float, float]]


class PrometheusServer:
    """`url` is its address. It has scraped every target once when it is handed out."""

    def __init__(self, url: str) -> None:
        self.url = url

    def query(self, query: str, at: float) -> list[Answer]:
        """As a table asks: the values of one instant."""
        found = self._ask("query", query=query, time=at)
        return [Answer(one["metric"], [_point(one["value"])]) for one in found]

    def query_range(self, query: str, start: float, end: float, step: float) -> list[Answer]:
        """As a graph asks."""
        found = self._ask("query_range", query=query, start=start, end=end, step=step)
        return [Answer(one["metric"], [_point(point) for point in one["values"]]) for one in found]

    def targets_up(self) -> int:
        """How many targets the latest scrape has reached."""
        return sum(one["value"][1] == "1" for one in self._ask("query", query="up"))

    def _ask(self, path: str, **parameters: str | float) -> list[dict[str, Any]]:
        answer = httpx2.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=30, trust_env=False)
        assert answer.status_code == 200, f"{parameters['query']}: {answer.text}"
        result: list[dict[str, Any]] = answer.json()["data"]["result"]
        return result


@contextmanager
def running_prometheus(
    program: Path, folder: Path, targets: Mapping[str, str], labels: Mapping[str, str], *, scrape_seconds: int
) -> Iterator[PrometheusServer]:
    """`targets` are addresses by the name of their pod. Its series have that as `pod`, and these labels."""
    folder.mkdir()
    scraped = [{"targets": [address], "labels": {"pod": pod, **labels}} for pod, address in targets.items()]
    interval = f"{scrape_seconds}s"
    config = {
        "global": {"scrape_interval": interval, "scrape_timeout": interval},
        "scrape_configs": [{"job_name": "pool", "static_configs": scraped}],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port()}"
    server = PrometheusServer(f"http://{address}")
    with closing(Processes(folder, keep=True)) as processes:
        processes.start(
            "prometheus",
            program,
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={address}",
        )

        def is_scraping() -> bool:
            if not processes.is_running("prometheus"):
                raise AssertionError(f"Prometheus has ended:\n{processes.log_file('prometheus').read_text()}")
            with suppress(httpx2.TransportError, AssertionError):  # not ready is 503
                return server.targets_up() == len(targets)
            return False

        wait_until(is_scraping, f"Prometheus to have scraped {', '.join(targets)}", seconds=60)
        yield server


def _point(pair: list[Any]) -> tuple[float, float]:
    return float(pair[0]), float(pair[1])
