"""What the kernel knows about a connection and asyncio does not expose. Linux only."""

import fcntl
import select
import socket
import struct
import termios

_GONE = select.POLLRDHUP | select.POLLHUP | select.POLLERR
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


def unsent(connection: socket.socket) -> int:
    """Bytes that the peer's kernel has not acknowledged (SIOCOUTQ, which has the same number as TIOCOUTQ)."""
    return _bytes(connection, termios.TIOCOUTQ)


def unread(connection: socket.socket) -> int:
    """Bytes that have arrived and have not been read."""
    return _bytes(connection, termios.FIONREAD)


def has_left(connection: socket.socket) -> bool:
    """Whether the peer has closed or reset the connection, even if unread bytes come before that."""
    poll = select.poll()
    poll.register(connection.fileno(), _GONE)
    return bool(poll.poll(0))


def reset_on_close(connection: socket.socket) -> None:
    """Make closing the connection send a reset (SO_LINGER with zero timeout)."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)


def _bytes(connection: socket.socket, request: int) -> int:
    (count,) = struct.unpack("i", fcntl.ioctl(connection.fileno(), request, b"\0\0\0\0"))
    return int(count)
