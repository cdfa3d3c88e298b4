"""Datagrams as they travel between a client and a stack worker: see OpenUdpResponse in node.proto."""

from __future__ import annotations

import functools
import ipaddress
import struct

DATAGRAM = 0
FAILURE = 1
REFUSED = 2
"""As FAILURE: not sent at all, to a group or broadcast address."""
MAX_DATAGRAM = 65507
"""Bytes of payload."""
MAX_RECORD = MAX_DATAGRAM + 64
MAX_BESIDE = 24
"""Bytes of a record beside the payload: its head, and the errno of a failure."""
_HEADER = struct.Struct("!BBH")
_ERRNO = struct.Struct("!I")


@functools.lru_cache(1024)
def header(kind: int, ip: str, port: int) -> bytes:
    """What stands before the payload. Raises ValueError for what is no numeric address."""
    packed = ipaddress.ip_address(ip).packed
    return _HEADER.pack(kind, len(packed), port) + packed


@functools.lru_cache(1024)
def _origin(head: bytes) -> tuple[int, str, int, int]:
    kind, _, port = _HEADER.unpack_from(head)
    return kind, str(ipaddress.ip_address(head[_HEADER.size :])), port, len(head)


def parse(record: bytes) -> tuple[int, str, int, int]:
    """Kind, IP, port, and where the payload begins. Raises ValueError for what is no record."""
    if len(record) < _HEADER.size:
        raise ValueError("not a datagram record")
    length = record[1]
    end = _HEADER.size + length
    if length not in (4, 16) or len(record) < end:
        raise ValueError("not a datagram record")
    return _origin(record[:end])


def failure(ip: str, port: int, number: int, kind: int = FAILURE) -> bytes:
    """A record of what ICMP reported, or of what was refused."""
    return header(kind, ip, port) + _ERRNO.pack(number)


def error_number(record: bytes, start: int) -> int:
    """The errno of a failure whose payload begins at ``start``. Raises ValueError."""
    if len(record) < start + _ERRNO.size:
        raise ValueError("not a failure record")
    return int(_ERRNO.unpack_from(record, start)[0])
