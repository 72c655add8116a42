"""The load generator takes no answer for good that is not whole: a benchmark that does measures nothing."""

import os
import platform
import re
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.bench.figures import Figures
from tests.bench.load_program import Generator, Target, Upstream, build, upstream

pytestmark = [
    pytest.mark.skipif(platform.system() != "Linux", reason="the benchmark is for Linux"),
    pytest.mark.timeout(400),  # of one that builds the program with an empty build cache, beside other tests
]

CORES = sorted(os.sched_getaffinity(0))[:1] if hasattr(os, "sched_getaffinity") else [0]
Change = Callable[[bytes], bytes]


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("load"))


@pytest.fixture(scope="module")
def api(load: Path) -> Iterator[Upstream]:
    with upstream(load, load.parent, CORES) as started:
        yield started


def requests(load: Path, target: Target) -> Figures:
    return Generator(load, CORES, target).run("requests", connections=2, seconds=0.2)


def streams(load: Path, target: Target) -> Figures:
    return Generator(load, CORES, target).run("streams", streams=2, events=5, per_second=50)


def test_every_answer_of_the_upstream_is_good(load: Path, api: Upstream) -> None:
    target = Target(api.http)
    answered, streamed = requests(load, target), streams(load, target)
    assert (answered["failed"], streamed["failed"], streamed["done"]) == (0, 0, 10)
    assert answered["done"] > 0


def test_over_tls_too(load: Path, api: Upstream) -> None:
    figures = requests(load, Target(api.https, ca_file=api.ca_file))
    assert figures["failed"] == 0
    assert figures["done"] > 0


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda answer: answer.replace(b"200 OK", b"500 No", 1), id="another status"),
        pytest.param(lambda answer: answer.replace(b"brown", b"BROWN", 1), id="another byte"),
        pytest.param(lambda answer: answer[:-1], id="a byte missing"),
        pytest.param(lambda answer: answer.replace(b"length: 2048", b"length: 2047", 1)[:-1], id="a shorter body"),
        pytest.param(lambda answer: answer.replace(b"length: 2048", b"length: 2049", 1) + b"}", id="a longer body"),
    ],
)
def test_an_answer_counts_as_failed_with(change: Change, load: Path, api: Upstream) -> None:
    with changed_on_the_way(api, change) as target:
        figures = requests(load, target)
    assert figures["done"] == 0
    assert figures["failed"] > 0


def test_a_stream_may_be_cut_into_pieces_anywhere(load: Path, api: Upstream) -> None:
    with changed_on_the_way(api, in_chunks_of(7)) as target:
        figures = streams(load, target)
    assert (figures["failed"], figures["done"]) == (0, 10)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda answer: answer.replace(b"200 OK", b"502 No", 1), id="another status"),
        pytest.param(lambda answer: answer.removesuffix(b"0\r\n\r\n"), id="no last chunk"),
        pytest.param(lambda answer: without(answer, "content_block_delta"), id="an event missing"),
        pytest.param(lambda answer: without(answer, "message_stop"), id="no end"),
        pytest.param(lambda answer: without(answer, "message_delta"), id="no usage"),
        pytest.param(lambda answer: without(answer, "message_start"), id="no start"),
        pytest.param(lambda answer: with_another(answer, b"event: error\ndata: {}\n\n"), id="an error event"),
    ],
)
def test_a_stream_counts_as_failed_with(change: Change, load: Path, api: Upstream) -> None:
    with changed_on_the_way(api, change) as target:
        figures = streams(load, target)
    assert (figures["failed"], figures["done"]) == (2, 0)


def body_of(answer: bytes) -> tuple[bytes, bytes]:
    head, _, rest = answer.partition(b"\r\n\r\n")
    body = b""
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        body += rest[: int(size, 16)]
        rest = rest[int(size, 16) + 2 :]
    return head + b"\r\n\r\n", body


def in_chunks_of(size: int) -> Change:
    def change(answer: bytes) -> bytes:
        head, body = body_of(answer)
        pieces = [body[i : i + size] for i in range(0, len(body), size)]
        return head + b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"

    return change


def without(answer: bytes, event: str) -> bytes:
    """The stream, still well framed, but for the first event of this name."""
    head, body = body_of(answer)
    return head + chunked(re.sub(rb"event: %s\n.*?\n\n" % event.encode(), b"", body, count=1, flags=re.DOTALL))


def with_another(answer: bytes, event: bytes) -> bytes:
    head, body = body_of(answer)
    return head + chunked(body + event)


def chunked(body: bytes) -> bytes:
    return b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)


@contextmanager
def changed_on_the_way(api: Upstream, change: Change) -> Iterator[Target]:
    """Something between generator and upstream that sends each answer changed, and closes the connection."""

    class Between(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            host, _, port = api.http.partition(":")
            with socket.create_connection((host, int(port))) as onward:
                onward.sendall(whole(self.request))
                self.request.sendall(change(whole(onward)))

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Between) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield Target(f"127.0.0.1:{server.server_address[1]}")
        server.shutdown()
        thread.join()


def whole(connection: socket.socket) -> bytes:
    """A request or an answer, to the end that its head announces."""
    data = b""
    while True:
        head, end, body = data.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        if end and (len(body) == int(length[1]) if length else body.endswith(b"0\r\n\r\n")):
            return data
        received = connection.recv(1 << 16)
        if not received:
            return data
        data += received
