"""What a proxy and a stack worker say to each other about a client that asks in absolute form.

The proxy lends the client's socket: with a connection's token it attaches two descriptors, the client's and one end of
a pair of Unix stream sockets in which a ``Loan`` waits. The worker then reads the client's requests, makes each ready
for the connection's server and writes the answers, and no byte passes through the proxy. When the client asks for
somebody else the socket comes back, behind a ``Return`` in the pair. Its end, with nothing said, is the client's.

A byte from the proxy (``ARE_THEY_THERE``) asks the worker to let the client go if nothing has moved since the one
before.

Each message is four bytes of length (network order), a line of JSON and raw bytes.
"""

from __future__ import annotations

import json
import socket
import struct
from dataclasses import dataclass
from typing import Final

ARE_THEY_THERE: Final = b"?"
MAX_MESSAGE: Final = 512 * 1024
"""Bytes of a message: a request's head, what was read beyond it, and some."""
_LENGTH: Final = struct.Struct("!I")


@dataclass(frozen=True, slots=True)
class Loan:
    """``host``, ``port``: whose requests go to the connection. ``credentials``: name and password that each of them
    must show, if any. ``data``: what the client has sent already."""

    host: str
    port: int
    credentials: tuple[str, str] | None
    data: bytes


@dataclass(frozen=True, slots=True)
class Return:
    """``data``: what the client sent and nobody has acted on, a request's beginning; or, where it is the ``last``,
    what to answer to something that was no request, and then no more."""

    last: bool
    data: bytes


def build_loan(loan: Loan) -> bytes:
    """What goes to the worker."""
    return _build({"host": loan.host, "port": loan.port, "credentials": loan.credentials}, loan.data)


def parse_loan(message: bytes) -> Loan:
    """What ``split`` found. Raises ValueError."""
    head, data = _parse(message)
    match head:
        case {"host": str(host), "port": int(port), "credentials": None}:
            return Loan(host, port, None, data)
        case {"host": str(host), "port": int(port), "credentials": [str(name), str(password)]}:
            return Loan(host, port, (name, password), data)
        case _:
            raise ValueError("not a loan")


def build_return(given_back: Return) -> bytes:
    """What goes to the proxy."""
    return _build({"last": given_back.last}, given_back.data)


def parse_return(message: bytes) -> Return:
    """What ``split`` found. Raises ValueError."""
    head, data = _parse(message)
    match head:
        case {"last": bool(last)}:
            return Return(last, data)
        case _:
            raise ValueError("not a return")


def split(received: bytes | bytearray) -> bytes | None:
    """The message that ``received`` is, or None while it is not whole. Raises ValueError."""
    if len(received) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack_from(received)
    if length > MAX_MESSAGE:
        raise ValueError("a message too long")
    return bytes(received[_LENGTH.size : _LENGTH.size + length]) if len(received) >= _LENGTH.size + length else None


def channel() -> tuple[socket.socket, socket.socket]:
    """A pair that holds a whole message each way; neither end blocks. Raises OSError."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    for end in ends:
        end.setblocking(False)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MAX_MESSAGE)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, MAX_MESSAGE)
    return ends


def _build(head: dict[str, object], data: bytes) -> bytes:
    message = json.dumps(head).encode() + b"\n" + data
    return _LENGTH.pack(len(message)) + message


def _parse(message: bytes) -> tuple[object, bytes]:
    head, _, data = message.partition(b"\n")
    return json.loads(head), data
