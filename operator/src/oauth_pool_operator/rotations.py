"""The rotations in progress, at most one per account, and the outcomes that no reconcile has seen yet."""

import asyncio
import logging
from collections.abc import Callable

from oauth_pool_operator.account.memory import Memory
from oauth_pool_operator.account.trouble import Trouble
from oauth_pool_operator.beginnings import Beginning
from oauth_pool_operator.rotation import Outcome, Rotation, Tools

log = logging.getLogger(__name__)


class Rotations:
    """Begins them. Calls `on_news` with the UID of an account that a reconcile should look at."""

    def __init__(self, tools: Tools, *, on_news: Callable[[str], None] = lambda _: None) -> None:
        self.on_news = on_news
        self._tools = tools
        self._running: dict[str, Rotation] = {}
        self._tasks: dict[str, asyncio.Task[Outcome]] = {}
        self._outcomes: dict[str, Outcome] = {}

    def begin(self, beginning: Beginning, memory: Memory) -> None:
        uid = beginning.facts.account.uid
        assert uid not in self._running, "two rotations of one account"
        rotation = self._running[uid] = Rotation(self._tools, beginning, memory, lambda: self.on_news(uid))
        task = self._tasks[uid] = rotation.start()
        task.add_done_callback(lambda done: self._ended(uid, done))

    def of(self, uid: str) -> Rotation | None:
        """The one that is under way."""
        return self._running.get(uid)

    def trouble(self, uid: str) -> Trouble | None:
        """Why the answer of the one that is under way is not on the disk yet."""
        rotation = self._running.get(uid)
        return rotation.trouble if rotation is not None else None

    def outcome(self, uid: str) -> Outcome | None:
        """What became of the last one, until it is settled."""
        return self._outcomes.get(uid)

    def settle(self, uid: str) -> None:
        """What became of the last one has had its consequences."""
        self._outcomes.pop(uid, None)

    def forget(self, uid: str) -> None:
        """The account is gone. A rotation that still runs ends on its own."""
        self._outcomes.pop(uid, None)

    async def ended(self, uid: str) -> None:
        """Wait until none of the account is under way."""
        if (task := self._tasks.get(uid)) is not None:
            await asyncio.wait({task})
            await asyncio.sleep(0)  # its callback comes next

    def number_running(self) -> int:
        return len(self._running)

    async def finish(self, grace: float) -> tuple[bool, set[str]]:
        """Wait for those that run: whether all have ended in time, and whose they were."""
        tasks = dict(self._tasks)
        if not tasks:
            return True, set()
        log.info("waiting for %d requests for tokens in flight", len(tasks))
        _, pending = await asyncio.wait(tasks.values(), timeout=grace)
        await asyncio.sleep(0)
        return not pending, set(tasks)

    def _ended(self, uid: str, task: asyncio.Task[Outcome]) -> None:
        del self._running[uid], self._tasks[uid]
        if not task.cancelled():
            self._outcomes[uid] = task.result()
            self.on_news(uid)
