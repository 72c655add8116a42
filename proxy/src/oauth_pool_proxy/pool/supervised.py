"""Background tasks that survive bugs."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager

log = logging.getLogger(__name__)

Forever = Callable[[], Coroutine[object, object, None]]


@asynccontextmanager
async def running(forever: list[Forever]) -> AsyncIterator[None]:
    """Run these beside the block. A failure is a bug: it is logged, the task is restarted, and the others are not affected."""

    async def supervised(run: Forever) -> None:
        while True:
            try:
                await run()
            except Exception:
                log.exception("background task failed", extra={"fields": {"task": run.__qualname__}})
            await asyncio.sleep(1)

    tasks = [asyncio.create_task(supervised(run)) for run in forever]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
