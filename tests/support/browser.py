"""A real browser without a window: Debian's chromium, spoken to by its DevTools protocol over a pair of pipes."""

import fcntl
import json
import os
import select
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.support.tools import program

PATIENCE = 60
"""Seconds: a browser on a crowded machine is slow, one that hangs is hopeless."""
FLAGS = (
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-sandbox",  # root may not have it, and the pages are our own
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--no-proxy-server",
    "--hide-scrollbars",
)

Message = dict[str, Any]


class Browser:
    """One tab. What happens in it is kept in `events`, since the page that was opened last."""

    def __init__(self, reader: int, writer: int) -> None:
        self._reader, self._writer = reader, writer
        self._rest = b""
        self._number = 0
        self._session: str | None = None
        self.events: list[Message] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "Accessibility"):
            self.call(f"{domain}.enable")

    def open(self, url: str, *, width: int = 1200, scheme: str = "light") -> None:
        """A page as a window of that many CSS pixels shows it, for a person who prefers `light` or `dark`."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=False)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.events.clear()
        answer = self.call("Page.navigate", url=url)
        assert "errorText" not in answer, f"{url}: {answer['errorText']}"
        self.wait_for("Page.loadEventFired")

    def call(self, method: str, **parameters: Any) -> Message:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._writer, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + PATIENCE
        while (answer := self._next(deadline)).get("id") != self._number:
            self.events.append(answer)
        assert "error" not in answer, f"{method}: {answer['error']}"
        result: Message = answer["result"]
        return result

    def wait_for(self, method: str, times: int = 1) -> None:
        """Until there were so many events of this name."""
        deadline = time.monotonic() + PATIENCE
        while len(self.seen(method)) < times:
            self.events.append(self._next(deadline))

    def seen(self, method: str) -> list[Message]:
        """What came with events of this name."""
        return [event["params"] for event in self.events if event.get("method") == method]

    def evaluate(self, expression: str) -> Any:
        """The value of some JavaScript, in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def named(self, role: str) -> list[str]:
        """The names of everything that assistive technology is told has this role, in the page's order."""
        nodes = self.call("Accessibility.getFullAXTree")["nodes"]
        return [
            node.get("name", {}).get("value", "")
            for node in nodes
            if not node["ignored"] and node["role"]["value"] == role
        ]

    def _next(self, deadline: float) -> Message:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._reader], [], [], max(deadline - time.monotonic(), 0))
            assert ready, f"the browser has said nothing for {PATIENCE} s"
            piece = os.read(self._reader, 1 << 16)
            assert piece, "the browser has ended"
            self._rest += piece
        line, _, self._rest = self._rest.partition(b"\0")
        message: Message = json.loads(line)
        return message


@contextmanager
def running_browser(folder: Path) -> Iterator[Browser]:
    """Its profile and its log are in the folder, and gone with it. The test is left out where there is no chromium."""
    commands, writer = _pipe()
    reader, answers = _pipe()
    with (folder / "chromium.log").open("wb") as log:
        process = subprocess.Popen(
            # it reads from 3 and writes to 4, which are not ours to give in Python
            [program("bash"), "-c", f'exec "$@" 3<&{commands} 4>&{answers}', "bash", program("chromium"), *FLAGS,
             f"--user-data-dir={folder / 'profile'}"],
            pass_fds=(commands, answers), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    os.close(commands)
    os.close(answers)
    try:
        browser = Browser(reader, writer)
        yield browser
        browser.call("Browser.close")
    finally:
        os.close(writer)  # without its commands it ends
        os.close(reader)
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        process.wait()


def _pipe() -> tuple[int, int]:
    """Both ends above the numbers that the browser's own have."""
    ends = os.pipe()
    high = tuple(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends)
    for end in ends:
        os.close(end)
    return high[0], high[1]
