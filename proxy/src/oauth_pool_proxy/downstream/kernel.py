"""What the kernel knows of a connection and asyncio does not tell. Linux."""

import fcntl
import select
import socket
import struct
import termios

_GONE = select.POLLRDHUP | select.POLLHUP | select.POLLERR
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


def unsent(connection: socket.socket) -> int:
    """Bytes that the other side's kernel has not acknowledged (SIOCOUTQ, which has the number of TIOCOUTQ)."""
    return _bytes(connection, termios.TIOCOUTQ)


def unread(connection: socket.socket) -> int:
    """Bytes that have arrived and nobody has read."""
    return _bytes(connection, termios.FIONREAD)


def has_left(connection: socket.socket) -> bool:
    """Whether the other side has closed or reset the connection, also behind bytes that nobody has read."""
    poll = select.poll()
    poll.register(connection.fileno(), _GONE)
    return bool(poll.poll(0))


def reset_on_close(connection: socket.socket) -> None:
    """Let the end of the connection be a reset (SO_LINGER with no time)."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)


def _bytes(connection: socket.socket, request: int) -> int:
    (count,) = struct.unpack("i", fcntl.ioctl(connection.fileno(), request, b"\0\0\0\0"))
    return int(count)
