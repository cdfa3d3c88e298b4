"""A transport for ztnode: UDP through a SOCKS5 proxy (RFC 1928, UDP ASSOCIATE), for hosts that reach nothing else.

``ZTNODE_SOCKS5=127.0.0.1:1080 ztnode serve --transport socks5 --state ./st``
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
from collections.abc import Callable, Sequence
from typing import Final

from ztnode.hookspecs import Datagrams, Endpoint, Transport, hookimpl

VERSION: Final = 5
NO_AUTHENTICATION: Final = 0
UDP_ASSOCIATE: Final = 3
IPV4, IPV6 = 1, 4
ADDRESS_BYTES: Final = {IPV4: 4, IPV6: 16}


def pack_endpoint(endpoint: Endpoint) -> bytes:
    """ATYP, address and port (RFC 1928 section 5)."""
    address = ipaddress.ip_address(endpoint[0])
    kind = IPV4 if address.version == 4 else IPV6
    return bytes([kind]) + address.packed + endpoint[1].to_bytes(2, "big")


def unpack_endpoint(data: bytes, offset: int) -> tuple[Endpoint, int]:
    """The endpoint at ``offset`` and where it ends. Raises ValueError, also for host names."""
    size = ADDRESS_BYTES.get(data[offset], 0) if len(data) > offset else 0
    end = offset + 1 + size + 2
    if not size or len(data) < end:
        raise ValueError("not a SOCKS5 address")
    address = ipaddress.ip_address(data[offset + 1 : offset + 1 + size])
    return (str(address), int.from_bytes(data[end - 2 : end], "big")), end


class Socks5Transport(asyncio.DatagramProtocol):
    """See ``ztnode.hookspecs.Transport``."""

    def __init__(self, proxy: Endpoint) -> None:
        self._proxy = proxy
        self._receive: Callable[[Datagrams], None] = lambda _datagrams: None
        self._udp: asyncio.DatagramTransport | None = None
        self._control: asyncio.StreamWriter | None = None

    async def open(self, port: int, receive: Callable[[Datagrams], None]) -> None:  # noqa: ARG002 (the proxy chooses)
        """Ask the proxy for a UDP relay; it lives as long as the control connection. Raises OSError."""
        self._receive = receive
        reader, self._control = await asyncio.open_connection(*self._proxy)
        try:
            self._control.write(bytes([VERSION, 1, NO_AUTHENTICATION]))
            if await reader.readexactly(2) != bytes([VERSION, NO_AUTHENTICATION]):
                raise OSError("the SOCKS5 proxy wants authentication, which this plugin does not offer")
            self._control.write(bytes([VERSION, UDP_ASSOCIATE, 0]) + pack_endpoint(("0.0.0.0", 0)))
            head = await reader.readexactly(4)
            if head[1] != 0 or head[3] not in ADDRESS_BYTES:
                raise OSError(f"the SOCKS5 proxy refused a UDP relay (reply {head[1]})")
            rest = await reader.readexactly(ADDRESS_BYTES[head[3]] + 2)
        except (asyncio.IncompleteReadError, OSError) as error:
            self._control.close()
            raise error if isinstance(error, OSError) else OSError("the SOCKS5 proxy hung up") from error
        relay, _ = unpack_endpoint(head[3:] + rest, 0)
        if ipaddress.ip_address(relay[0]).is_unspecified:
            relay = (self._proxy[0], relay[1])
        self._udp, _ = await asyncio.get_running_loop().create_datagram_endpoint(lambda: self, remote_addr=relay)

    def datagram_received(self, data: bytes, addr: object) -> None:  # noqa: ARG002 (always the proxy)
        """One datagram from the relay: RSV, FRAG, endpoint, payload (RFC 1928 section 7)."""
        if len(data) < 4 or data[2] != 0:
            return
        try:
            source, end = unpack_endpoint(data, 3)
        except ValueError:
            return
        self._receive([(data[end:], source)])

    def send(self, endpoint: Endpoint, datagrams: Sequence[bytes]) -> int:
        """See ``ztnode.hookspecs.Transport``."""
        if self._udp is None:
            return len(datagrams)
        header = b"\0\0\0" + pack_endpoint(endpoint)
        for datagram in datagrams:
            self._udp.sendto(header + datagram)
        return 0

    def local_endpoints(self) -> Sequence[Endpoint]:
        """See ``ztnode.hookspecs.Transport``."""
        return [] if self._udp is None else [self._udp.get_extra_info("sockname")[:2]]

    async def close(self) -> None:
        """See ``ztnode.hookspecs.Transport``."""
        self._receive = lambda _datagrams: None
        if self._udp is not None:
            self._udp.close()
        if self._control is not None:
            self._control.close()


@hookimpl
def ztnode_transport(name: str) -> Transport | None:
    """The transport named ``socks5``, through the proxy in $ZTNODE_SOCKS5 (HOST:PORT)."""
    if name != "socks5":
        return None
    host, _, port = os.environ.get("ZTNODE_SOCKS5", "").rpartition(":")
    if not host or not port.isdigit():
        raise ValueError("set ZTNODE_SOCKS5=HOST:PORT for --transport socks5")
    return Socks5Transport((host.strip("[]"), int(port)))
