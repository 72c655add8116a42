"""Reads as much of an answer as it takes to decide whether the client gets it.

A head is held back for the first event of a stream, or for the words of an error, but never for long: a waiting client should
see that there is an answer.
"""

import asyncio
from dataclasses import dataclass

from oauth_pool_proxy.config import Header, Verdict
from oauth_pool_proxy.errors import StreamBroken, UpstreamTimeout, UpstreamUnreachable
from oauth_pool_proxy.pool.judgement import Judgement, decompressed
from oauth_pool_proxy.pool.stream_start import error_data
from oauth_pool_proxy.upstream.upstream import Answer

MOST_BYTES = 64 * 1024
"""The API's errors are shorter than this. Anything longer is passed on."""
SECONDS = 2.0
"""How long the head of an answer may be held back."""
UNPROVEN = frozenset((Verdict.NEXT_ACCOUNT, Verdict.SUSPECT, Verdict.MODEL_FORBIDDEN))
"""Verdicts that do not prove that the account is to blame."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A complete upstream answer that is held back while another account might do better."""

    status: int
    headers: list[Header]
    body: bytes
    upstream_request_id: bytes | None
    verdict: Verdict
    judged_status: int
    """For a stream that begins with an error, the status that the error stands for."""

    @property
    def is_proven(self) -> bool:
        """Whether the account is to blame beyond doubt."""
        return self.verdict not in UNPROVEN


async def first_event(answer: Answer) -> tuple[bytes, bytes | None]:
    """What has arrived of a stream, and the data of its first event if that is an error.

    Raises `UpstreamTimeout` or `UpstreamUnreachable` if the stream breaks off before that.
    """
    beginning = answer.read_now()
    error = _error_in(answer, beginning)
    if error is None and not answer.is_at_end:
        try:
            async with asyncio.timeout(SECONDS):
                while error is None and not answer.is_at_end:
                    beginning += await answer.read()
                    error = _error_in(answer, beginning)
        except TimeoutError:
            pass  # a model may think for minutes
        except StreamBroken as broken:
            # The client has seen nothing yet, so it gets a plain error answer.
            kind = UpstreamTimeout if broken.error_type == "timeout" else UpstreamUnreachable
            raise kind(str(broken)) from broken
    return beginning, error


async def words(answer: Answer) -> bytes:
    """As much of an error's body as its words need. An error that breaks off is judged by what arrived."""
    parts: list[bytes] = []
    try:
        async with asyncio.timeout(SECONDS):
            while not answer.is_at_end and sum(map(len, parts)) < MOST_BYTES:
                parts.append(await answer.read())
    except (TimeoutError, StreamBroken):
        pass
    return b"".join(parts)


async def whole(beginning: bytes, answer: Answer, judgement: Judgement) -> tuple[bytes, Refusal | None]:
    """What has arrived of the answer, and all of it to send later. None: it is longer than any error, or still not complete."""
    if not answer.is_at_end:
        beginning += await words(answer)
    if not answer.is_at_end or len(beginning) > MOST_BYTES:
        return beginning, None
    request_id = answer.fields.get(b"request-id")
    return beginning, Refusal(answer.status, answer.headers, beginning, request_id, judgement.verdict, judgement.status)


def _error_in(answer: Answer, beginning: bytes) -> bytes | None:
    text = decompressed(answer.headers, beginning)
    return b"" if text is None else error_data(text)
