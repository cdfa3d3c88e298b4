"""What is mapped onto what, and how people write it: ``[ADDR:]PORT:HOST:PORT`` as ssh has it, ranges, Unix sockets."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from ztclient.forms import host_name, is_numeric, numeric_ip

MAX_RANGE: Final = 1024
"""Ports in one range: each is a socket that listens."""

_FIELD: Final = re.compile(r"\[([^\[\]]*)\](?::|$)|([^:\[\]]*)(?::|$)")
_PORTS: Final = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")
_UNIX: Final = "unix"
_UDP: Final = "udp:"


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """A host, numeric or a name, and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host or '*'} port {self.port}"


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A Unix socket of this machine."""

    path: str

    def __str__(self) -> str:
        return f"{_UNIX}:{self.path}"


LocalAddress: TypeAlias = TcpAddress | UnixAddress


@dataclass(frozen=True, slots=True)
class Forward:
    """Listen at ``local`` and carry each connection over the overlay to ``remote``, an IP or a name of the overlay;
    ``udp``: carry datagrams instead."""

    local: LocalAddress
    remote: TcpAddress
    udp: bool = False

    def __str__(self) -> str:
        return f"{'UDP ' if self.udp else ''}{self.local} -> {self.remote}"


@dataclass(frozen=True, slots=True)
class Expose:
    """Listen on the overlay at ``overlay`` (no host: every managed address) and carry each connection to ``local``;
    ``udp``: carry datagrams instead."""

    overlay: TcpAddress
    local: LocalAddress
    udp: bool = False

    def __str__(self) -> str:
        return f"{'UDP ' if self.udp else ''}{self.overlay} -> {self.local}"


def parse_forward(text: str) -> list[Forward]:
    """``[udp:][ADDR:]PORT:HOST:PORT`` or ``unix:PATH:HOST:PORT``; either port may be a range (``8000-8009``), then so
    is the other. Without an address it is loopback. Raises ValueError with one line for a person."""
    if text.startswith(_UDP):
        return [replace(each, udp=True) for each in parse_forward(_without_unix(text))]
    fields = _fields(text)
    if fields[0] == _UNIX and len(fields) == 4:
        return [Forward(UnixAddress(_path(fields[1], text)), _remote(fields[2], fields[3], text))]
    if len(fields) == 3:
        fields = ["127.0.0.1", *fields]
    if len(fields) != 4:
        raise ValueError(f"{text!r} is not [ADDR:]PORT:HOST:PORT")
    host, local, remote_host, remote = fields
    pairs = _pair(_ports(local, text, lowest=0), _ports(remote, text), text)
    return [Forward(TcpAddress(host, here), TcpAddress(_host(remote_host, text), there)) for here, there in pairs]


def parse_expose(text: str) -> list[Expose]:
    """``[udp:][IP:]PORT:HOST:PORT`` or ``[IP:]PORT:unix:PATH``; ports may be ranges, both or none. Raises ValueError
    with one line for a person."""
    if text.startswith(_UDP):
        return [replace(each, udp=True) for each in parse_expose(_without_unix(text))]
    before, unix, path = text.partition(f":{_UNIX}:")
    fields = _fields(before)
    if len(fields) in (1, 2) and unix:
        overlay = _ports(fields[-1], text, lowest=0)
        if len(overlay) != 1:
            raise ValueError(f"{text!r}: many ports and one Unix socket")
        return [Expose(TcpAddress(_optional(fields[:-1], text), overlay[0]), UnixAddress(_path(path, text)))]
    if unix or len(fields) not in (3, 4):
        raise ValueError(f"{text!r} is not [IP:]PORT:HOST:PORT")
    *address, overlay_ports, host, local_ports = fields
    if not host:
        raise ValueError(f"{text!r} names no host to connect to")
    pairs = _pair(_ports(overlay_ports, text, lowest=0), _ports(local_ports, text), text)
    on = _optional(address, text)
    return [Expose(TcpAddress(on, here), TcpAddress(host, there)) for here, there in pairs]


def _without_unix(text: str) -> str:
    """What follows ``udp:``; a Unix socket is for streams."""
    rest = text.removeprefix(_UDP)
    if rest.startswith(_UDP) or f":{_UNIX}:" in f":{rest}":
        raise ValueError(f"{text!r}: UDP goes from a port to a port")
    return rest


def _fields(text: str) -> list[str]:
    """Between the colons; what stands in brackets is one field."""
    fields = []
    position = 0
    while True:
        match = _FIELD.match(text, position)
        if match is None:
            raise ValueError(f"{text!r} is no mapping: IPv6 addresses stand in brackets")
        fields.append(match[1] if match[1] is not None else match[2])
        position = match.end()
        if not match[0].endswith(":"):
            if position != len(text):
                raise ValueError(f"{text!r} is no mapping")
            return fields


def _ports(text: str, whole: str, *, lowest: int = 1) -> Sequence[int]:
    match = _PORTS.fullmatch(text)
    first = int(match[1]) if match is not None else -1
    last = int(match[2]) if match is not None and match[2] else first
    if not lowest <= first <= last <= 65535:
        raise ValueError(f"{whole!r}: {text!r} is not a port from {lowest} to 65535, nor a range of them")
    if last - first >= MAX_RANGE or (first == 0 and last > 0):
        raise ValueError(f"{whole!r}: a range has at most {MAX_RANGE} ports, and none of them is 0")
    return range(first, last + 1)


def _pair(here: Sequence[int], there: Sequence[int], whole: str) -> list[tuple[int, int]]:
    if len(here) != len(there):
        raise ValueError(f"{whole!r}: {len(here)} and {len(there)} ports cannot be paired")
    return list(zip(here, there, strict=True))


def _remote(host: str, port: str, whole: str) -> TcpAddress:
    ports = _ports(port, whole)
    if len(ports) != 1:
        raise ValueError(f"{whole!r}: one Unix socket and many ports")
    return TcpAddress(_host(host, whole), ports[0])


def _host(host: str, whole: str) -> str:
    with contextlib.suppress(ValueError):
        return numeric_ip(host) if is_numeric(host) else host_name(host)
    raise ValueError(f"{whole!r}: {host!r} is neither a numeric IP address nor a host name")


def _numeric(host: str, whole: str) -> str:
    with contextlib.suppress(ValueError):
        return numeric_ip(host)
    raise ValueError(f"{whole!r}: {host!r} is not a numeric IP address")


def _optional(address: list[str], whole: str) -> str:
    return _numeric(address[0], whole) if address and address[0] not in ("", "*") else ""


def _path(path: str, whole: str) -> str:
    if not path or "\0" in path:
        raise ValueError(f"{whole!r} names no Unix socket")
    return path
