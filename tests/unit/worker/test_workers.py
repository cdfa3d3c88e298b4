"""Real worker processes, two hosts back to back: what a client of a node sees."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import itertools
import logging
import os
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import time
from contextlib import aclosing
from ipaddress import ip_address
from pathlib import Path

import pytest

from tests.unit.worker.worker_pair import (
    B6,
    NWID,
    A,
    B,
    Pair,
    connected_pair,
    fetch,
    holds,
    on_loop,
    read_all,
    reset,
    running_pair,
    until,
)
from ztclient import handoff as client_handoff
from ztclient.aio import handoff
from ztclient.destination import Destination
from ztnode.node.api import DialError, StreamOptions
from ztnode.node.handoffs import drop, give
from ztnode.node.supervisor import Supervisor
from ztnode.worker import launch


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def sockets_in(directory: Path) -> list[Path]:
    return list(directory.rglob("*.sock"))


@pytest.mark.parametrize("host", [B, B6])
@on_loop
async def test_bulk_both_ways_at_once_and_half_close(tmp_path: Path, host: str) -> None:
    async with connected_pair(tmp_path, host) as (pair, dialled, accepted):
        loop = asyncio.get_running_loop()
        up, down = os.urandom(6 << 20), os.urandom(6 << 20)

        async def send(sock: socket.socket, data: bytes) -> None:
            await loop.sock_sendall(sock, data)
            sock.shutdown(socket.SHUT_WR)

        _, _, got_up, got_down = await asyncio.gather(
            send(dialled, up), send(accepted, down), read_all(accepted), read_all(dialled)
        )
        assert hashlib.sha256(got_up).digest() == hashlib.sha256(up).digest()
        assert hashlib.sha256(got_down).digest() == hashlib.sha256(down).digest()
        dialled.close()
        accepted.close()
        await until(lambda: not pair.a.workers()[0].connections)


@on_loop
async def test_bulk_over_a_lossy_link(tmp_path: Path) -> None:
    async with connected_pair(tmp_path) as (pair, dialled, accepted):
        count = 0

        def drop(_frame: memoryview) -> bool:
            nonlocal count
            count += 1
            return count % 67 == 0

        pair.drop = drop
        payload = os.urandom(2 << 20)
        loop = asyncio.get_running_loop()

        async def send() -> None:
            await loop.sock_sendall(dialled, payload)
            dialled.shutdown(socket.SHUT_WR)

        _, received = await asyncio.gather(send(), read_all(accepted))
        assert received == payload


@on_loop
async def test_half_close_leaves_the_way_back_open(tmp_path: Path) -> None:
    async with connected_pair(tmp_path) as (_pair, dialled, accepted):
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(dialled, b"question")
        dialled.shutdown(socket.SHUT_WR)
        assert await read_all(accepted) == b"question"
        await asyncio.sleep(0.05)
        await loop.sock_sendall(accepted, b"answer")
        accepted.close()
        assert await read_all(dialled) == b"answer"


@on_loop
@pytest.mark.parametrize("accepts", [False, True])
@pytest.mark.parametrize("nodelay", [True, False])
async def test_parts_wait_for_a_silent_peer_only_where_that_was_asked_for(
    tmp_path: Path, nodelay: bool, accepts: bool
) -> None:
    """The peer acknowledges nothing: without Nagle every part leaves at once; with it the last one waits."""
    async with running_pair(tmp_path) as pair:
        loop = asyncio.get_running_loop()
        listener, (_, port) = await pair.b.listen(None, 0, options=StreamOptions(nodelay or not accepts))
        accepting = asyncio.create_task(pair.b.accept(listener))
        dialled = fetch(await pair.a.dial(B, port, options=StreamOptions(accepts or nodelay)))
        accepted = fetch(await accepting)
        source, sink = (accepted, dialled) if accepts else (dialled, accepted)
        silent = (0x020000000001 if accepts else 0x020000000002).to_bytes(6, "big")
        heads = 0
        muted = True

        def drop(frame: memoryview) -> bool:
            nonlocal heads
            heads += b"-head-" in bytes(frame)
            return muted and frame[6:12] == silent

        pair.drop = drop
        with source, sink:
            await loop.sock_sendall(source, b"-head-")
            assert await loop.sock_recv(sink, 100) == b"-head-"
            await loop.sock_sendall(source, b"-body-")
            assert await loop.sock_recv(sink, 100) == b"-body-"  # at the latest as a probe of the tail
            await loop.sock_sendall(source, b"-tail-")
            if not nodelay:
                await until(lambda: heads > 1)  # sent again, for want of an acknowledgment
                with pytest.raises(BlockingIOError):
                    sink.recv(100)
                muted = False
            assert await loop.sock_recv(sink, 100) == b"-tail-"


@on_loop
async def test_each_connection_has_its_own_congestion_control(tmp_path: Path) -> None:
    async with running_pair(tmp_path) as pair:
        listener, (_, port) = await pair.b.listen(None, 0, options=StreamOptions(congestion="newreno"))
        for wanted, had in (("", "cubic"), ("bbr", "bbr")):
            dialled = fetch(await pair.a.dial(B, port, options=StreamOptions(congestion=wanted)))
            with dialled, fetch(await pair.b.accept(listener)):
                assert [each.figures["congestion"] for each in await pair.a.connections()][-1:] == [had]
                assert {each.figures["congestion"] for each in await pair.b.connections()} == {"newreno"}
        for attempt in (
            pair.a.dial(B, port, options=StreamOptions(congestion="vegas")),
            pair.b.listen(None, 0, options=StreamOptions(congestion="vegas")),
        ):
            with pytest.raises(DialError, match="one of cubic, newreno, bbr") as caught:
                await attempt
            assert caught.value.errno == errno.EINVAL


@on_loop
async def test_reset_arrives_as_econnreset_after_what_came_before(tmp_path: Path) -> None:
    async with connected_pair(tmp_path) as (_pair, dialled, accepted):
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(accepted, b"some data")
        await asyncio.sleep(0.1)
        reset(accepted)
        assert await loop.sock_recv(dialled, 100) == b"some data"
        with pytest.raises(ConnectionResetError):
            await loop.sock_recv(dialled, 100)


@on_loop
async def test_reset_with_much_undelivered_shows_all_of_it_and_then_the_reset(tmp_path: Path) -> None:
    """The client is slow; what the stack had taken and acknowledged before the reset waits in three buffers."""
    async with connected_pair(tmp_path) as (pair, dialled, accepted):
        loop = asyncio.get_running_loop()
        payload = os.urandom(1_500_000)
        await loop.sock_sendall(accepted, payload)
        passed = -1
        while passed != pair.frames:  # until the buffers are full, however slow the machine is
            passed = pair.frames
            await asyncio.sleep(0.3)
        reset(accepted)
        await asyncio.sleep(0.3)
        received = bytearray()
        with pytest.raises(ConnectionResetError):
            while True:
                piece = await asyncio.wait_for(loop.sock_recv(dialled, 50_000), 30)
                assert piece, "truncated data must not look complete"
                received += piece
                await asyncio.sleep(0.002)
        assert len(received) > 1_000_000
        assert payload.startswith(received)


@on_loop
async def test_worker_killed_in_the_middle_of_a_download(tmp_path: Path) -> None:
    async with connected_pair(tmp_path) as (pair, dialled, accepted):
        loop = asyncio.get_running_loop()
        sending = asyncio.create_task(loop.sock_sendall(accepted, bytes(64 << 20)))
        for _ in range(20):
            assert await loop.sock_recv(dialled, 1 << 16)
        os.kill(pair.a.workers()[0].pid, signal.SIGKILL)
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(read_all(dialled), 30)
        # The new worker knows no such connection and says so to the sender.
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            await asyncio.wait_for(sending, 30)


@on_loop
async def test_network_that_goes_takes_its_connections_along(tmp_path: Path) -> None:
    async with connected_pair(tmp_path) as (pair, dialled, _accepted):
        loop = asyncio.get_running_loop()
        pair.a.port_down(7)
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(loop.sock_recv(dialled, 1), 30)
        with pytest.raises(DialError) as error:
            await pair.a.dial(B, 80)
        assert error.value.errno == errno.ENETUNREACH
        pair.a.port_up(7, nwid=NWID, mac=0x020000000001, mtu=2800, addresses=[f"{A}/24"], routes=[])
        with pytest.raises(DialError, match="refused"):
            await pair.a.dial(B, 80, nwid=NWID)


@on_loop
async def test_close_with_unread_data_resets_the_other_side(tmp_path: Path) -> None:
    async with connected_pair(tmp_path) as (_pair, dialled, accepted):
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(dialled, b"nobody reads this")
        await asyncio.sleep(0.1)
        accepted.close()
        with pytest.raises(ConnectionResetError):
            await loop.sock_recv(dialled, 100)


@on_loop
async def test_backpressure_from_client_to_client(tmp_path: Path) -> None:
    async with connected_pair(tmp_path) as (pair, dialled, accepted):
        sent = 0
        idle = time.monotonic()
        while time.monotonic() - idle < 0.5:
            try:
                sent += dialled.send(bytes(1 << 16))
                idle = time.monotonic()
            except BlockingIOError:
                await asyncio.sleep(0.01)
            assert sent < 64 << 20, "somebody buffers without bound"
        frames = pair.frames
        await asyncio.sleep(0.3)
        assert pair.frames - frames < 20, "a closed window is probed, not hammered"
        dialled.shutdown(socket.SHUT_WR)
        assert len(await read_all(accepted)) == sent


@on_loop
async def test_errors_name_their_cause_before_the_patience_is_over(tmp_path: Path) -> None:
    """Which would be half a minute."""
    async with running_pair(tmp_path) as pair:
        start = time.monotonic()
        with pytest.raises(DialError, match="refused") as refused:
            await pair.a.dial(B, 9)
        assert refused.value.errno == errno.ECONNREFUSED
        with pytest.raises(DialError, match="no joined network has a route") as no_route:
            await pair.a.dial("192.0.2.1", 80)
        assert no_route.value.errno == errno.ENETUNREACH
        with pytest.raises(DialError, match="not up") as down:
            await pair.a.dial(B, 80, nwid=1)
        assert down.value.errno == errno.ENETDOWN
        # Whoever takes a dial from outside checks it; what slips through all the same harms nobody.
        for host, port in (("example.com", 80), (B, 70000)):
            with pytest.raises(DialError) as senseless:
                await pair.a.dial(host, port)
            assert senseless.value.errno == errno.EINVAL
        with pytest.raises(DialError, match="does not answer") as unreachable:
            await pair.a.dial("10.121.0.99", 80)
        assert unreachable.value.errno == errno.EHOSTUNREACH
        assert time.monotonic() - start < 20
        pair.drop = lambda frame: bytes(frame[12:14]) == b"\x08\x00"
        with pytest.raises(DialError, match=r"within 0\.3 s") as timeout:
            await pair.a.dial(B, 80, timeout=0.3)
        assert timeout.value.errno == errno.ETIMEDOUT


@on_loop
async def test_cancelled_dial_leaves_nothing_behind(tmp_path: Path) -> None:
    async with running_pair(tmp_path) as pair:
        dialling = asyncio.create_task(pair.a.dial("10.121.0.99", 80))
        await asyncio.sleep(0.1)
        dialling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await dialling
        dialled, accepted = await pair.connect()
        dialled.close()
        accepted.close()


@on_loop
async def test_a_client_may_ask_the_worker_itself(tmp_path: Path) -> None:
    async with running_pair(tmp_path) as pair:
        loop = asyncio.get_running_loop()
        listener, (_, port) = await pair.b.listen(None, 0)
        first = await pair.a.dial(B, port)
        path = first.path
        fetch(first).close()
        fetch(await pair.b.accept(listener)).close()
        opened: list[float] = []
        idle: list[socket.socket] = []
        pair.a._slots[0].process._on_opened = opened.append  # type: ignore[union-attr]
        for nwid in ("", f"{NWID:016x}"):
            dialled = await handoff.ask(path, Destination(ip=B, port=port, network_id=nwid, congestion="bbr"), idle)
            assert dialled is not None
            accepted = fetch(await pair.b.accept(listener))
            with dialled, accepted:
                assert dialled.getpeername() == (B, port) and dialled.getsockname()[0] == A
                assert [each.figures["congestion"] for each in await pair.a.connections()][-1:] == ["bbr"]
                dialled.send(b"up")
                assert await loop.sock_recv(accepted, 10) == b"up"
        for _ in range(3):
            request = Destination(ip=B, port=port)
            dialled = await asyncio.to_thread(client_handoff.ask, path, request, idle)
            fetch(await pair.b.accept(listener)).close()
            assert dialled is not None and len(idle) == 1, "one channel for all"
            dialled.close()
        await until(lambda: len(opened) == 5)
        # What fails, what is no request, and what takes long is for the node.
        for request in (
            Destination(ip=B, port=port + 1),
            Destination(ip=B, port=port, network_id="1" * 16),
            Destination(ip=B, port=port, congestion="vegas"),
            Destination(ip="192.0.2.1", port=port),
            Destination(ip="10.121.0.99", port=port),
        ):
            assert await handoff.ask(path, request, idle) is None
        left = [each.figures["state"] for each in await pair.a.connections()]
        assert not {"SYN-SENT", "ESTABLISHED"} & {*left}, left


@on_loop
async def test_listeners_accept_in_order_close_and_refuse(tmp_path: Path) -> None:
    async with running_pair(tmp_path) as pair:
        listener, (_, port) = await pair.b.listen(B, 5380, nwid=NWID)
        assert port == 5380
        with pytest.raises(DialError, match="in use"):
            await pair.b.listen(B, 5380, nwid=NWID)
        with pytest.raises(DialError, match="not an address of this node"):
            await pair.b.listen("10.121.0.77", 80)
        handoffs = [await pair.a.dial(B, 5380) for _ in range(3)]
        accepted = [await pair.b.accept(listener) for _ in range(3)]
        assert [each.remote for each in accepted] == [each.local for each in handoffs]
        assert accepted[0].local == (B, 5380)
        waiting = asyncio.create_task(pair.b.accept(listener))
        await asyncio.sleep(0.05)
        await pair.b.close_listener(listener)
        with pytest.raises(DialError, match="closed"):
            await waiting
        with pytest.raises(KeyError):
            await pair.b.accept(listener)
        with pytest.raises(KeyError):
            await pair.b.close_listener(listener)
        with pytest.raises(DialError, match="refused"):
            await pair.a.dial(B, 5380)


@on_loop
async def test_cancelled_accept_loses_no_connection(tmp_path: Path) -> None:
    async with running_pair(tmp_path) as pair:
        listener, (_, port) = await pair.b.listen(None, 0)
        for _ in range(5):
            accepting = asyncio.create_task(pair.b.accept(listener))
            await asyncio.sleep(0.01)
            accepting.cancel()
        dialled = fetch(await pair.a.dial(B, port))
        accepted = fetch(await asyncio.wait_for(pair.b.accept(listener), 30))
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(dialled, b"through")
        assert await loop.sock_recv(accepted, 100) == b"through"
        dialled.close()
        accepted.close()


@on_loop
async def test_accept_cancelled_while_a_connection_is_on_its_way(tmp_path: Path) -> None:
    async with running_pair(tmp_path) as pair:
        listener, (_, port) = await pair.b.listen(None, 0)
        for round_ in range(20):
            accepting = asyncio.create_task(pair.b.accept(listener))
            dialling = asyncio.create_task(pair.a.dial(B, port))
            await asyncio.sleep(round_ * 0.0002)
            accepting.cancel()
            handoff = await dialling
            got = None if accepting.cancelled() else (await asyncio.wait([accepting]))[0].pop()
            peer = await asyncio.wait_for(pair.b.accept(listener), 30) if not got or got.cancelled() else got.result()
            assert peer.remote == handoff.local
            fetch(handoff).close()
            fetch(peer).close()


@on_loop
async def test_killed_worker_resets_its_clients_and_is_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_pair(tmp_path) as pair:
        loop = asyncio.get_running_loop()
        listener, (_, port) = await pair.b.listen(None, 0)
        dialled = fetch(await pair.a.dial(B, port))
        accepted = fetch(await pair.b.accept(listener))
        await loop.sock_sendall(accepted, b"data before")
        # What the worker has not sent yet when it is killed is lost, and that is not what is asked here.
        await until(lambda: holds(dialled, b"data before"))
        accepting = asyncio.create_task(pair.b.accept(listener))
        await asyncio.sleep(0)
        old = pair.b.workers()[0].pid
        with caplog.at_level(logging.WARNING):
            os.kill(old, signal.SIGKILL)
            with pytest.raises(ConnectionResetError):
                await loop.sock_recv(accepted, 100)
            await until(lambda: pair.b.workers()[0].restarts == 1 and pair.b._slots[0].ready.is_set())
        [record] = caplog.records
        assert "killed by SIGKILL" in record.getMessage()
        assert str(old) in record.getMessage()
        # The listener stands again under the same id and number; who was accepting still is.
        again = fetch(await pair.a.dial(B, port))
        peer = fetch(await asyncio.wait_for(accepting, 30))
        await loop.sock_sendall(again, b"after")
        assert await loop.sock_recv(peer, 100) == b"after"
        # The other side learns by a reset as soon as it speaks, be it by an acknowledgement that was late.
        assert await loop.sock_recv(dialled, 100) == b"data before"
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            await loop.sock_sendall(dialled, b"hello?")
            await loop.sock_recv(dialled, 100)
        assert pair.b.workers()[0].restarts == 1
        assert pair.b.workers()[0].pid != old
        for sock in (dialled, accepted, again, peer):
            sock.close()


@on_loop
async def test_dial_during_the_restart_waits_for_the_new_worker(tmp_path: Path) -> None:
    async with running_pair(tmp_path) as pair:
        _, (_, port) = await pair.b.listen(None, 0)
        os.kill(pair.a.workers()[0].pid, signal.SIGKILL)
        handoff = await pair.a.dial(B, port, timeout=5)
        fetch(handoff).close()


@on_loop
async def test_worker_that_keeps_dying_is_restarted_more_and_more_slowly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_pair(tmp_path) as pair:
        monkeypatch.setattr("ztnode.worker.launch.sys.executable", "/bin/false")
        # However long it goes on, it does not count as one worker that lived long.
        monkeypatch.setattr("ztnode.node.supervisor.STEADY_SECONDS", 0.1)
        with caplog.at_level(logging.WARNING):
            os.kill(pair.a.workers()[0].pid, signal.SIGKILL)
            await asyncio.sleep(0.6)
            assert 2 <= len(caplog.records) <= 3
            assert "does not start: exit code 1" in caplog.records[1].getMessage()
        monkeypatch.undo()
        await until(pair.a._slots[0].ready.is_set)


@on_loop
async def test_corrupt_ring_ends_the_worker_with_its_reason(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with running_pair(tmp_path) as pair:
        process = pair.a._slots[0].process
        assert process is not None
        with caplog.at_level(logging.WARNING):
            process._to_worker._indices[0] += 12
            process._to_worker.write_many([(7, (b"x" * 60,))])
            await until(lambda: bool(caplog.records))
            await until(pair.a._slots[0].ready.is_set)
        assert "RingCorrupt" in caplog.records[0].getMessage()
        dialled, accepted = await pair.connect()
        dialled.close()
        accepted.close()


@on_loop
async def test_network_with_a_senseless_configuration_harms_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with connected_pair(tmp_path) as (pair, dialled, accepted):
        with caplog.at_level(logging.WARNING):
            pair.a.port_up(9, nwid=1, mac=2, mtu=2800, addresses=["10.1.2.3.4/24"], routes=[])
            await until(lambda: bool(caplog.records))
        assert "network 0000000000000001 cannot be used as configured" in caplog.records[0].getMessage()
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(dialled, b"still up")
        assert await loop.sock_recv(accepted, 100) == b"still up"
        pair.a.port_down(9)
        assert pair.a.workers()[0].restarts == 0


@on_loop
async def test_mistake_of_the_frames_handler_does_not_stop_the_frames(tmp_path: Path) -> None:
    async with running_pair(tmp_path) as pair:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: seen.append(context))
        seen: list[object] = []

        def drop(_frame: memoryview) -> bool:
            if len(seen) < 3:
                raise RuntimeError("a mistake")
            return False

        pair.drop = drop
        assert await pair.a.ping(B, timeout=5) < 5
        assert len(seen) == 3


@on_loop
async def test_mistake_of_the_frames_handler_does_not_stop_the_replacement(tmp_path: Path) -> None:
    async with connected_pair(tmp_path) as (pair, _dialled, _accepted):
        process = pair.a._slots[0].process
        assert process is not None
        loop = asyncio.get_running_loop()
        seen: list[object] = []
        loop.set_exception_handler(lambda _loop, context: seen.append(context))

        def drop(_frame: memoryview) -> bool:
            raise RuntimeError("a mistake")

        # The worker's last frames, the reset of its connection, wait until its end is noticed.
        loop.remove_reader(process._from_worker.data_fd)
        pair.drop = drop
        process.terminate()
        await until(lambda: pair.a.workers()[0].restarts == 1)
        pair.drop = lambda _frame: False
        assert seen
        assert await pair.a.ping(B, timeout=5) < 5


@on_loop
async def test_stop_is_quick_and_leaves_nothing(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    await pair.start()
    dialled, accepted = await pair.connect()
    pids = [each.pid for each in (*pair.a.workers(), *pair.b.workers())]
    start = time.monotonic()
    await pair.a.stop()
    assert time.monotonic() - start < 10, "nothing waits for its patience"
    loop = asyncio.get_running_loop()
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(loop.sock_recv(dialled, 1), 30)
    with pytest.raises(ConnectionResetError):  # told by the overlay: the worker's last frames were delivered
        await asyncio.wait_for(loop.sock_recv(accepted, 1), 30)
    await pair.b.stop()
    assert not any(is_alive(pid) for pid in pids)
    assert not sockets_in(tmp_path)
    dialled.close()
    accepted.close()


@on_loop
async def test_stuck_worker_is_ended_by_force(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    await pair.start()
    pid = pair.a.workers()[0].pid
    os.kill(pid, signal.SIGSTOP)
    await asyncio.wait_for(pair.stop(), 30)
    assert not is_alive(pid)
    assert not sockets_in(tmp_path)


@on_loop
async def test_stop_does_not_wait_for_a_worker_that_waits_for_its_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = Pair(tmp_path)
    await pair.start()
    monkeypatch.setattr("ztnode.node.supervisor.BACKOFF", (60.0,))
    os.kill(pair.a.workers()[0].pid, signal.SIGKILL)
    dialling = asyncio.create_task(pair.a.dial(B, 80))
    await asyncio.sleep(0.1)
    start = time.monotonic()
    await pair.stop()
    assert time.monotonic() - start < 20, "the worker's start is 60 s away"
    with pytest.raises(DialError):
        await asyncio.wait_for(dialling, 30)


def test_node_that_dies_leaves_no_worker_behind(tmp_path: Path) -> None:
    script = (
        "import asyncio, pathlib, sys\n"
        "from ztnode.node.supervisor import Supervisor\n"
        "async def main():\n"
        "    s = Supervisor(pathlib.Path(sys.argv[1]), lambda records: None, workers=2)\n"
        "    await s.start()\n"
        "    await s.ready()\n"
        "    print(*(w.pid for w in s.workers()), flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    node = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert node.stdout is not None
    pids = [int(pid) for pid in node.stdout.readline().split()]
    assert len(pids) == 2
    assert all(map(is_alive, pids))
    for pid in pids:
        os.kill(pid, signal.SIGINT)  # Ctrl-C in the terminal goes to all; it is for the node to end them
    time.sleep(0.1)
    assert all(map(is_alive, pids))
    node.kill()
    node.communicate()
    deadline = time.monotonic() + 30
    while any(map(is_alive, pids)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert not sockets_in(tmp_path)


def test_a_worker_that_was_started_ahead_is_the_next_one(tmp_path: Path) -> None:
    async def scenario() -> int:
        supervisor = Supervisor(tmp_path, lambda _records: None)
        await supervisor.start()
        await supervisor.ready()
        [worker] = supervisor.workers()
        await supervisor.stop()
        return worker.pid

    launch.launch_ahead(1)
    [ahead] = launch._ahead
    assert not sockets_in(tmp_path)
    assert asyncio.run(scenario()) == ahead.process.pid
    assert not launch._ahead


def test_a_worker_that_never_began_ends_with_the_node_and_without_a_word(capfd: pytest.CaptureFixture[str]) -> None:
    launched = launch.launch()
    launched.control.close()
    launched.to_worker.close()
    launched.from_worker.close()
    assert launched.process.wait(30) == 0
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGTERM])
def test_ctrl_c_at_the_first_moment_is_for_the_node(number: int, capfd: pytest.CaptureFixture[str]) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    launched = launch.launch()
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
    os.kill(launched.process.pid, number)  # long before it has loaded anything
    launched.control.close()
    launched.to_worker.close()
    launched.from_worker.close()
    assert launched.process.wait(30) == 0
    assert capfd.readouterr() == ("", "")


def test_long_state_directory_gets_its_sockets_elsewhere(tmp_path: Path) -> None:
    state = tmp_path / ("x" * 120)
    state.mkdir()

    async def scenario() -> None:
        supervisor = Supervisor(state, lambda _records: None)
        await supervisor.start()
        await supervisor.ready()
        paths.append(Path(supervisor._slots[0].path))
        modes.append((paths[0].stat().st_mode, paths[0].parent.stat().st_mode))
        await supervisor.stop()

    paths: list[Path] = []
    modes: list[tuple[int, int]] = []
    asyncio.run(scenario())
    [(socket_mode, directory_mode)] = modes
    assert stat.S_ISSOCK(socket_mode)
    assert not directory_mode & 0o077
    assert not paths[0].parent.exists()


def test_number_of_workers_is_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="between 1 and 64"):
        Supervisor(tmp_path, lambda _records: None, workers=0)


@on_loop
async def test_connections_are_shared_out_over_workers(tmp_path: Path) -> None:
    async with running_pair(tmp_path, workers=2) as pair:
        loop = asyncio.get_running_loop()
        connections = [await pair.connect() for _ in range(6)]
        for dialled, accepted in connections:
            await loop.sock_sendall(dialled, b"ping")
            assert await loop.sock_recv(accepted, 10) == b"ping"
            await loop.sock_sendall(accepted, b"pong")
            assert await loop.sock_recv(dialled, 10) == b"pong"
        await until(lambda: [worker.connections for worker in pair.a.workers()] == [3, 3])
        # One dies, the other's connections go on.
        os.kill(pair.a.workers()[1].pid, signal.SIGKILL)
        alive = reset = 0
        for dialled, accepted in connections:
            await loop.sock_sendall(accepted, b"still there?")
            try:
                alive += await asyncio.wait_for(loop.sock_recv(dialled, 100), 30) == b"still there?"
            except ConnectionResetError:
                reset += 1
        assert (alive, reset) == (3, 3)
        assert await pair.a.ping(B) < 1
        for sock in (sock for both in connections for sock in both):
            sock.close()


@on_loop
async def test_hundred_connections_at_once_are_served_fairly(tmp_path: Path) -> None:
    size = 1 << 20
    async with running_pair(tmp_path) as pair:
        loop = asyncio.get_running_loop()
        listener, (_, port) = await pair.b.listen(None, 0, backlog=200)
        payload = os.urandom(size)

        async def serve() -> None:
            for _ in range(100):
                sock = fetch(await pair.b.accept(listener))
                tasks.append(asyncio.create_task(answer(sock)))

        async def answer(sock: socket.socket) -> None:
            await loop.sock_recv(sock, 1)
            await loop.sock_sendall(sock, payload)
            sock.close()

        async def download(begin: asyncio.Event) -> float:
            sock = fetch(await pair.a.dial(B, port))
            await begin.wait()
            start = time.monotonic()
            await loop.sock_sendall(sock, b"?")
            assert await read_all(sock) == payload
            sock.close()
            return time.monotonic() - start

        tasks: list[asyncio.Task[None]] = []
        begin = asyncio.Event()
        serving = asyncio.create_task(serve())
        downloads = [asyncio.create_task(download(begin)) for _ in range(100)]
        await serving
        begin.set()
        times = sorted(await asyncio.gather(*downloads))
        await asyncio.gather(*tasks)
        assert times[-1] < 5 * times[50]


def resident(pid: int) -> int:
    """Proportional set size in KiB: shared pages count once."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    raise AssertionError("no Pss in smaps_rollup")


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux's smaps_rollup")
@on_loop
async def test_idle_connections_are_cheap(tmp_path: Path) -> None:
    count = 300
    async with running_pair(tmp_path) as pair:
        listener, (_, port) = await pair.b.listen(None, 0, backlog=200)
        warm = await pair.connect()
        worker = pair.a.workers()[0].pid
        before = resident(worker)
        socks = list(warm)
        for _ in range(count):
            socks.append(fetch(await pair.a.dial(B, port)))
            socks.append(fetch(await pair.b.accept(listener)))
        each = (resident(worker) - before) / count
        for sock in socks:
            sock.close()
        assert each < 40, "KiB for each connection in the worker"


@on_loop
async def test_ping_both_families(tmp_path: Path) -> None:
    async with running_pair(tmp_path) as pair:
        assert 0 < await pair.a.ping(B) < 1
        assert 0 < await pair.a.ping(B6, size=1000) < 1
        with pytest.raises(DialError) as error:
            await pair.a.ping("10.121.0.99")
        assert error.value.errno in (errno.EHOSTUNREACH, errno.ETIMEDOUT)


@on_loop
async def test_udp_sockets(tmp_path: Path) -> None:
    async with running_pair(tmp_path) as pair:
        loop = asyncio.get_running_loop()
        handoff = await pair.b.open_udp(B, 5353)
        assert handoff.local == (B, 5353)
        server = fetch(handoff)
        client = fetch(await pair.a.open_udp(None, 0))
        address = ip_address(B).packed
        await loop.sock_sendall(client, struct.pack("!BBH", 0, 4, 5353) + address + b"question" * 500)
        request = await asyncio.wait_for(loop.sock_recv(server, 70000), 30)
        assert request[4:8] == ip_address(A).packed
        assert request[8:] == b"question" * 500
        await loop.sock_sendall(server, request[:8] + b"answer")
        answer = await asyncio.wait_for(loop.sock_recv(client, 70000), 30)
        assert answer == struct.pack("!BBH", 0, 4, 5353) + address + b"answer"
        await loop.sock_sendall(client, struct.pack("!BBH", 0, 4, 9) + address + b"nobody there")
        failure = await asyncio.wait_for(loop.sock_recv(client, 70000), 30)
        assert failure == struct.pack("!BBH", 1, 4, 9) + address + struct.pack("!I", errno.ECONNREFUSED)
        server.close()
        client.close()


@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")
@on_loop
async def test_capture_opens_in_wireshark_without_complaint(tmp_path: Path) -> None:
    async with running_pair(tmp_path) as pair:
        pieces = []

        async def capture() -> None:
            async with aclosing(pair.a.capture(NWID)) as blocks:
                async for piece in blocks:
                    pieces.append(piece)

        capturing = asyncio.create_task(capture())
        await asyncio.sleep(0.05)
        dialled, accepted = await pair.connect()
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(dialled, bytes(200_000))
        dialled.shutdown(socket.SHUT_WR)
        assert len(await read_all(accepted)) == 200_000
        accepted.close()
        dialled.close()
        await asyncio.sleep(0.1)
        capturing.cancel()
        await asyncio.wait([capturing])
        assert not pair.a._captures
        file = tmp_path / "capture.pcapng"
        file.write_bytes(b"".join(pieces))
        options = [f"-o{protocol}.check_checksum:TRUE" for protocol in ("ip", "tcp", "udp")]

        def count(expression: str) -> int:
            command = ["tshark", "-r", str(file), *options, "-Y", expression, "-T", "fields", "-e", "frame.number"]
            return len(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines())

        assert count("tcp") > 70
        assert count("tcp.flags.syn == 1 && tcp.flags.ack == 0") == 1
        assert count("_ws.malformed || ip.checksum.status == 0 || tcp.checksum.status == 0") == 0


@on_loop
async def test_a_client_may_bring_its_own_socket(tmp_path: Path) -> None:
    """As a port forward does: the worker's splice has the kernel's socket itself, at both ends here."""
    async with running_pair(tmp_path) as pair:
        loop = asyncio.get_running_loop()
        listener, (_, port) = await pair.b.listen(None, 0)
        accepting = asyncio.create_task(pair.b.accept(listener))
        dialled = await pair.a.dial(B, port)
        accepted = await accepting
        ends = []
        with socket.create_server(("127.0.0.1", 0)) as server:
            for handoff in (dialled, accepted):
                client = socket.create_connection(server.getsockname())
                brought, _ = server.accept()
                await give(handoff, brought)
                assert brought.fileno() < 0
                client.setblocking(False)
                ends.append(client)
        near, far = ends
        with near, far:
            payload = os.urandom(3_000_000)
            sending = asyncio.create_task(loop.sock_sendall(near, payload))
            received = bytearray()
            while len(received) < len(payload):
                received += await loop.sock_recv(far, 1 << 16)
            await sending
            assert received == payload
            near.shutdown(socket.SHUT_WR)
            assert await loop.sock_recv(far, 10) == b""
            await loop.sock_sendall(far, b"answer")
            assert await loop.sock_recv(near, 10) == b"answer"
            reset(far)
            with pytest.raises(ConnectionResetError):
                await loop.sock_recv(near, 10)
        with pytest.raises(ConnectionResetError):
            await give(dialled, socket.create_server(("127.0.0.1", 0)))


@on_loop
async def test_a_connection_that_nobody_wants_is_reset_at_once(tmp_path: Path) -> None:
    async with running_pair(tmp_path) as pair:
        listener, (_, port) = await pair.b.listen(None, 0)
        accepting = asyncio.create_task(pair.b.accept(listener))
        dialled = fetch(await pair.a.dial(B, port))
        with dialled:
            await drop(await accepting)
            with pytest.raises(ConnectionResetError):
                await asyncio.get_running_loop().sock_recv(dialled, 10)


@on_loop
async def test_the_neighbour_behind_an_address(tmp_path: Path) -> None:
    async with running_pair(tmp_path) as pair:
        for host in (B, B6):
            for _ in range(2):  # asked for, and known
                found = await pair.a.find_neighbour(host)
                assert (found.index, found.address, found.mac) == (7, host, 0x020000000002)
        own = await pair.a.find_neighbour(A)
        assert own.mac == 0x020000000001
        with pytest.raises(DialError) as caught:
            await pair.a.find_neighbour("10.121.0.77", timeout=10)
        assert caught.value.errno == errno.EHOSTUNREACH
        with pytest.raises(DialError) as caught:
            await pair.a.find_neighbour("192.0.2.1")
        assert caught.value.errno == errno.ENETUNREACH


@on_loop
async def test_a_neighbour_that_lets_pings_pass_by_is_found_all_the_same(tmp_path: Path) -> None:
    async with running_pair(tmp_path) as pair:
        pair.drop = lambda frame: bytes(frame[12:14]) == b"\x08\x00"
        found = await pair.a.find_neighbour(B, timeout=0.5)
        assert found.mac == 0x020000000002


@on_loop
async def test_connections_are_listed_with_their_figures(tmp_path: Path) -> None:
    async with running_pair(tmp_path) as pair:
        assert await pair.a.connections() == []
        ends = [await pair.connect() for _ in range(3)]
        for dialled, _ in ends:
            await asyncio.get_running_loop().sock_sendall(dialled, b"x" * 1000)
        for _, accepted in ends:
            assert await asyncio.get_running_loop().sock_recv(accepted, 2000)
        found = await pair.a.connections()
        assert len(found) == 3
        for each in found:
            assert each.figures["state"] == "ESTABLISHED"
            assert each.figures["local"][0] == A
            assert each.figures["remote"][0] == B
            assert each.figures["index"] == 7
        for end in itertools.chain.from_iterable(ends):
            end.close()


def test_a_temporary_directory_that_is_too_long_for_sockets_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / ("t" * 120)
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    with pytest.raises(OSError, match="TMPDIR") as failure:
        Supervisor(tmp_path / ("x" * 120), lambda _records: None)
    assert failure.value.errno == errno.ENAMETOOLONG and not list(temporary.iterdir())
