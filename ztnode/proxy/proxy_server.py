"""One client of a proxy, whichever of SOCKS5, SOCKS4a and HTTP it speaks: the first byte tells."""

from __future__ import annotations

from typing import Final

from ztnode.proxy.http import MAX_HEAD, BadRequest, HttpHandshake
from ztnode.proxy.request import BadHandshake, CheckPassword, Command, Refusal, Request
from ztnode.proxy.socks4 import VERSION as SOCKS4
from ztnode.proxy.socks4 import Socks4
from ztnode.proxy.socks5 import VERSION as SOCKS5
from ztnode.proxy.socks5 import Socks5

MAX_BUFFERED: Final = MAX_HEAD + 4
"""Bytes of one client that are kept before its request is known."""


class ProxyServer:
    """A client's handshake. ``receive`` what it sends until ``request`` is there or ``closed`` is True, and send
    ``to_send`` after each call; then dial, and say ``succeeded`` or ``failed``. What the client sent beyond its request
    is in ``rest`` and belongs to the target (for ``Command.FETCH``: to a ``http.RequestStream``, request and all)."""

    def __init__(self, check_password: CheckPassword | None = None) -> None:
        """``check_password``: None lets everybody in."""
        self._check_password = check_password
        self._protocol: Socks5 | Socks4 | HttpHandshake | None = None
        self._received = bytearray()
        self._out = bytearray()
        self.request: Request | None = None
        self.closed = False
        """Whether the connection is to be closed once ``to_send`` is sent."""

    def receive(self, data: bytes) -> None:
        """Take what the client sent; b"": it has closed. Never raises on the content."""
        if self.closed or not data:
            self.closed = True
            return
        self._received += data
        try:
            while self._received and self.request is None and not self.closed and self._step():
                pass
        except BadRequest as error:
            self._end(error.answer)
        except BadHandshake:
            self._end(b"")
        if self.request is None and len(self._received) > MAX_BUFFERED:
            self._end(b"")

    def _step(self) -> bool:
        protocol = self._protocol
        if protocol is None:
            protocol = self._protocol = self._choose(self._received[0])
        understood, answer = protocol.step(bytes(self._received))
        del self._received[:understood]
        self._out += answer
        self.request = protocol.request
        if protocol.refused is not None:
            self._end(protocol.failed(protocol.refused))
        return understood > 0

    def _choose(self, first: int) -> Socks5 | Socks4 | HttpHandshake:
        if first == SOCKS5:
            return Socks5(self._check_password)
        if first == SOCKS4:
            return Socks4(password_wanted=self._check_password is not None)
        if not 0x41 <= first <= 0x5A:  # methods are written in capitals
            raise BadHandshake("neither SOCKS nor HTTP")
        return HttpHandshake(self._check_password)

    def succeeded(self, host: str, port: int) -> None:
        """The request was fulfilled from ``host`` and ``port``, numeric."""
        if self._protocol is not None:
            self._out += self._protocol.succeeded(host, port)

    def failed(self, failure: Refusal) -> None:
        """It was not."""
        self._end(b"" if self._protocol is None else self._protocol.failed(failure))

    def to_send(self) -> bytes:
        """What the client is to be told; empties the queue."""
        out = bytes(self._out)
        self._out.clear()
        return out

    @property
    def rest(self) -> bytes:
        """What the client sent beyond its request."""
        return bytes(self._received)

    def _end(self, answer: bytes) -> None:
        self._out += answer
        self.closed = True
        if self.request is not None and self.request.command is not Command.FETCH:
            self._received.clear()
