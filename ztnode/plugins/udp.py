"""The UDP transport: one IPv4 and one IPv6 socket on the same port, read and written in batches.

On Linux the kernel coalesces what came in (UDP_GRO) and cuts what goes out (UDP_SEGMENT), so that one system call
carries up to 64 KiB, and one call takes 64 datagrams that cannot be coalesced (``many_datagrams``); elsewhere each
datagram is a call of its own.

There, too, each of the busiest peers has a socket of its own on the same port, connected to it: the kernel gives a
datagram to the connected socket before all others, so a flood of strangers fills another queue than the peers'. It
comes from the kernel's accounts that this is needed: a datagram of 29 bytes takes 768 of a queue, and 212 KB is what
a queue may have by default.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import sys
from collections.abc import Callable, Sequence
from typing import Final

from ztnode.datagrams.many_datagrams import ManyDatagrams
from ztnode.datagrams.segmentation import DatagramSender
from ztnode.hookspecs import Datagrams, Endpoint, Transport, hookimpl
from ztnode.socket_watch import Watch

# linux/udp.h; the socket module does not name it.
UDP_GRO: Final = 104

# asm-generic/socket.h
SO_SNDBUFFORCE: Final = 32
SO_RCVBUFFORCE: Final = 33

RECEIVE_BYTES: Final = 65535
READS_PER_WAKEUP: Final = 64
"""Datagram reads before the event loop gets its turn again: bounds what one flood can hold up. (``many_datagrams``: one
call, of as many slots as it has.)"""
SOCKET_BUFFER: Final = 4 << 20
IP_MTU_DISCOVER: Final = 10  # linux/in.h
IP_PMTUDISC_DONT: Final = 0
PROBES: Final = 32
"""Other ports, from which datagrams to one place may take several ways (ECMP by port), until one takes ours: each is
20 µs, and more than one is asked only then or when our way is none any more."""
NO_MORE: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
"""Errors of a process or system that has no room for another socket."""


class UdpTransport:
    """See ``hookspecs.Transport``."""

    def __init__(self, *, ipv6: bool = True, queue: int = SOCKET_BUFFER) -> None:
        """``ipv6``: whether there is a socket for that too. ``queue``: bytes that each holds at most, either way."""
        self._ipv6 = ipv6
        self._queue = queue
        self._v4: socket.socket | None = None
        self._v6: socket.socket | None = None
        self._sender = DatagramSender()
        self._favored: dict[Endpoint, tuple[socket.socket, Watch]] = {}
        self._lent: dict[Endpoint, str] = {}
        """With our own address on the way there, which a connected socket keeps."""
        self._others: asyncio.TimerHandle | None = None
        self._receive: Callable[[Datagrams], None] = lambda _datagrams: None
        self._many: ManyDatagrams | None = None
        with contextlib.suppress(OSError):
            self._many = ManyDatagrams()
        self.dropped = 0

    async def open(self, port: int, receive: Callable[[Datagrams], None]) -> None:
        """See ``hookspecs.Transport``."""
        self.bind(port, receive)

    def bind(self, port: int, receive: Callable[[Datagrams], None]) -> None:
        """Bind both families to one port; IPv6 is left out on hosts without it. Raises OSError."""
        self._receive = receive
        self._v4 = self._bind(socket.AF_INET, "0.0.0.0", port)
        if self._ipv6:
            with contextlib.suppress(OSError):
                self._v6 = self._bind(socket.AF_INET6, "::", self._v4.getsockname()[1])
        self._read_others()

    def _bind(self, family: socket.AddressFamily, host: str, port: int, *, beside: bool = False) -> socket.socket:
        bound = socket.socket(family, socket.SOCK_DGRAM)
        try:
            bound.setblocking(False)
            if beside:
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            for option, beyond in ((socket.SO_RCVBUF, SO_RCVBUFFORCE), (socket.SO_SNDBUF, SO_SNDBUFFORCE)):
                bound.setsockopt(socket.SOL_SOCKET, option, self._queue)
                if sys.platform == "linux":
                    with contextlib.suppress(OSError):  # for root alone; others get what net.core.rmem_max allows
                        bound.setsockopt(socket.SOL_SOCKET, beyond, self._queue)
            if sys.platform == "linux" and family == socket.AF_INET:
                # VL1 has no path-MTU discovery: let routers fragment rather than lose what is too large for them.
                bound.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT)
            if self._many is not None:
                with contextlib.suppress(OSError):  # a kernel before 5.0
                    bound.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
            bound.bind((host, port))
        except BaseException:
            bound.close()
            raise
        return bound

    def _readable(self, bound: socket.socket) -> None:
        batch: list[tuple[bytes, Endpoint]] = []
        if self._many is None:
            self._read_singly(bound, batch)
        else:
            try:  # noqa: SIM105 - suppress() is three calls more for each frame
                self._many.read(bound.fileno(), batch.append)
            except OSError:  # an ICMP error of an earlier send; the paths find out by themselves
                pass
        if batch:
            self._receive(batch)

    @staticmethod
    def _read_singly(bound: socket.socket, batch: list[tuple[bytes, Endpoint]]) -> None:
        recvfrom = bound.recvfrom
        for _ in range(READS_PER_WAKEUP):
            try:
                data, address = recvfrom(RECEIVE_BYTES)
            except (BlockingIOError, InterruptedError):
                break
            except OSError:  # as above
                continue
            batch.append((data, address[:2]))

    def favor(self, endpoints: Sequence[Endpoint]) -> None:
        """See ``hookspecs.TellsPeersApart``. Takes a socket for each; on Linux alone."""
        wanted = [endpoint for endpoint in endpoints if endpoint not in self._lent] if sys.platform == "linux" else ()
        for endpoint in self._favored.keys() - set(wanted):
            self._unfavor(endpoint)
        for endpoint in wanted:
            if endpoint not in self._favored and (connected := self._connected(endpoint)) is not None:
                try:
                    self._favored[endpoint] = connected, Watch(connected, self._readable, connected)
                except OSError:
                    connected.close()

    def _unfavor(self, endpoint: Endpoint) -> None:
        lane, watch = self._favored.pop(endpoint)
        self._readable(lane)  # what is in its queue
        watch.stop()
        lane.close()

    def lend(self, endpoint: Endpoint) -> socket.socket | None:
        """See ``hookspecs.LendsSockets``. On Linux alone."""
        if sys.platform != "linux" or endpoint in self._lent:
            return None
        self._lent[endpoint] = ""  # from here on nobody favors it
        if endpoint in self._favored:  # whose socket may have our own address of yesterday
            self._unfavor(endpoint)
        lane = self._connected(endpoint)
        if lane is None:
            del self._lent[endpoint]
            return None
        own = lane.getsockname()[0]
        with contextlib.suppress(OSError):  # as is asked later: rules of routing may name our port
            if not _may_leave_from(own, endpoint):
                own = _own_address(endpoint)
        self._lent[endpoint] = own
        self._readable(lane)  # what came before it was connected may be anybody's
        return lane

    def leads_to(self, endpoint: Endpoint) -> bool:
        """See ``hookspecs.LendsSockets``. The shared socket's datagrams get their source address one by one."""
        if endpoint not in self._lent:
            return False
        try:
            return _may_leave_from(self._lent[endpoint], endpoint)
        except OSError as error:
            return error.errno in NO_MORE  # which says nothing about the way

    def take_back(self, endpoint: Endpoint) -> None:
        """See ``hookspecs.LendsSockets``."""
        self._lent.pop(endpoint, None)

    def _connected(self, endpoint: Endpoint) -> socket.socket | None:
        """A socket on our port that gets what comes from ``endpoint``; None where there can be none. Strangers'
        datagrams that came to it before it was connected are in it, too."""
        shared = self._v6 if ":" in endpoint[0] else self._v4
        if shared is None:
            return None
        host, port = shared.getsockname()[:2]
        lane: socket.socket | None = None
        try:
            # Both must allow it, and the shared socket for this moment alone: a second node on this port is to fail.
            shared.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            lane = self._bind(shared.family, host, port, beside=True)
            lane.connect(endpoint)
        except (OSError, OverflowError):
            if lane is not None:
                lane.close()
            return None
        finally:
            shared.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)
        return lane

    def let_others_wait(self, seconds: float) -> None:
        """See ``hookspecs.TellsPeersApart``. Nothing happens while there is nobody but others."""
        if not (self._favored or self._lent) or self._others is not None:
            return
        loop = asyncio.get_running_loop()
        for bound in (self._v4, self._v6):
            if bound is not None:
                loop.remove_reader(bound.fileno())
        self._others = loop.call_later(seconds, self._read_others)

    def _read_others(self) -> None:
        self._others = None
        loop = asyncio.get_running_loop()
        for bound in (self._v4, self._v6):
            if bound is not None:
                loop.add_reader(bound.fileno(), self._readable, bound)

    def send(self, endpoint: Endpoint, datagrams: Sequence[bytes]) -> int:
        """See ``hookspecs.Transport``. Runs of equal size leave in one system call."""
        bound = self._v6 if ":" in endpoint[0] else self._v4
        if bound is None:
            return len(datagrams)
        dropped = self._sender.send(bound, datagrams, endpoint)
        if dropped:
            self.dropped += dropped
        return dropped

    def local_endpoints(self) -> Sequence[Endpoint]:
        """See ``hookspecs.Transport``."""
        return [bound.getsockname()[:2] for bound in (self._v4, self._v6) if bound is not None]

    async def close(self) -> None:
        """See ``hookspecs.Transport``."""
        self.unbind()

    def unbind(self) -> None:
        """Close the sockets, where there are any."""
        loop = asyncio.get_running_loop()
        if self._others is not None:
            self._others.cancel()
            self._others = None
        for bound in (self._v4, self._v6):
            if bound is not None:
                loop.remove_reader(bound.fileno())
                bound.close()
        for lane, watch in self._favored.values():
            watch.stop()
            lane.close()
        self._v4 = self._v6 = None
        self._favored.clear()
        self._lent.clear()


def _own_address(endpoint: Endpoint) -> str:
    """Ours in a datagram that would leave for there now. Raises OSError."""
    with socket.socket(socket.AF_INET6 if ":" in endpoint[0] else socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(endpoint)  # which sends nothing
        own: str = probe.getsockname()[0]
        return own


def _may_leave_from(own: str, endpoint: Endpoint) -> bool:
    """Whether this is our address on a way there. Raises OSError."""
    return any(_own_address(endpoint) == own for _ in range(PROBES))


@hookimpl(trylast=True)
def ztnode_transport(name: str) -> Transport | None:
    """The transport named ``udp``."""
    return UdpTransport() if name == "udp" else None
