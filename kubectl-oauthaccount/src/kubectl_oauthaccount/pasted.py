"""What a person copies from the provider's page, as the operator will read it. Nothing pasted is in a message or a repr."""

from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True)
class Pasted:
    """A code and the state it came with, or the provider's own refusal."""

    code: str = field(default="", repr=False)
    state: str = field(default="", repr=False)
    refused: bool = False


def parse_pasted(text: str) -> Pasted:
    """`code#state`, or the whole redirect URL with `code` and `state` in its query, or a code alone (`state` is empty)."""
    text = text.strip()
    try:
        url = urlsplit(text)
        query = parse_qs(url.query)
    except ValueError:
        return Pasted()
    # whatever its scheme: programs may have one of their own (RFC 8252 7.1)
    if url.scheme in ("https", "http") or (url.scheme and query.keys() & {"code", "error"}):
        if "error" in query:
            return Pasted(refused=True)
        return Pasted(code=query.get("code", [""])[0], state=query.get("state", [""])[0])
    code, _, state = text.partition("#")
    return Pasted(code=code, state=state)
