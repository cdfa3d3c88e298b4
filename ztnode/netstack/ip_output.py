"""IP output of everything but TCP, which makes its own frames: headers and, where needed, fragments."""

from __future__ import annotations

from collections.abc import Callable

from ztnode.netstack.flow import HOP_LIMIT, Flow
from ztnode.netstack.frame import Frame
from ztnode.netstack.neighbour_cache import NO_MAC
from ztnode.wire import checksum, ethernet, ipv4, ipv6


class IpOutput:
    """Builds and sends IP packets along flows."""

    def __init__(self, random: Callable[[int], bytes]) -> None:
        self._random = random
        # IPv4 identifications count up from a random start: no value comes again within 65,536 fragmented datagrams.
        self._identification = int.from_bytes(random(2), "big")

    def send(self, flow: Flow, protocol: int, payload: bytes, hops: int = HOP_LIMIT) -> None:
        """Send one packet, in fragments when it exceeds the path MTU. ``payload`` is the upper layer's header and data,
        checksum done; ``hops``: the TTL or hop limit."""
        flow.send(self.frames(flow, protocol, payload, hops))

    def frames(self, flow: Flow, protocol: int, payload: bytes, hops: int = HOP_LIMIT) -> list[Frame]:
        """The frames that ``send`` sends."""
        build = self._ipv4 if len(flow.remote) == 4 else self._ipv6
        return build(flow, protocol, payload, hops)

    @staticmethod
    def _ethernet(flow: Flow, ethertype: int) -> bytes:
        mac = flow.neighbour.mac if flow.neighbour is not None else NO_MAC
        return ethernet.build(flow.port.mac if flow.loopback else mac, flow.port.mac, ethertype)

    def _ipv4(self, flow: Flow, protocol: int, payload: bytes, hops: int) -> list[Frame]:
        link = self._ethernet(flow, ethernet.TYPE_IPV4)
        total = ipv4.HEADER_LENGTH + len(payload)
        if total <= flow.mtu:
            # DF and ID 0: an atomic datagram (RFC 6864 section 4.1); a smaller MTU on the way is reported to us.
            fields = (0x45, 0, total, 0, ipv4.DONT_FRAGMENT, hops, protocol)
            ends = flow.local, flow.remote
            sum_of = checksum.checksum(ipv4.FIXED.pack(*fields, 0, *ends))
            return [(link + ipv4.FIXED.pack(*fields, sum_of, *ends), payload)]
        self._identification = self._identification + 1 & 0xFFFF
        step = flow.mtu - ipv4.HEADER_LENGTH & ~7
        frames: list[Frame] = []
        for offset in range(0, len(payload), step):
            piece = payload[offset : offset + step]
            more = ipv4.MORE_FRAGMENTS if offset + step < len(payload) else 0
            header = ipv4.Header(
                flow.local, flow.remote, protocol, len(piece), hops, self._identification, more | offset >> 3
            )
            frames.append((link + ipv4.build(header), piece))
        return frames

    def _ipv6(self, flow: Flow, protocol: int, payload: bytes, hops: int) -> list[Frame]:
        link = self._ethernet(flow, ethernet.TYPE_IPV6)
        if ipv6.HEADER_LENGTH + len(payload) <= flow.mtu:
            header = ipv6.Header(flow.local, flow.remote, protocol, len(payload), hops)
            return [(link + ipv6.build(header), payload)]
        # RFC 7739 section 5.3: a random identification per packet.
        identification = int.from_bytes(self._random(4), "big")
        step = flow.mtu - ipv6.HEADER_LENGTH - ipv6.FRAGMENT_LENGTH & ~7
        frames: list[Frame] = []
        for offset in range(0, len(payload), step):
            piece = payload[offset : offset + step]
            fragment = ipv6.Fragment(protocol, offset, offset + step < len(payload), identification)
            header = ipv6.Header(flow.local, flow.remote, ipv6.NEXT_FRAGMENT, ipv6.FRAGMENT_LENGTH + len(piece), hops)
            frames.append((link + ipv6.build(header) + ipv6.build_fragment(fragment), piece))
        return frames
