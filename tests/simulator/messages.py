"""`POST /v1/messages` and `/v1/messages/count_tokens`.

The text of a message names the account that served it and repeats the question, so that a test can tell both. A tool
is called with the question, too: every property of its schema that may be a text gets it.
"""

import secrets
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from .api import Api, wants_gzip
from .envelope import ApiError
from .exchange import exchange_of
from .limits import limit_headers, per_minute_error, quota_error, rejecting
from .prompt import Block, Prompt, tokens
from .stream import event_stream
from .switches import Switches


class Messages:
    def __init__(self, api: Api) -> None:
        self._api = api

    async def create(self, request: Request) -> Response:
        """A message, or the 429 of an account that is exhausted. Both carry the limit headers."""
        caller = await self._api.admit(request)
        switches = caller.switches
        prompt = Prompt.parse(await request.body(), demands_max_tokens=True)
        if prompt.model == switches.forbidden_model:
            raise ApiError(403, f"Your account does not have access to the model {prompt.model}.")
        message = _message(prompt, caller.subject, switches)
        headers = self._spend(caller.subject, prompt.model, switches)
        if not prompt.is_streamed:
            return self._api.answer(request, message, switches, headers)
        is_compressed = wants_gzip(request, switches)
        if is_compressed:
            headers["content-encoding"] = "gzip"
        headers["cache-control"] = "no-cache"
        events = event_stream(message, switches, exchange_of(request), is_compressed=is_compressed)
        return StreamingResponse(events, headers=headers, media_type="text/event-stream")

    async def count_tokens(self, request: Request) -> Response:
        caller = await self._api.admit(request)
        prompt = Prompt.parse(await request.body(), demands_max_tokens=False)
        return self._api.answer(request, {"input_tokens": prompt.input_tokens}, caller.switches)

    def _spend(self, subject: str, model: str, switches: Switches) -> dict[str, str]:
        """Count the message against the account's limits; the headers that say how they stand."""
        now, limits = self._api.clock.now(), self._api.limits
        if switches.rate_limited is not None:
            raise per_minute_error(switches.rate_limited, now)
        windows = limits.windows(subject)
        if rejected := rejecting(windows, model):
            raise quota_error(windows, rejected, switches, now)
        limits.use(subject, switches.utilization_per_request)
        # a request that used up the rest is still served: its headers say "allowed" until the next one
        return limit_headers(windows, [], switches)


def _message(prompt: Prompt, subject: str, switches: Switches) -> dict[str, Any]:
    text = switches.reply
    if text is None:
        text = f"Served by {subject}: {prompt.question}"
    content: list[Block] = [{"type": "text", "text": text}]
    tool = prompt.tool_to_call(when_free=switches.calls_tools)
    if tool is not None:
        called = {"id": f"toolu_{secrets.token_hex(12)}", "name": tool["name"], "input": _input(tool, prompt.question)}
        content.append({"type": "tool_use", **called})
    return {
        "id": f"msg_{secrets.token_hex(12)}",
        "type": "message",
        "role": "assistant",
        "model": prompt.model,
        "content": content,
        "stop_reason": "end_turn" if tool is None else "tool_use",
        "stop_sequence": None,
        "usage": {
            "input_tokens": prompt.input_tokens,
            "cache_creation_input_tokens": switches.cache_creation_tokens,
            "cache_read_input_tokens": switches.cache_read_tokens,
            "output_tokens": tokens(text),
            "service_tier": "standard",
        },
    }


def _input(tool: Block, question: str) -> dict[str, Any]:
    properties: dict[str, Any] = tool.get("input_schema", {}).get("properties", {})
    return {name: question for name, schema in properties.items() if schema.get("type", "string") == "string"}
