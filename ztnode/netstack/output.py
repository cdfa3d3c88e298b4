"""IP output of everything but TCP, which makes its own frames: headers and, where needed, fragments."""

from __future__ import annotations

from collections.abc import Callable

from ztnode.netstack.flow import Flow
from ztnode.netstack.neighbours import NO_MAC
from ztnode.netstack.tcp.network import Frame
from ztnode.wire import ethernet, ipv4, ipv6


class IpOutput:
    """Builds and sends IP packets along flows."""

    def __init__(self, random: Callable[[int], bytes], count: Callable[[str], None]) -> None:
        self._random = random
        self._count = count
        # IPv4 identifications count up from a random start: no value comes again within 65,536 fragmented datagrams.
        self._identification = int.from_bytes(random(2), "big")

    def send(self, flow: Flow, protocol: int, payload: bytes, hop_limit: int | None = None) -> None:
        """Send one packet, in fragments when it exceeds the path MTU. ``payload`` is the upper layer's header and data,
        checksum done."""
        limit = flow.hop_limit if hop_limit is None else hop_limit
        frames = (
            self._ipv4(flow, protocol, payload, limit)
            if len(flow.remote) == 4
            else self._ipv6(flow, protocol, payload, limit)
        )
        flow.send(frames)

    @staticmethod
    def _ethernet(flow: Flow, ethertype: int) -> bytes:
        mac = flow.neighbour.mac if flow.neighbour is not None else NO_MAC
        return ethernet.build(flow.port.mac if flow.loopback else mac, flow.port.mac, ethertype)

    def _ipv4(self, flow: Flow, protocol: int, payload: bytes, hop_limit: int) -> list[Frame]:
        link = self._ethernet(flow, ethernet.TYPE_IPV4)
        if ipv4.HEADER_LENGTH + len(payload) <= flow.mtu:
            # DF and ID 0: an atomic datagram (RFC 6864 section 4.1); a smaller MTU on the way is reported to us.
            header = ipv4.Header(
                flow.local, flow.remote, protocol, len(payload), hop_limit, fragment=ipv4.DONT_FRAGMENT
            )
            return [(link + ipv4.build(header), payload)]
        self._identification = self._identification + 1 & 0xFFFF
        step = flow.mtu - ipv4.HEADER_LENGTH & ~7
        frames: list[Frame] = []
        for offset in range(0, len(payload), step):
            piece = payload[offset : offset + step]
            more = ipv4.MORE_FRAGMENTS if offset + step < len(payload) else 0
            header = ipv4.Header(
                flow.local, flow.remote, protocol, len(piece), hop_limit, self._identification, more | offset >> 3
            )
            frames.append((link + ipv4.build(header), piece))
        return frames

    def _ipv6(self, flow: Flow, protocol: int, payload: bytes, hop_limit: int) -> list[Frame]:
        link = self._ethernet(flow, ethernet.TYPE_IPV6)
        if ipv6.HEADER_LENGTH + len(payload) <= flow.mtu:
            header = ipv6.Header(flow.local, flow.remote, protocol, len(payload), hop_limit)
            return [(link + ipv6.build(header), payload)]
        # RFC 7739 section 5.3: a random identification per packet.
        identification = int.from_bytes(self._random(4), "big")
        step = flow.mtu - ipv6.HEADER_LENGTH - ipv6.FRAGMENT_LENGTH & ~7
        frames: list[Frame] = []
        for offset in range(0, len(payload), step):
            piece = payload[offset : offset + step]
            fragment = ipv6.Fragment(protocol, offset, offset + step < len(payload), identification)
            header = ipv6.Header(
                flow.local, flow.remote, ipv6.NEXT_FRAGMENT, ipv6.FRAGMENT_LENGTH + len(piece), hop_limit
            )
            frames.append((link + ipv6.build(header) + ipv6.build_fragment(fragment), piece))
        return frames
