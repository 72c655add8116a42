"""What the tests of official clients ask the simulator, and what it answers."""

from typing import Any

from tests.e2e.gateway import MODEL, SUBJECTS

TEXT = "¿Qué tal? 你好, it's a “long” question with many words 🙂 in it"
PLACE = 'Århus \\ "50 °N"'
WEATHER: dict[str, Any] = {
    "name": "weather",
    "input_schema": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
}


def asking(text: str = "hello", **changes: Any) -> dict[str, Any]:
    """The parameters of a request for a message."""
    return {"model": MODEL, "max_tokens": 100, "messages": [{"role": "user", "content": text}], **changes}


def served(text: str) -> set[str]:
    """The whole answer to a question, from any of the accounts."""
    return {f"Served by {subject}: {text}" for subject in SUBJECTS}
