"""What is overridden of uvicorn, and what is relied on: when a new version changes one of these, somebody has to look.

A digest differs: read what changed in uvicorn, see whether `protocol.py` or `server.py` has to follow, and put the new one here.
"""

import hashlib
import inspect
from collections.abc import Callable

import pytest
from uvicorn import Server
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

KNOWN: dict[Callable[..., object], str] = {
    HttpToolsProtocol.__init__: "4f0899941034",
    HttpToolsProtocol.connection_made: "6efb565ff3d3",
    HttpToolsProtocol.connection_lost: "c91a4c9bf2e2",
    HttpToolsProtocol.eof_received: "5652627579a0",
    HttpToolsProtocol.resume_writing: "7844bbaa8cce",
    HttpToolsProtocol.data_received: "010a7ae59a5d",
    HttpToolsProtocol.on_message_begin: "96d377fdc7c2",
    HttpToolsProtocol.on_url: "37be44e962b0",
    HttpToolsProtocol.on_header: "65d62c044f61",
    HttpToolsProtocol.on_headers_complete: "1ea8589acfad",
    HttpToolsProtocol.on_body: "dba9c32aeba3",
    HttpToolsProtocol.on_message_complete: "1fbad42dc31f",
    HttpToolsProtocol.on_response_complete: "64e254f28e38",
    HttpToolsProtocol.shutdown: "d7351fa33f00",
    Server._serve: "4575b7a50adf",
    Server.startup: "2aa1d70a244b",
    Server.on_tick: "60ea49b06ccf",
    Server.shutdown: "9b33c5056299",
    Server.capture_signals: "e1bbcd4770d1",
    FlowControl: "126debcdaa89",
}


def digest(of: Callable[..., object]) -> str:
    return hashlib.sha256(inspect.getsource(of).encode()).hexdigest()[:12]


@pytest.mark.parametrize("of", KNOWN, ids=lambda of: of.__qualname__)
def test_what_is_overridden_is_what_it_was(of: Callable[..., object]) -> None:
    assert digest(of) == KNOWN[of], f"{of.__module__}.{of.__qualname__} is another one"
