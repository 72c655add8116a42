"""`POST /v1/messages` and `/v1/messages/count_tokens`.

The text of a message names the account that served it and repeats the question, so that a test can tell both.
"""

import json
import math
import secrets
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from .api import Api, compressed, wants_gzip
from .envelope import ApiError
from .exchange import exchange_of
from .limits import limit_headers, per_minute_error, quota_error, rejecting
from .stream import event_stream
from .switches import Switches


@dataclass(frozen=True)
class Prompt:
    """The part of a request body that the simulator understands."""

    model: str
    question: str
    input_tokens: int
    is_streamed: bool


class Messages:
    def __init__(self, api: Api) -> None:
        self._api = api

    async def create(self, request: Request) -> Response:
        """A message, or the 429 of an account that is exhausted. Both carry the limit headers."""
        caller = await self._api.admit(request)
        prompt = _prompt(await request.body(), demands_max_tokens=True)
        headers = self._spend(caller.subject, prompt.model, caller.switches)

        text = caller.switches.reply
        if text is None:
            text = f"Served by {caller.subject}: {prompt.question}"
        message = _message(prompt, text)
        wants_compression = wants_gzip(request, caller.switches)
        if not prompt.is_streamed:
            response = JSONResponse(message, headers=headers)
            return compressed(response) if wants_compression else response
        if wants_compression:
            headers["content-encoding"] = "gzip"
        headers["cache-control"] = "no-cache"
        events = event_stream(message, caller.switches, exchange_of(request), is_compressed=wants_compression)
        return StreamingResponse(events, headers=headers, media_type="text/event-stream")

    async def count_tokens(self, request: Request) -> Response:
        await self._api.admit(request)
        prompt = _prompt(await request.body(), demands_max_tokens=False)
        return JSONResponse({"input_tokens": prompt.input_tokens})

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
        return limit_headers(windows, [], switches.limit_headers)


def _prompt(body: bytes, *, demands_max_tokens: bool) -> Prompt:
    try:
        document = json.loads(body)
    except ValueError:
        raise ApiError(400, "The request body is not valid JSON") from None
    if not isinstance(document, dict):
        raise ApiError(400, "The request body is not a JSON object")
    model, messages, max_tokens = (document.get(name) for name in ("model", "messages", "max_tokens"))
    if not isinstance(model, str) or not model:
        raise ApiError(400, "model: Field required")
    if demands_max_tokens and (not isinstance(max_tokens, int) or max_tokens < 1):
        raise ApiError(400, "max_tokens: Field required")
    if not isinstance(messages, list) or not messages:
        raise ApiError(400, "messages: at least one message is required")
    if not all(isinstance(message, dict) for message in messages):
        raise ApiError(400, "messages: Input should be a list of objects")
    counted = [document.get(name) for name in ("system", "tools", "messages") if document.get(name) is not None]
    return Prompt(
        model=model,
        question=_last_user_text(messages),
        input_tokens=_tokens(json.dumps(counted)),
        is_streamed=document.get("stream") is True,
    )


def _last_user_text(messages: list[dict[str, Any]]) -> str:
    content: Any = next((message.get("content") for message in reversed(messages) if message.get("role") == "user"), "")
    if isinstance(content, str):
        return content
    blocks = content if isinstance(content, list) else []
    return "".join(str(block.get("text", "")) for block in blocks if isinstance(block, dict))


def _message(prompt: Prompt, text: str) -> dict[str, Any]:
    return {
        "id": f"msg_{secrets.token_hex(12)}",
        "type": "message",
        "role": "assistant",
        "model": prompt.model,
        "content": [{"type": "text", "text": text}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": prompt.input_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": _tokens(text),
            "service_tier": "standard",
        },
    }


def _tokens(text: str) -> int:
    """About four characters each; the point is that the same text always counts the same."""
    return max(1, math.ceil(len(text) / 4))
