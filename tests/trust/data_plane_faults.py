"""What goes wrong beside the data plane: the API server, the way to it, the operator, and what they have written."""

import asyncio
import json

from .data_plane_stack import MAPS, NAMES, DataPlaneStack, compact_history


class Fault:
    """Begins, lasts, ends. `lasts` says how long: as long as an outage, or not at all."""

    name = ""
    lasts = False

    def __init__(self, stack: DataPlaneStack, older: dict[str, dict[str, str]]) -> None:
        """`older` is what stood in the ConfigMaps before the latest rotation."""
        self.stack, self.older = stack, older

    async def begin(self) -> None: ...

    async def end(self) -> None: ...


class ApiServerKilled(Fault):
    name, lasts = "API server killed, history compacted", True

    async def begin(self) -> None:
        await asyncio.to_thread(self.stack.control_plane.kill_api_server)

    async def end(self) -> None:
        await asyncio.to_thread(compact_history, self.stack.control_plane)
        await asyncio.to_thread(self.stack.control_plane.start_api_server)


class OperatorKilled(Fault):
    name, lasts = "operator killed", True

    async def begin(self) -> None:
        await asyncio.to_thread(self.stack.kill_operator)

    async def end(self) -> None:
        await asyncio.to_thread(self.stack.start_operator, wait=False)


class ApiServerSilent(Fault):
    """Requests, too, get no answer."""

    name, lasts = "API server silent", True

    async def begin(self) -> None:
        self.stack.link.fall_silent()

    async def end(self) -> None:
        self.stack.link.mend()


class WatchesForgotten(Fault):
    """It ends when everybody has had time to notice: a bookmark is due every minute."""

    name = "watches silent for ever"
    NOTICED_SECONDS = 100.0

    async def begin(self) -> None:
        self.stack.link.forget()
        await asyncio.sleep(self.NOTICED_SECONDS)


class Deleted(Fault):
    """Of an index that is gone, unlike one that says that there is no account, nothing follows."""

    name = "index and tokens deleted"

    async def begin(self) -> None:
        for which in MAPS:
            await asyncio.to_thread(self.stack.delete, which)


class Rubbish(Fault):
    """Each entry in another way, and one of an account that there is not."""

    name = "index and tokens filled with rubbish"
    BAD = ("", "{", json.dumps({"version": 1}), "\N{SNOWMAN}" * 1000)

    async def begin(self) -> None:
        for which in MAPS:
            bad: dict[str, str | None] = dict(zip(NAMES, self.BAD, strict=True))
            await asyncio.to_thread(self.stack.overwrite, which, bad | {"nobody": "rubbish"})


class RolledBack(Fault):
    name = "index and tokens rolled back"

    async def begin(self) -> None:
        for which in MAPS:
            await asyncio.to_thread(self.stack.overwrite, which, dict(self.older[which]))


class LeaseGone(Fault):
    name = "Lease deleted"

    async def begin(self) -> None:
        await asyncio.to_thread(self.stack.delete_lease)


FAULTS: tuple[type[Fault], ...] = (
    ApiServerKilled,
    OperatorKilled,
    ApiServerSilent,
    WatchesForgotten,
    Deleted,
    Rubbish,
    RolledBack,
    LeaseGone,
)
