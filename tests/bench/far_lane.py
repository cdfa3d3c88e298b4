"""A lane between a worker and the peer that a bench plays: the two messages that set it up, the worker's socket, and
the peer's end, which is a lane of its own on a UDP socket of loopback."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from ztnode.datagrams.many_datagrams import ManyDatagrams
from ztnode.plugins.udp import SOCKET_BUFFER
from ztnode.wire.aes_gmac_siv import AesGmacSiv
from ztnode.worker.lane import Lane
from ztnode.worker.protocol import LaneTerms, LaneUp

if TYPE_CHECKING:
    from ztnode.netstack.frame import Frame

_OWN, _PEER = 0x1122334455, 0x5544332211
_MTU: Final = 1432
_REMEMBERED: Final = 8192
_IPV4: Final = b"\x08\x00"
_ID: Final = 1
_LASTS: Final = 86400.0
"""Seconds: longer than any bench."""


class FarLane:
    """The peer's end."""

    def __init__(self, nwid: int, own_mac: int, peer_mac: int) -> None:
        """The MACs of the worker's port and of the peer."""
        keys = os.urandom(64)
        self.up = LaneUp(_ID, 0, nwid, _OWN, _PEER, own_mac, peer_mac, _MTU, _REMEMBERED, keys)
        self.terms = LaneTerms(_ID, (0x0800,), time.monotonic() + _LASTS)
        self.carried = 0
        """Packets from the worker."""
        mirrored = LaneUp(_ID, 0, nwid, _PEER, _OWN, peer_mac, own_mac, _MTU, _REMEMBERED, keys)
        self._lane = Lane(mirrored, AesGmacSiv(keys[:32], keys[32:]), os.urandom)
        self._lane.agree(self.terms)
        self._many = ManyDatagrams()
        self._sock, self.worker_end = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
        for sock in (self._sock, self.worker_end):
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER)
            sock.bind(("127.0.0.1", 0))
        self._sock.connect(self.worker_end.getsockname())
        self.worker_end.connect(self._sock.getsockname())

    def receive(self, now: float) -> list[memoryview]:
        """Frames that came from the worker."""
        frames: list[memoryview] = []
        while self._many.fill(self._sock.fileno()):
            frames += self._lane.receive(self._many.copies(), now)[0]
        self.carried += len(frames)
        self._lane.opened_ids.clear()
        return frames

    def send(self, frames: Sequence[tuple[int, Frame]], now: float) -> list[tuple[int, Frame]]:
        """Frames to the worker, each datagram by itself, as zerotier-one sends them. The rest goes by the ring."""
        carried = [frame for _, frame in frames if frame[0][12:14] == _IPV4]
        for datagram in self._lane.seal(carried, now):
            self._sock.send(datagram)
        return [record for record in frames if record[1][0][12:14] != _IPV4]

    def fileno(self) -> int:
        """Readable when something came from the worker."""
        return self._sock.fileno()

    def close(self) -> None:
        """Close both sockets."""
        self._sock.close()
        self.worker_end.close()
