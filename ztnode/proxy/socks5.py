"""SOCKS version 5 (RFC 1928) with user name and password (RFC 1929), the server's side, and its datagrams."""

from __future__ import annotations

import ipaddress
from typing import Final

from ztnode.proxy.request import BadHandshake, CheckPassword, Command, Refusal, Request, checked_host

VERSION: Final = 5
_PASSWORD_VERSION: Final = 1
_NO_AUTHENTICATION: Final = 0
_PASSWORD: Final = 2
_NO_ACCEPTABLE_METHOD: Final = 0xFF
_IPV4: Final = 1
_NAME: Final = 3
_IPV6: Final = 4

_COMMANDS: Final = {1: Command.CONNECT, 3: Command.ASSOCIATE}
_REPLIES: Final = {
    Refusal.GENERAL: 1,
    Refusal.NOT_ALLOWED: 2,
    Refusal.NETWORK_UNREACHABLE: 3,
    Refusal.HOST_UNREACHABLE: 4,
    Refusal.REFUSED: 5,
    Refusal.TIMED_OUT: 6,  # "TTL expired" is what clients take for a time-out
    Refusal.UNSUPPORTED_COMMAND: 7,
    Refusal.UNSUPPORTED_ADDRESS: 8,
}


class Socks5:
    """One handshake. ``step`` is called with everything that has arrived and not been consumed."""

    def __init__(self, check_password: CheckPassword | None) -> None:
        self._check_password = check_password
        self._state = self._greeting
        self.request: Request | None = None
        self.refused: Refusal | None = None
        """Set when the client must be told so and left: what ``failed`` is to be called with."""

    def step(self, data: bytes) -> tuple[int, bytes]:
        """How many bytes of ``data`` were understood (0: more are needed), and what to answer. Raises
        BadHandshake."""
        return self._state(data)

    def succeeded(self, host: str, port: int) -> bytes:
        """The reply to a request that was fulfilled, with the address that we are bound to for it."""
        return bytes((VERSION, 0, 0)) + build_address(host, port)

    def failed(self, failure: Refusal) -> bytes:
        """The reply to one that was not."""
        return bytes((VERSION, _REPLIES[failure], 0)) + build_address("0.0.0.0", 0)

    def _greeting(self, data: bytes) -> tuple[int, bytes]:
        if len(data) < 2 or len(data) < 2 + data[1]:
            return 0, b""
        offered = data[2 : 2 + data[1]]
        wanted = _NO_AUTHENTICATION if self._check_password is None else _PASSWORD
        if wanted not in offered:
            if self._check_password is None and _PASSWORD in offered:
                wanted = _PASSWORD  # the client insists on a password that nobody asked for: any will do
            else:
                self._state = self._end
                return 2 + data[1], bytes((VERSION, _NO_ACCEPTABLE_METHOD))
        self._state = self._request if wanted == _NO_AUTHENTICATION else self._password
        return 2 + data[1], bytes((VERSION, wanted))

    def _password(self, data: bytes) -> tuple[int, bytes]:
        if data[0] != _PASSWORD_VERSION:
            raise BadHandshake(f"version {data[0]} of user name and password")
        if len(data) < 2 or len(data) < 3 + data[1]:
            return 0, b""
        end_of_name = 2 + data[1]
        end = end_of_name + 1 + data[end_of_name]
        if len(data) < end:
            return 0, b""
        name = data[2:end_of_name].decode("utf-8", "replace")
        password = data[end_of_name + 1 : end].decode("utf-8", "replace")
        if self._check_password is not None and not self._check_password(name, password):
            self._state = self._end
            return end, bytes((_PASSWORD_VERSION, 1))
        self._state = self._request
        return end, bytes((_PASSWORD_VERSION, 0))

    def _request(self, data: bytes) -> tuple[int, bytes]:
        if data[0] != VERSION:
            raise BadHandshake(f"version {data[0]} in the request")
        if len(data) < 4:
            return 0, b""
        if data[3] not in (_IPV4, _NAME, _IPV6):
            self.refused = Refusal.UNSUPPORTED_ADDRESS
            return len(data), b""
        address = parse_address(data[3:])
        if address is None:
            return 0, b""
        length, host, port = address
        command = _COMMANDS.get(data[1])
        if command is None:
            self.refused = Refusal.UNSUPPORTED_COMMAND
        else:
            self.request = Request(command, host, port)
        self._state = self._end
        return 3 + length, b""

    def _end(self, data: bytes) -> tuple[int, bytes]:
        raise BadHandshake(f"{len(data)} bytes after the handshake ended")


def parse_address(data: bytes | memoryview) -> tuple[int, str, int] | None:
    """An address and a port as SOCKS5 writes them (section 5): the length of the whole, the host and the port; None
    while bytes are missing. Raises BadHandshake."""
    if len(data) < 2:
        return None
    kind = data[0]
    if kind == _NAME:
        start, end = 2, 2 + data[1]
    elif kind in (_IPV4, _IPV6):
        start, end = 1, 5 if kind == _IPV4 else 17
    else:
        raise BadHandshake(f"address type {kind}")
    if len(data) < end + 2:
        return None
    raw = bytes(data[start:end])
    host = checked_host(raw.decode("ascii", "replace")) if kind == _NAME else str(ipaddress.ip_address(raw))
    return end + 2, host, int.from_bytes(data[end : end + 2], "big")


def build_address(host: str, port: int) -> bytes:
    """An address and a port as SOCKS5 writes them. Raises UnicodeEncodeError for a name that is not ASCII."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        name = host.encode("ascii")
        head = bytes((_NAME, len(name))) + name
    else:
        head = bytes((_IPV4 if address.version == 4 else _IPV6,)) + address.packed
    return head + port.to_bytes(2, "big")


def parse_datagram(data: bytes) -> tuple[str, int, bytes]:
    """What a client sends to its association (section 7): host, port and payload. Raises BadHandshake, also for a
    fragment: hardly a client sends them, and the section lets a server drop them."""
    if len(data) < 4 or data[2] != 0:
        raise BadHandshake("a fragment, or too short")
    address = parse_address(memoryview(data)[3:])
    if address is None:
        raise BadHandshake("too short")
    length, host, port = address
    return host, port, data[3 + length :]


def build_datagram(host: str, port: int, payload: bytes) -> bytes:
    """What a client receives from its association."""
    return b"\0\0\0" + build_address(host, port) + payload
