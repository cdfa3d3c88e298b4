"""Which stack worker a frame is for.

All workers are one host: they share its addresses, and every TCP or UDP port number belongs to one or to all of them.

======================================  =============================================================================
a TCP port of the ephemeral range       one worker each: the range is cut into one stretch per worker, from which it
                                        dials, so that the destination port alone names the owner of a dialled
                                        connection
any other TCP port                      all: each has a clone of every listener, and a hash of both ends' addresses
                                        and ports says whose connection a segment belongs to
a UDP port                              one worker each (a UDP socket is one socket): the ephemeral range as above,
                                        the others by their remainder
ICMP errors                             whose packet they quote
fragments                               whoever gets the first one, which names the ports (``fragment_steering``)
ARP replies, neighbour advertisements,  all: whoever did not ask and knows no such neighbour ignores them
gratuitous ARP
everything else                         the first: it answers echo, ARP and neighbour requests, and sends the pings
======================================  =============================================================================

So there is no table of connections to keep in step. The hash is Python's own of ``bytes``: SipHash with a key that is
drawn for each process, so that a peer cannot aim its connections at one worker.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ztnode.node.fragment_steering import FragmentSteering
from ztnode.ring import Buffer, Record
from ztnode.wire.ethernet import TYPE_ARP, TYPE_IPV4, TYPE_IPV6

EPHEMERAL: Final = (32768, 60999)
"""Local ports of dialled connections and unbound UDP sockets, both ends included; the range that Linux uses."""
UNBOUND_LISTENERS: Final = (61000, 65535)
"""TCP ports for listeners that name none: beyond the ephemeral range, so that all workers share them."""

_ALL: Final = -1
_SHARED: Final = 255
"""In the table of TCP ports: to be found by hash."""
_FIRST: Final = 0
_TCP, _UDP, _ICMP, _ICMPV6 = 6, 17, 1, 58
_ICMP_ERRORS: Final = frozenset((3, 4, 11, 12))
_ICMPV6_INFORMATIONAL: Final = 128
_ICMPV6_ADVERTISEMENT: Final = 136
_IPV6_EXTENSIONS: Final = frozenset((0, 43, 60))
"""Hop-by-hop options, routing, destination options: type of the next, length in 8 bytes less the first 8."""
_IPV6_FRAGMENT: Final = 44
_ARP_REPLY: Final = 2
_ETHERNET: Final = 14


class Steering:
    """Owner of each frame among ``workers`` workers (at most 254). ``counters`` gets what is lost on the way."""

    def __init__(self, workers: int, counters: dict[str, int]) -> None:
        first, last = EPHEMERAL
        self._workers = workers
        self._stretch = (last - first + 1) // workers
        by_turns = bytes(range(workers)) * -(-65536 // workers)
        diallers = b"".join(bytes((worker,)) * len(range(*self._stretch_of(worker))) for worker in range(workers))
        shared = bytes((_SHARED,))
        self._tcp = shared * first + diallers + shared * (65535 - last)
        self._udp = by_turns[:first] + diallers + by_turns[last + 1 : 65536]
        self.fragments = FragmentSteering(counters)

    def _stretch_of(self, worker: int) -> tuple[int, int]:
        """The first ephemeral port of a worker, and the first that is not its own."""
        first = EPHEMERAL[0] + worker * self._stretch
        return first, EPHEMERAL[1] + 1 if worker == self._workers - 1 else first + self._stretch

    def ephemeral(self, worker: int) -> tuple[int, int]:
        """The first and last ephemeral port of a worker."""
        first, end = self._stretch_of(worker)
        return first, end - 1

    def listening(self, port: int) -> Sequence[int]:
        """The workers at which connections to a TCP port arrive: all, or the one that dials from this number."""
        owner = self._tcp[port]
        return range(self._workers) if owner == _SHARED else (owner,)

    def udp_owner(self, port: int) -> int:
        """The worker at which datagrams to a port arrive."""
        return self._udp[port]

    def split(self, records: Sequence[Record]) -> list[list[Record]]:
        """The records for each worker, in order."""
        workers = self._workers
        lists: list[list[Record]] = [[] for _ in range(workers)]
        tcp = self._tcp
        for record in records:
            parts = record[1]
            header = parts[0]
            packet = parts[1] if len(header) == _ETHERNET and len(parts) > 1 else memoryview(header)[_ETHERNET:]
            try:
                ethertype = header[12] << 8 | header[13]
                # Plain TCP over IPv4, whole: what a hot path carries.
                if (
                    packet[0] == 0x45
                    and packet[9] == _TCP
                    and ethertype == TYPE_IPV4
                    and not (packet[6] & 0x3F or packet[7])
                ):
                    dialler = tcp[packet[22] << 8 | packet[23]]
                    lists[hash(bytes(packet[12:24])) % workers if dialler == _SHARED else dialler].append(record)
                    continue
                owner = self._other(ethertype, packet, record, lists)
            except IndexError:
                owner = _FIRST  # too short: any stack will count it as malformed
            if owner == _ALL:
                for each in lists:
                    each.append(record)
            elif owner is not None:
                lists[owner].append(record)
        return lists

    def _other(self, ethertype: int, packet: Buffer, record: Record, lists: list[list[Record]]) -> int | None:
        """The owner of a frame, None when it has been put into its list already, or waits. Raises IndexError."""
        if ethertype == TYPE_IPV4:
            addresses = bytes(packet[12:20])
            protocol = packet[9]
            start = (packet[0] & 15) << 2
            if not (packet[6] & 0x3F or packet[7]):
                return self._upper(protocol, addresses, packet, start)
            key = (record[0], addresses, protocol, bytes(packet[4:6]))
            offset, more = (packet[6] & 0x1F) << 11 | packet[7] << 3, bool(packet[6] & 0x20)
            end = packet[2] << 8 | packet[3]
        elif ethertype == TYPE_IPV6:
            addresses = bytes(packet[8:40])
            protocol, start, fragment = _skip_extensions(packet, packet[6], 40)
            if not fragment:
                return self._upper(protocol, addresses, packet, start)
            word = packet[fragment + 2] << 8 | packet[fragment + 3]
            key = (record[0], addresses, 0, bytes(packet[fragment + 4 : fragment + 8]))
            offset, more = word & 0xFFF8, bool(word & 1)
            end = 40 + (packet[4] << 8 | packet[5])
        elif ethertype == TYPE_ARP:
            announcement = packet[14:18] == packet[24:28]  # RFC 5227 section 3: nobody is to answer
            return _ALL if packet[7] == _ARP_REPLY or announcement else _FIRST
        else:
            return _FIRST
        first = None if offset else max(self._upper(protocol, addresses, packet, start), _FIRST)
        owner, ready = self.fragments.add(key, first, offset, max(end - start, 0), more, record)
        lists[owner].extend(ready)
        return None

    def _upper(self, protocol: int, addresses: bytes, packet: Buffer, start: int) -> int:
        """The owner of what is in an IP packet. Raises IndexError when it is too short to tell."""
        if protocol == _TCP:
            owner = self._tcp[packet[start + 2] << 8 | packet[start + 3]]
            return owner if owner != _SHARED else hash(addresses + packet[start : start + 4]) % self._workers
        if protocol == _UDP:
            return self._udp[packet[start + 2] << 8 | packet[start + 3]]
        kind = packet[start]
        if protocol == _ICMP and kind in _ICMP_ERRORS:
            return self._quoted(packet[start + 8 :])
        if protocol == _ICMPV6:
            if kind == _ICMPV6_ADVERTISEMENT:
                return _ALL
            if kind < _ICMPV6_INFORMATIONAL:
                return self._quoted(packet[start + 8 :])
        return _FIRST

    def _quoted(self, packet: Buffer) -> int:
        """The owner of a packet that came back inside an error: one that we sent."""
        if packet[0] >> 4 == 4:
            if packet[6] & 0x1F or packet[7]:
                return _FIRST  # not the first fragment: the port numbers are not in it
            protocol, start, size = packet[9], (packet[0] & 15) << 2, 4
            source = 12
        else:
            protocol, start, fragment = _skip_extensions(packet, packet[6], 40)
            if fragment and (packet[fragment + 2] or packet[fragment + 3] & 0xF8):
                return _FIRST
            source, size = 8, 16
        port = packet[start] << 8 | packet[start + 1]
        if protocol == _UDP:
            return self._udp[port]
        if protocol != _TCP:
            return _FIRST
        owner = self._tcp[port]
        if owner != _SHARED:
            return owner
        middle = source + size
        way_in = (packet[middle : middle + size], packet[source:middle], packet[start + 2 : start + 4])
        return hash(b"".join((*way_in, packet[start : start + 2]))) % self._workers


def _skip_extensions(packet: Buffer, protocol: int, start: int) -> tuple[int, int, int]:
    """(upper-layer protocol, where it starts, where the fragment header is: 0 when there is none or it holds the whole)
    of an IPv6 packet. Raises IndexError."""
    fragment = 0
    while True:
        if protocol in _IPV6_EXTENSIONS:
            protocol, start = packet[start], start + 8 + (packet[start + 1] << 3)
        elif protocol == _IPV6_FRAGMENT:
            if packet[start + 2] or packet[start + 3] & 0xF9:
                fragment = start
            protocol, start = packet[start], start + 8
            if fragment and (packet[fragment + 2] or packet[fragment + 3] & 0xF8):
                return protocol, start, fragment  # what follows is the middle of a fragmented packet
        else:
            return protocol, start, fragment
