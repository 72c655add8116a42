"""Clients that ask until they are told to end, and say how each answer came out. Runs in a pod; needs httpx2 and nothing of ours.

    python load_client.py streams --url http://… --at-once 200

End of standard input is the signal: no new request is sent, those under way go to their end, and one line of JSON says
how many there were of each outcome:

- `complete`: the whole answer, as the API ends it
- `error_event`: a stream that was broken off, and said so in an `event: error`
- `broken`: an answer that just ended, or a connection that did
- `refused`: an answer with another status than 200
"""

import argparse
import asyncio
import json
import random
import sys
import time
from collections import Counter
from contextlib import suppress

import httpx2

MOST_EXAMPLES = 10


class Clients:
    """`at_once` of them, each with one request at a time, on connections that are kept."""

    def __init__(self, url: str, at_once: int, pause: float, *, is_streamed: bool) -> None:
        self.at_once = at_once
        self.pause = pause
        self.is_streamed = is_streamed
        self.outcomes: Counter[str] = Counter()
        self.examples: list[str] = []
        self.ending = asyncio.Event()
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
        self.client = httpx2.AsyncClient(base_url=url, limits=limits, timeout=httpx2.Timeout(60))

    async def run(self) -> None:
        async with self.client, asyncio.TaskGroup() as tasks:
            for number in range(self.at_once):
                tasks.create_task(self._ask_again_and_again(number))

    async def _ask_again_and_again(self, number: int) -> None:
        await self._wait(random.uniform(0, 2))  # not all in the same instant
        count = 0
        while not self.ending.is_set():
            count += 1
            begin = time.monotonic()
            try:
                outcome, detail = await self._ask(f"client {number}, question {count}")
            except httpx2.HTTPError as error:
                outcome, detail = "broken", repr(error)
            self.outcomes[outcome] += 1
            if outcome != "complete" and len(self.examples) < MOST_EXAMPLES:
                self.examples.append(f"{outcome} after {time.monotonic() - begin:.2f} s: {detail}")
            await self._wait(self.pause)

    async def _ask(self, question: str) -> tuple[str, str]:
        body = {
            "model": "claude-simulated-sonnet",
            "max_tokens": 64,
            "stream": self.is_streamed,
            "messages": [{"role": "user", "content": question}],
        }
        text = ""
        async with self.client.stream("POST", "/v1/messages", json=body) as answer:
            try:
                async for piece in answer.aiter_text():
                    text += piece
            except httpx2.HTTPError as error:  # broken off; with or without a word about it
                return ("error_event" if "event: error" in text else "broken"), f"{error!r} {text[-300:]}"
        if answer.status_code != 200:
            return "refused", f"{answer.status_code} {text[:300]}"
        if not self.is_streamed:
            return ("complete", "") if json.loads(text)["type"] == "message" else ("broken", text[:300])
        return ("complete" if "event: message_stop" in text else "broken"), text[-300:]

    async def _wait(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self.ending.wait(), seconds)


async def until_end_of_input(ending: asyncio.Event) -> None:
    await asyncio.to_thread(sys.stdin.read)
    ending.set()


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["streams", "messages"])
    parser.add_argument("--url", required=True)
    parser.add_argument("--at-once", type=int, required=True, metavar="N", help="clients")
    parser.add_argument("--pause", type=float, default=0.1, metavar="SECONDS", help="of a client, between two requests")
    options = parser.parse_args()
    clients = Clients(options.url, options.at_once, options.pause, is_streamed=options.kind == "streams")
    waiting = asyncio.create_task(until_end_of_input(clients.ending))
    await clients.run()
    await waiting
    sys.stdout.write(json.dumps({"outcomes": clients.outcomes, "examples": clients.examples}))


if __name__ == "__main__":
    asyncio.run(main())
