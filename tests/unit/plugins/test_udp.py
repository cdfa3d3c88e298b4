"""The UDP transport over loopback: batches arrive whole, in order, from both families."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import itertools
import socket
import sys
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ztnode.datagrams.many_datagrams import SLOTS, ManyDatagrams
from ztnode.datagrams.segmentation import (
    MAX_GSO_BYTES,
    MAX_REFUSED,
    MAX_SEGMENTS,
    REFUSED_SECONDS,
    DatagramSender,
    run_end,
)
from ztnode.hookspecs import Datagrams, Endpoint
from ztnode.plugins import udp
from ztnode.plugins.udp import UdpTransport


async def exchange(datagrams: list[bytes], host: str, *, segmentation: bool = True) -> list[bytes]:
    """Send the datagrams from one transport to another; what arrived, in order."""
    got: list[bytes] = []
    done = asyncio.Event()

    def receive(batch: Datagrams) -> None:
        got.extend(data for data, _ in batch)
        if len(got) >= len(datagrams):
            done.set()

    sender, receiver = UdpTransport(), UdpTransport()
    await sender.open(0, lambda batch: None)
    await receiver.open(0, receive)
    sender._sender.segmentation &= segmentation
    try:
        port = receiver.local_endpoints()[0][1]
        assert sender.send((host, port), datagrams) == 0
        async with asyncio.timeout(5):
            await done.wait()
    finally:
        await sender.close()
        await receiver.close()
    return got


@pytest.mark.parametrize("segmentation", [True, False])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_batches_arrive_as_they_were(host: str, segmentation: bool) -> None:
    sizes = [1432] * 70 + [1400, 1432, 1432, 16, 16, 900, 901, 1]
    datagrams = [bytes([index & 255]) * size for index, size in enumerate(sizes)]
    assert asyncio.run(exchange(datagrams, host, segmentation=segmentation)) == datagrams


@given(st.lists(st.sampled_from((40, 1200, 1200, 1200, 1300, 65000)), min_size=1, max_size=150), st.data())
def test_a_run_is_of_one_size_but_for_a_shorter_last(sizes: list[int], data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(sizes) - 1))
    end = run_end([bytes(size) for size in sizes], start)
    run = sizes[start:end]
    assert 1 <= len(run) <= MAX_SEGMENTS
    assert len(run) == 1 or sum(run) <= MAX_GSO_BYTES
    assert set(run[:-1]) <= {run[0]} and run[-1] <= run[0]
    if end < len(sizes):  # the next does not go with them
        assert (
            len(run) == MAX_SEGMENTS or run[-1] < run[0] or sizes[end] > run[0] or sum(run) + sizes[end] > MAX_GSO_BYTES
        )


def test_without_recvmmsg_each_datagram_is_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise OSError("no such call")

    monkeypatch.setattr("ztnode.plugins.udp.ManyDatagrams", missing)
    datagrams = [bytes([index]) * size for index, size in enumerate([1432, 1394] * 40)]
    assert asyncio.run(exchange(datagrams, "127.0.0.1")) == datagrams


@pytest.mark.skipif(sys.platform != "linux", reason="recvmmsg is Linux's")
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_one_call_takes_what_is_there(host: str) -> None:
    """Whatever the sizes, more than one call holds, from several senders: all of it, in order, from whom it came."""
    many = ManyDatagrams()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sent: list[tuple[bytes, Endpoint]] = []
    got: list[tuple[bytes, Endpoint]] = []
    with socket.socket(family, socket.SOCK_DGRAM) as receiver, contextlib.ExitStack() as stack:
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        receiver.bind((host, 0))
        senders = [stack.enter_context(socket.socket(family, socket.SOCK_DGRAM)) for _ in range(3)]
        for index in range(SLOTS + 8):
            sender = senders[index % 3]
            sender.sendto(data := bytes([index]) * (index * 37 % 1433), receiver.getsockname())
            sent.append((data, (host, sender.getsockname()[1])))
        assert many.read(receiver.fileno(), got.append) == SLOTS
        assert many.read(receiver.fileno(), got.append) == 8
        with pytest.raises(BlockingIOError):
            many.read(receiver.fileno(), got.append)
    assert got == sent


def test_the_source_is_the_senders_endpoint() -> None:
    async def run() -> tuple[Endpoint, Endpoint]:
        source: asyncio.Future[Endpoint] = asyncio.get_running_loop().create_future()
        sender, receiver = UdpTransport(), UdpTransport()
        await sender.open(0, lambda batch: None)
        await receiver.open(0, lambda batch: source.set_result(batch[0][1]))
        sender.send(("127.0.0.1", receiver.local_endpoints()[0][1]), [b"x"])
        result = await asyncio.wait_for(source, 30)
        bound = sender.local_endpoints()[0]
        await sender.close()
        await receiver.close()
        return result, bound

    source, bound = asyncio.run(run())
    assert source == ("127.0.0.1", bound[1])


def test_what_cannot_be_sent_is_counted() -> None:
    async def run() -> int:
        sender = UdpTransport()
        await sender.open(0, lambda batch: None)
        sender.send(("127.0.0.1", 9), [bytes(70000)])
        await sender.close()
        return sender.dropped

    assert asyncio.run(run()) == 1


def test_a_port_in_use_is_an_error() -> None:
    async def run() -> None:
        first, second = UdpTransport(), UdpTransport()
        await first.open(0, lambda batch: None)
        try:
            await second.open(first.local_endpoints()[0][1], lambda batch: None)
        finally:
            await first.close()

    with pytest.raises(OSError, match="in use"):
        asyncio.run(run())


@pytest.mark.skipif(sys.platform != "linux", reason="other kernels do not choose the connected one")
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_flood_of_strangers_fills_another_queue_than_a_favored_peers(host: str) -> None:
    async def run() -> tuple[list[bytes], list[bytes]]:
        got: list[bytes] = []
        more = asyncio.Event()

        def receive(batch: Datagrams) -> None:
            got.extend(data for data, _ in batch)
            more.set()

        receiver, peer = UdpTransport(), UdpTransport()
        await receiver.open(0, receive)
        await peer.open(0, lambda batch: None)
        port = receiver.local_endpoints()[0][1]
        receiver.favor([(host, peer.local_endpoints()[0][1])])
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as stranger:
            for _ in range(20_000):  # 15 MB in the kernel's accounts: three times what the queue may have
                stranger.sendto(b"junk", (host, port))
        frames = [number.to_bytes(2, "big") * 700 for number in range(100)]
        peer.send((host, port), frames)
        receiver.let_others_wait(30)
        while len(got) < len(frames):
            more.clear()
            await more.wait()
        of_the_peer = list(got)
        receiver.favor([])  # the peer is nobody special any more
        receiver._read_others()
        while b"after" not in got:
            more.clear()
            peer.send((host, port), [b"after"])
            await more.wait()
        await peer.close()
        await receiver.close()
        return frames, of_the_peer

    frames, of_the_peer = asyncio.run(run())
    assert of_the_peer == frames


class Told:
    """A connected socket that ICMP has told something."""

    def __init__(self, errors: list[int]) -> None:
        self.errors = errors
        self.sent: list[bytes] = []

    def send(self, datagram: bytes) -> None:
        if self.errors:
            raise OSError(self.errors.pop(), "told")
        self.sent.append(datagram)

    def sendmsg(self, datagrams: Sequence[bytes], _control: object) -> None:
        if self.errors:
            raise OSError(self.errors.pop(), "told")
        self.sent += datagrams


@pytest.mark.parametrize("number", [errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENOPROTOOPT, errno.EMSGSIZE])
@pytest.mark.parametrize("count", [1, 3])
def test_what_icmp_says_costs_a_connected_socket_nothing(number: int, count: int) -> None:
    """Who knows two addresses and ports can have it say anything: "administratively prohibited", say, once for each
    batch, or "protocol unreachable", which reads like a system that cannot cut datagrams."""
    sender = DatagramSender()
    told = Told([number])
    anything: Any = told
    assert sender.send(anything, [b"x"] * count, None) == 0
    assert told.sent == [b"x"] * count
    assert sender.segmentation == (sys.platform == "linux")
    told.errors = [errno.EAGAIN]
    assert sender.send(anything, [b"x"] * count, None) == (count if sender.segmentation else 1)
    told.errors = [number] * 2 * count
    assert sender.send(anything, [b"x"], None) == 1


class Narrow:
    """A socket by which runs of long datagrams do not leave for some places; a datagram alone leaves in fragments."""

    def __init__(self, narrow: set[Endpoint | None], error: int) -> None:
        self.narrow = narrow
        self.error = error
        self.calls = 0
        self.sent: list[bytes] = []

    def send(self, datagram: bytes) -> None:
        self.calls += 1
        self.sent.append(datagram)

    def sendto(self, datagram: bytes, _endpoint: Endpoint) -> None:
        self.send(datagram)

    def sendmsg(self, parts: Sequence[bytes], control: Any, _flags: int = 0, endpoint: Endpoint | None = None) -> None:
        self.calls += 1
        size = int.from_bytes(control[0][2], sys.byteorder)
        if endpoint in self.narrow and size > 1372:
            raise OSError(self.error, "too long")
        data = b"".join(parts)
        self.sent += [data[at : at + size] for at in range(0, len(data), size)]


@pytest.mark.skipif(sys.platform != "linux", reason="runs leave in one call on Linux alone")
@pytest.mark.parametrize("error", [errno.EMSGSIZE, errno.EINVAL, errno.EIO])
def test_one_narrow_way_does_not_slow_the_others(error: int) -> None:
    narrow, wide = ("203.0.113.1", 1), ("203.0.113.2", 1)
    sender, sock = DatagramSender(), Narrow({narrow, None}, error)
    anything: Any = sock

    def calls(endpoint: Endpoint | None, size: int, *, block: bool = False) -> int:
        before = sock.calls
        sock.sent.clear()
        datagrams = [bytes([number]) * size for number in range(10)]
        if block:
            assert sender.send_block(anything, memoryview(b"".join(datagrams)), size) == 0
        else:
            assert sender.send(anything, datagrams, endpoint) == 0
        assert sock.sent == datagrams
        return sock.calls - before

    assert calls(narrow, 1432) == 11
    assert calls(narrow, 1432) == 10  # it is not tried again
    assert calls(narrow, 1400) == 11
    assert calls(narrow, 1300) == 1
    assert calls(wide, 1432) == 1
    assert calls(None, 1432, block=True) == 12  # a connected socket is asked twice
    assert calls(None, 1432, block=True) == calls(None, 1432) == 10
    assert calls(None, 1300, block=True) == 1
    for port in range(2 * MAX_REFUSED):
        sock.narrow.add(("203.0.113.1", port))
        calls(("203.0.113.1", port), 1432)
    assert len(sender._refused) <= MAX_REFUSED


@pytest.mark.skipif(sys.platform != "linux", reason="runs leave in one call on Linux alone")
@pytest.mark.parametrize("endpoint", [("203.0.113.1", 1), None], ids=["a place", "a connected socket"])
def test_a_way_that_was_narrow_is_tried_again_after_a_time(endpoint: Endpoint | None) -> None:
    now = 1000.0
    sender, sock = DatagramSender(lambda: now), Narrow({endpoint}, errno.EMSGSIZE)
    anything: Any = sock

    def calls() -> int:
        before = sock.calls
        assert sender.send(anything, [bytes(1432)] * 10, endpoint) == 0
        return sock.calls - before

    refused = 1 if endpoint else 2  # a connected socket is asked twice
    assert calls() == 10 + refused
    now += REFUSED_SECONDS - 1
    assert calls() == 10
    now += 1
    assert calls() == 10 + refused, "it is narrow still"
    sock.narrow.clear()
    now += REFUSED_SECONDS - 1
    assert calls() == 10
    now += 1
    assert calls() == calls() == 1
    assert not sender._refused


@pytest.mark.skipif(sys.platform != "linux", reason="lent on Linux alone")
def test_a_lent_socket_is_the_way_while_our_own_address_is_what_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        transport, far = UdpTransport(), ("127.0.0.1", 9)
        await transport.open(0, lambda batch: None)
        assert not transport.leads_to(far)
        assert transport.lend(("127.0.0.1", 99999)) is None
        assert not transport.leads_to(("127.0.0.1", 99999))
        transport.favor([far])
        lent = transport.lend(far)
        assert lent is not None
        assert not transport._favored
        transport.favor([far])
        assert not transport._favored, "it has a socket of its own"
        with lent:
            assert lent.getpeername() == far
            assert transport.lend(far) is None
            assert transport.leads_to(far)
            transport._lent[far] = "127.0.0.2"
            assert not transport.leads_to(far)
            with monkeypatch.context() as patch:
                patch.setattr(socket, "socket", _refuse(errno.EMFILE))
                assert transport.leads_to(far), "which says nothing about the way"
                patch.setattr(socket, "socket", _refuse(errno.ENETUNREACH))
                assert not transport.leads_to(far)
        transport.take_back(far)
        assert not transport.leads_to(far)
        await transport.close()

    asyncio.run(run())


def _refuse(number: int) -> Callable[..., socket.socket]:
    def refuse(*_: object) -> socket.socket:
        raise OSError(number, "no")

    return refuse


def test_a_second_transport_cannot_take_the_port_of_one_with_favored_peers() -> None:
    async def run() -> None:
        first, second = UdpTransport(), UdpTransport()
        await first.open(0, lambda batch: None)
        first.favor([("127.0.0.1", 9), ("::1", 9), ("127.0.0.1", 99999)])
        with pytest.raises(OSError):
            await second.open(first.local_endpoints()[0][1], lambda batch: None)
        await first.close()

    asyncio.run(run())


def test_a_filter_that_refuses_recvmmsg_is_found_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Later it would be a socket that is readable for ever, and never read."""

    class Refusing:
        def __init__(self, *_arguments: object, **_options: object) -> None:
            self.recvmmsg = ctypes.CFUNCTYPE(ctypes.c_int, use_errno=True)(self.refuse)

        def refuse(self) -> int:
            ctypes.set_errno(errno.ENOSYS)
            return -1

    monkeypatch.setattr("ztnode.datagrams.many_datagrams.ctypes.CDLL", Refusing)
    with pytest.raises(OSError):
        ManyDatagrams()
    datagrams = [b"a" * 1432, b"b" * 1394]
    assert asyncio.run(exchange(datagrams, "127.0.0.1")) == datagrams


@pytest.mark.skipif(sys.platform != "linux", reason="sockets are lent on Linux alone")
def test_a_lent_socket_is_the_way_where_others_take_several_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    """A router that shares out by port leads each flow its own way (ECMP): that another one leaves from another address
    of ours says nothing. That none leaves from this one any more does."""
    ways = itertools.cycle(["198.51.100.1", "127.0.0.1", "203.0.113.1"])
    monkeypatch.setattr(udp, "_own_address", lambda _endpoint: next(ways))

    async def run() -> None:
        nonlocal ways
        transport, endpoint = UdpTransport(ipv6=False), ("127.0.0.1", 9)
        await transport.open(0, lambda _batch: None)
        lent = transport.lend(endpoint)
        assert lent is not None
        with lent:
            assert lent.getsockname()[0] == "127.0.0.1"
            assert all(transport.leads_to(endpoint) for _ in range(100))
            ways = itertools.cycle(["198.51.100.1", "203.0.113.1"])
            assert not transport.leads_to(endpoint)
        transport.take_back(endpoint)
        # Rules of routing that name our port: others leave from elsewhere, and what counts is whether that changes.
        ways = itertools.cycle(["198.51.100.1"])
        lent = transport.lend(endpoint)
        assert lent is not None
        with lent:
            assert transport.leads_to(endpoint)
            ways = itertools.cycle(["203.0.113.1"])
            assert not transport.leads_to(endpoint)
        await transport.close()

    asyncio.run(run())
