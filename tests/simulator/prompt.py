"""What the simulator understands of a request for a message."""

import json
from dataclasses import dataclass, field
from typing import Any, Self

from .envelope import ApiError

Block = dict[str, Any]


@dataclass(frozen=True)
class Prompt:
    model: str
    question: str
    """The last user turn: its text, and what tools answered."""
    input_tokens: int
    is_streamed: bool
    answers_tool: bool
    """The last user turn has the result of a tool."""
    tools: list[Block] = field(repr=False)
    tool_choice: Block = field(repr=False)

    @classmethod
    def parse(cls, body: bytes, *, demands_max_tokens: bool) -> Self:
        """Raises the API's own 400 for a body that is none."""
        document = _checked(body, demands_max_tokens=demands_max_tokens)
        blocks = _last_user_blocks(document["messages"])
        counted = [document.get(name) for name in ("system", "tools", "messages") if document.get(name) is not None]
        return cls(
            model=document["model"],
            question="".join(_text(block) for block in blocks),
            input_tokens=tokens(json.dumps(counted)),
            is_streamed=document.get("stream") is True,
            answers_tool=any(block.get("type") == "tool_result" for block in blocks),
            tools=document.get("tools") or [],
            tool_choice=document.get("tool_choice") or {"type": "auto"},
        )

    def tool_to_call(self, *, when_free: bool) -> Block | None:
        """`tool_choice` decides; `when_free` where it leaves the choice to the model. The result of a tool is the end."""
        wanted = self.tool_choice.get("type")
        if not self.tools or self.answers_tool or wanted == "none" or (wanted == "auto" and not when_free):
            return None
        if wanted != "tool":
            return self.tools[0]
        name = self.tool_choice.get("name")
        chosen = next((tool for tool in self.tools if tool["name"] == name), None)
        if chosen is None:
            raise ApiError(400, f"tool_choice: no tool is named {name!r}")
        return chosen


def tokens(text: str) -> int:
    """About four characters each, and at least one; the point is that the same text always counts the same."""
    return max(1, -(-len(text) // 4))


def _checked(body: bytes, *, demands_max_tokens: bool) -> dict[str, Any]:
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
    tools = document.get("tools") or []
    if not isinstance(tools, list) or not all(isinstance(tool, dict) and "name" in tool for tool in tools):
        raise ApiError(400, "tools: Input should be a list of objects with a name")
    if not isinstance(document.get("tool_choice") or {}, dict):
        raise ApiError(400, "tool_choice: Input should be an object")
    return document


def _last_user_blocks(messages: list[Block]) -> list[Block]:
    content: Any = next((message.get("content") for message in reversed(messages) if message.get("role") == "user"), "")
    return _blocks(content)


def _blocks(content: Any) -> list[Block]:
    """A text is short for one text block."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return [block for block in content if isinstance(block, dict)] if isinstance(content, list) else []


def _text(block: Block) -> str:
    if block.get("type") == "tool_result":
        return "".join(_text(inner) for inner in _blocks(block.get("content")))
    return str(block.get("text", ""))
