"""SOCKS version 4, and 4A with host names, the server's side. (There is no RFC: the protocol's memo of 1992 and the
note on 4A are its source.)"""

from __future__ import annotations

import ipaddress
from typing import Final

from ztnode.proxy.request import BadHandshake, Command, Refusal, Request, checked_host

VERSION: Final = 4
MAX_LENGTH: Final = 600
"""Bytes of a request: a user name and a host name of 255 each, and the head."""
_GRANTED: Final = 0x5A
_REJECTED: Final = 0x5B
_HEAD: Final = 8


class Socks4:
    """One handshake. The protocol knows no password, so none that is wanted can be given: then all are refused."""

    def __init__(self, *, password_wanted: bool) -> None:
        self._password_wanted = password_wanted
        self.request: Request | None = None
        self.refused: Refusal | None = None

    def step(self, data: bytes) -> tuple[int, bytes]:
        """How many bytes of ``data`` were understood (0: more are needed), and what to answer. Raises
        BadHandshake."""
        if len(data) > MAX_LENGTH and b"\0" not in data[_HEAD:MAX_LENGTH]:
            raise BadHandshake("a user name without an end")
        if len(data) < _HEAD or (end := data.find(b"\0", _HEAD)) < 0:
            return 0, b""
        port = int.from_bytes(data[2:4], "big")
        host = str(ipaddress.IPv4Address(data[4:8]))
        end += 1
        if data[4:7] == b"\0\0\0" and data[7]:  # 0.0.0.x: a name follows
            end_of_name = data.find(b"\0", end)
            if end_of_name < 0:
                if len(data) > MAX_LENGTH:
                    raise BadHandshake("a host name without an end")
                return 0, b""
            host = checked_host(data[end:end_of_name].decode("ascii", "replace"))
            end = end_of_name + 1
        if self._password_wanted:
            self.refused = Refusal.NOT_ALLOWED
        elif data[1] != 1:
            self.refused = Refusal.UNSUPPORTED_COMMAND
        else:
            self.request = Request(Command.CONNECT, host, port)
        return end, b""

    def succeeded(self, host: str, port: int) -> bytes:
        """The reply to a request that was fulfilled. Clients ignore the address."""
        del host, port
        return bytes((0, _GRANTED)) + bytes(6)

    def failed(self, failure: Refusal) -> bytes:
        """The reply to one that was not; the protocol has one word for all reasons."""
        del failure
        return bytes((0, _REJECTED)) + bytes(6)
