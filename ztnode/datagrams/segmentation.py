"""Runs of datagrams by one system call: UDP_SEGMENT, where the system has it."""

from __future__ import annotations

import errno
import socket
import struct
import sys
import time
from collections.abc import Callable, Sequence
from typing import Final

from ztnode.wire.buffer import Buffer
from ztnode.wire.endpoint import Endpoint

# linux/udp.h; the socket module does not name it.
UDP_SEGMENT: Final = 103
MAX_SEGMENTS: Final = 64
"""UDP_MAX_SEGMENTS of the kernels before 6.9; newer ones allow 128, with the same limit of 64 KiB in all."""
MAX_GSO_BYTES: Final = 65000
NO_SEGMENTATION: Final = {errno.EINVAL, errno.EIO, errno.EMSGSIZE, errno.ENOPROTOOPT, errno.EOPNOTSUPP}
"""What UDP_SEGMENT gives on old kernels, on devices without checksum offload, and where the MTU of the link or path is
too small: a datagram alone leaves in IP fragments there."""
MAX_REFUSED: Final = 1024
"""Places of which it is remembered what they refused."""
REFUSED_SECONDS: Final = 600.0
"""And for so long: a way may have become wider (RFC 8899, section 5.1.1, PMTU_RAISE_TIMER; RFC 1191, section 6.3)."""
_U16: Final = struct.Struct("=H")


class DatagramSender:
    """Sends batches by whichever socket; remembers where the system does not cut datagrams: the way to one place may be
    narrower than those to others."""

    __slots__ = ("_clock", "_refused", "segmentation")

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """``clock``: seconds; asked only for places that refused something."""
        self._clock = clock
        self.segmentation = sys.platform == "linux"
        """Whether runs of equal size leave in one call."""
        self._refused: dict[Endpoint | None, tuple[int, float]] = {}
        """By place, the size of the shortest datagrams of which a run was refused, and until when that counts."""

    def send(self, bound: socket.socket, datagrams: Sequence[bytes], endpoint: Endpoint | None) -> int:
        """Send to ``endpoint``, or (None) to where the socket is connected. Returns how many were dropped."""
        count = len(datagrams)
        if count == 1:  # as most that carry a small request
            try:
                _send_one(bound, datagrams[0], endpoint)
            except OSError:
                return 1
            return 0
        start = dropped = 0
        too_long = self._too_long(endpoint)
        while start < count:
            end = run_end(datagrams, start) if len(datagrams[start]) < too_long else start + 1
            try:
                if end - start == 1:
                    _send_one(bound, datagrams[start], endpoint)
                else:
                    _send_run(bound, datagrams[start:end], len(datagrams[start]), endpoint)
            except OSError as error:
                if end - start > 1 and error.errno in NO_SEGMENTATION:
                    too_long = self._refuse(endpoint, len(datagrams[start]))
                    continue
                dropped += end - start
            start = end
        return dropped

    def send_block(self, bound: socket.socket, block: memoryview, size: int) -> int:
        """Send datagrams of ``size`` bytes each, one behind the other in ``block``, to where the socket is connected.
        Returns how many were dropped."""
        step = min(MAX_SEGMENTS, MAX_GSO_BYTES // size) * size
        dropped = 0
        too_long = self._too_long(None)
        for start in range(0, len(block), step):
            part = block[start : start + step]
            if size < too_long:
                try:
                    _send_run(bound, (part,), size, None)
                    continue
                except OSError as error:
                    if error.errno not in NO_SEGMENTATION:
                        dropped += len(part) // size
                        continue
                    too_long = self._refuse(None, size)
            dropped += self.send(bound, [part[at : at + size].tobytes() for at in range(0, len(part), size)], None)
        return dropped

    def _too_long(self, endpoint: Endpoint | None) -> int:
        """From which size on datagrams to this place leave one by one, bytes."""
        if not self.segmentation:
            return 0
        refused = self._refused.get(endpoint)
        if refused is None:
            return MAX_GSO_BYTES + 1
        size, until = refused
        if self._clock() < until:
            return size
        del self._refused[endpoint]
        return MAX_GSO_BYTES + 1

    def _refuse(self, endpoint: Endpoint | None, size: int) -> int:
        """A run of this size was refused. The new size from which on datagrams leave one by one: this one."""
        if len(self._refused) >= MAX_REFUSED:
            self._refused.clear()
        self._refused[endpoint] = size, self._clock() + REFUSED_SECONDS
        return size


def _send_one(bound: socket.socket, datagram: bytes, endpoint: Endpoint | None) -> None:
    if endpoint is not None:
        bound.sendto(datagram, endpoint)
        return
    try:
        bound.send(datagram)
    except BlockingIOError:
        raise
    except OSError:
        # What ICMP said of an earlier one, perhaps: a connected socket is told, anybody can say it, and the next call
        # sends.
        bound.send(datagram)


def _send_run(bound: socket.socket, parts: Sequence[Buffer], size: int, endpoint: Endpoint | None) -> None:
    cut = [(socket.IPPROTO_UDP, UDP_SEGMENT, _U16.pack(size))]
    if endpoint is not None:
        bound.sendmsg(parts, cut, 0, endpoint)
        return
    try:
        bound.sendmsg(parts, cut)
    except BlockingIOError:
        raise
    except OSError:  # as above; "protocol unreachable" is what a system says, too, that cannot cut
        bound.sendmsg(parts, cut)


def run_end(datagrams: Sequence[bytes], start: int) -> int:
    """One past the last datagram that can leave with the one at ``start``: all of one size, the last may be shorter."""
    lengths = list(map(len, datagrams[start : start + MAX_SEGMENTS]))
    size, count = lengths[0], len(lengths)
    if lengths.count(size) == count and size * count <= MAX_GSO_BYTES:  # as small requests mostly are
        return start + count
    total = size
    end = 1
    while end < count:
        length = lengths[end]
        total += length
        if length > size or total > MAX_GSO_BYTES:
            break
        end += 1
        if length < size:
            break
    return start + end
