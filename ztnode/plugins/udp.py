"""The UDP transport: one IPv4 and one IPv6 socket on the same port, read and written in batches.

On Linux the kernel coalesces what came in (UDP_GRO) and cuts what goes out (UDP_SEGMENT), so that one system call
carries up to 64 KiB; elsewhere each datagram is a call of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import struct
import sys
from collections.abc import Callable, Sequence
from typing import Final

from ztnode.hookspecs import Datagrams, Endpoint, Transport, hookimpl

# linux/udp.h; the socket module names neither.
UDP_SEGMENT: Final = 103
UDP_GRO: Final = 104

# asm-generic/socket.h
SO_SNDBUFFORCE: Final = 32
SO_RCVBUFFORCE: Final = 33

MAX_SEGMENTS: Final = 64
"""UDP_MAX_SEGMENTS of the kernels before 6.9; newer ones allow 128, with the same limit of 64 KiB in all."""
MAX_GSO_BYTES: Final = 65000
RECEIVE_BYTES: Final = 65535
READS_PER_WAKEUP: Final = 64
"""Datagram reads before the event loop gets its turn again: bounds what one flood can hold up."""
SOCKET_BUFFER: Final = 4 << 20
GRO_ANCILLARY: Final = socket.CMSG_SPACE(4)
NO_SEGMENTATION: Final = {errno.EINVAL, errno.EIO, errno.EMSGSIZE, errno.ENOPROTOOPT, errno.EOPNOTSUPP}
"""What UDP_SEGMENT gives on old kernels, on devices without checksum offload, and on links whose MTU is too small."""
IP_MTU_DISCOVER: Final = 10  # linux/in.h
IP_PMTUDISC_DONT: Final = 0
_INT: Final = struct.Struct("=i")
_U16: Final = struct.Struct("=H")


class UdpTransport:
    """See ``hookspecs.Transport``."""

    def __init__(self) -> None:
        self._v4: socket.socket | None = None
        self._v6: socket.socket | None = None
        self._segmentation = sys.platform == "linux"
        self._receive: Callable[[Datagrams], None] = lambda _datagrams: None
        self.dropped = 0

    async def open(self, port: int, receive: Callable[[Datagrams], None]) -> None:
        """Bind both families to one port; IPv6 is left out on hosts without it. Raises OSError."""
        self._receive = receive
        self._v4 = self._bind(socket.AF_INET, "0.0.0.0", port)
        with contextlib.suppress(OSError):
            self._v6 = self._bind(socket.AF_INET6, "::", self._v4.getsockname()[1])
        loop = asyncio.get_running_loop()
        for bound in (self._v4, self._v6):
            if bound is not None:
                loop.add_reader(bound.fileno(), self._readable, bound)

    def _bind(self, family: socket.AddressFamily, host: str, port: int) -> socket.socket:
        bound = socket.socket(family, socket.SOCK_DGRAM)
        try:
            bound.setblocking(False)
            if family == socket.AF_INET6:
                bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            for option, beyond in ((socket.SO_RCVBUF, SO_RCVBUFFORCE), (socket.SO_SNDBUF, SO_SNDBUFFORCE)):
                bound.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER)
                if sys.platform == "linux":
                    with contextlib.suppress(OSError):  # for root alone; others get what net.core.rmem_max allows
                        bound.setsockopt(socket.SOL_SOCKET, beyond, SOCKET_BUFFER)
            if sys.platform == "linux":
                if family == socket.AF_INET:
                    # VL1 has no path-MTU discovery: let routers fragment rather than lose what is too large for them.
                    bound.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT)
                with contextlib.suppress(OSError):  # a kernel before 5.0
                    bound.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
            bound.bind((host, port))
        except BaseException:
            bound.close()
            raise
        return bound

    def _readable(self, bound: socket.socket) -> None:
        batch: list[tuple[bytes, Endpoint]] = []
        add = batch.append
        recvmsg = bound.recvmsg
        for _ in range(READS_PER_WAKEUP):
            try:
                data, ancillary, _flags, address = recvmsg(RECEIVE_BYTES, GRO_ANCILLARY)
            except (BlockingIOError, InterruptedError):
                break
            except OSError:  # an ICMP error of an earlier send; the paths find out by themselves
                continue
            endpoint = address[:2]
            if ancillary:
                size = _INT.unpack(ancillary[0][2][:4])[0]
                for start in range(0, len(data), size):
                    add((data[start : start + size], endpoint))
            else:
                add((data, endpoint))
        if batch:
            self._receive(batch)

    def send(self, endpoint: Endpoint, datagrams: Sequence[bytes]) -> int:
        """See ``hookspecs.Transport``. Runs of equal size leave in one system call."""
        bound = self._v6 if ":" in endpoint[0] else self._v4
        if bound is None:
            return len(datagrams)
        dropped = 0
        start, count = 0, len(datagrams)
        while start < count:
            end = self._run_end(datagrams, start) if self._segmentation else start + 1
            try:
                if end - start == 1:
                    bound.sendto(datagrams[start], endpoint)
                else:
                    size = _U16.pack(len(datagrams[start]))
                    bound.sendmsg(datagrams[start:end], [(socket.IPPROTO_UDP, UDP_SEGMENT, size)], 0, endpoint)
            except OSError as error:
                if end - start > 1 and error.errno in NO_SEGMENTATION:
                    self._segmentation = False
                    continue
                dropped += end - start
            start = end
        self.dropped += dropped
        return dropped

    @staticmethod
    def _run_end(datagrams: Sequence[bytes], start: int) -> int:
        """One past the last datagram that can leave with the one at ``start``: all of one size, the last may be
        shorter."""
        size = total = len(datagrams[start])
        end = start + 1
        limit = min(len(datagrams), start + MAX_SEGMENTS)
        while end < limit:
            length = len(datagrams[end])
            total += length
            if length > size or total > MAX_GSO_BYTES:
                break
            end += 1
            if length < size:
                break
        return end

    def local_endpoints(self) -> Sequence[Endpoint]:
        """See ``hookspecs.Transport``."""
        return [bound.getsockname()[:2] for bound in (self._v4, self._v6) if bound is not None]

    async def close(self) -> None:
        """See ``hookspecs.Transport``."""
        loop = asyncio.get_running_loop()
        for bound in (self._v4, self._v6):
            if bound is not None:
                loop.remove_reader(bound.fileno())
                bound.close()
        self._v4 = self._v6 = None


@hookimpl(trylast=True)
def ztnode_transport(name: str) -> Transport | None:
    """The transport named ``udp``."""
    return UdpTransport() if name == "udp" else None
