"""Which stack worker a frame is for.

Each worker is a host of its own that shares addresses with its siblings, told apart by port number alone: the ephemeral
range is cut into one stretch per worker, every other port number belongs to one worker by its remainder. So the
destination port of a frame names its worker, with no table of connections to keep in step.

What has no port number goes to the first worker, which answers echo requests, ARP and neighbour solicitations, but for
answers and error reports: those go to all, and whoever did not ask ignores them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ztnode.ring import Record

EPHEMERAL: Final = (32768, 60999)
"""Local ports of dialled connections, both ends included; the range that Linux uses."""

_ALL: Final = -1
_TCP, _UDP, _ICMP, _ICMPV6 = 6, 17, 1, 58
_ICMP_ECHO_REQUEST: Final = 8
_ICMPV6_FIRST_ONLY: Final = (128, 135)
"""Echo request and neighbour solicitation: one answer is enough."""
_ARP_REPLY: Final = 2
_ETHERNET: Final = 14


class Steering:
    """Owner of each port number among ``workers`` workers."""

    def __init__(self, workers: int) -> None:
        first, last = EPHEMERAL
        self._workers = workers
        self._stretch = (last - first + 1) // workers
        self._owners = bytes(
            min((port - first) // self._stretch, workers - 1) if first <= port <= last else port % workers
            for port in range(65536)
        )

    def ephemeral(self, worker: int) -> tuple[int, int]:
        """The first and last ephemeral port of a worker."""
        first = EPHEMERAL[0] + worker * self._stretch
        return first, EPHEMERAL[1] if worker == self._workers - 1 else first + self._stretch - 1

    def owner(self, port: int) -> int:
        """The worker that a port number belongs to."""
        return self._owners[port]

    def split(self, records: Sequence[Record]) -> list[list[Record]]:
        """The records for each worker, in order."""
        lists: list[list[Record]] = [[] for _ in range(self._workers)]
        for record in records:
            owner = self._frame_owner(record)
            if owner == _ALL:
                for each in lists:
                    each.append(record)
            else:
                lists[owner].append(record)
        return lists

    def _frame_owner(self, record: Record) -> int:
        parts = record[1]
        header = parts[0]
        packet = parts[1] if len(header) == _ETHERNET and len(parts) > 1 else memoryview(header)[_ETHERNET:]
        try:
            ethertype = header[12] << 8 | header[13]
            if ethertype == 0x0800:
                transport = (packet[0] & 15) << 2
                protocol = packet[9]
                if packet[6] & 0x3F or packet[7]:
                    return 0  # of a fragment the first worker reassembles; TCP does not send any
            elif ethertype == 0x86DD:
                transport = 40
                protocol = packet[6]
            elif ethertype == 0x0806:
                return _ALL if packet[7] == _ARP_REPLY else 0
            else:
                return 0
            if protocol in (_TCP, _UDP):
                return self._owners[packet[transport + 2] << 8 | packet[transport + 3]]
            if protocol == _ICMP:
                return 0 if packet[transport] == _ICMP_ECHO_REQUEST else _ALL
            if protocol == _ICMPV6:
                return 0 if packet[transport] in _ICMPV6_FIRST_ONLY else _ALL
        except IndexError:
            pass  # too short: any stack will count it as malformed
        return 0
