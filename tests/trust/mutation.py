"""Inputs that are nearly good: bytes of seeds, cut, joined, repeated, and with what often does harm put in."""

from hypothesis import strategies as st

from .targets import Target

HARMFUL = (
    *(
        b"\0",
        b"\r",
        b"\n",
        b"\r\n",
        b"\r\n\r\n",
        b"\x0b",
        b"\x7f",
        b"\xff",
        b"\xc3\x28",
        "\u2028\ud7ff".encode(),
        b"\xef\xbb\xbf",
    ),
    *(b"0", b"-1", b"1e400", b"NaN", b"99999999999999999999999", b"0x10", b"+5", b" 5", b"5, 5", b"null", b"true"),
    *(b'"', b"'", b"\\", b"\\ud800", b"{", b"}", b"[", b"]", b",", b":", b";", b"#", b"?", b"%", b"%00", b"../", b"="),
    *(b"chunked", b"Transfer-Encoding", b"Content-Length: 1", b"host: b", b"HTTP/1.1", b"identity", b"upgrade"),
    *(b"9999-12-31T23:59:59Z", b"0001-01-01T00:00:00+23:59", b"1970-01-01T00:00:00", b"-0001-01-01T00:00:00Z"),
)


def inputs(target: Target) -> st.SearchStrategy[bytes]:
    """Mostly seeds with a few changes, now and then bytes of any kind."""
    return st.one_of(
        _mutated(target.seeds),
        _mutated(target.seeds),
        st.binary(max_size=300),
        st.text(max_size=100).map(lambda text: text.encode()),
    )


@st.composite
def _mutated(draw: st.DrawFn, seeds: tuple[bytes, ...]) -> bytes:
    data = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, min(len(data), 3000)))
        to = min(len(data), at + draw(st.integers(0, 12)))
        piece = draw(st.one_of(st.sampled_from(HARMFUL), st.binary(max_size=4), st.just(data[at:to] * 2)))
        data = data[:at] + piece + data[draw(st.sampled_from((at, to))) :]
    return data
