"""Three workers on each side, seen from outside as one host: nothing is lost, nothing is answered thrice."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import signal
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path

import pytest

from tests.unit.worker.worker_pair import A6, B6, NWID, A, B, Pair, fetch, on_loop, read_all, running_pair
from ztnode.node.api import DialError, Handoff
from ztnode.node.steering import EPHEMERAL, UNBOUND_LISTENERS
from ztnode.node.supervisor import Supervisor
from ztnode.worker import protocol

WORKERS = 3


async def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        await asyncio.sleep(0.005)


def worker_of(handoff: Handoff) -> str:
    return Path(handoff.path).name


def watch(pair: Pair, matches: Callable[[bytes], bool]) -> list[bytes]:
    """Frames on the link that match, from now on."""
    seen: list[bytes] = []

    def look(frame: memoryview) -> bool:
        if matches(bytes(frame)):
            seen.append(bytes(frame))
        return False

    pair.drop = look
    return seen


@on_loop
async def test_accepted_connections_are_shared_out_and_whole(tmp_path: Path) -> None:
    count = 60
    async with running_pair(tmp_path, WORKERS) as pair:
        loop = asyncio.get_running_loop()
        listener, (_, port) = await pair.b.listen(None, 0)
        served: Counter[str] = Counter()

        async def serve(handoff: Handoff) -> None:
            sock = fetch(handoff)
            body = await read_all(sock)
            await loop.sock_sendall(sock, hashlib.sha256(body).digest())
            sock.close()

        async def accept() -> None:
            for _ in range(count):
                handoff = await pair.b.accept(listener)
                served[worker_of(handoff)] += 1
                serving.append(asyncio.create_task(serve(handoff)))

        async def upload(size: int) -> None:
            sock = fetch(await pair.a.dial(B6 if size % 2 else B, port))
            body = os.urandom(size)
            await loop.sock_sendall(sock, body)
            sock.shutdown(socket.SHUT_WR)
            assert await read_all(sock) == hashlib.sha256(body).digest()
            sock.close()

        serving: list[asyncio.Task[None]] = []
        await asyncio.gather(accept(), *(upload(100_000 + index) for index in range(count)))
        await asyncio.gather(*serving)
        assert len(served) == WORKERS, "60 connections leave no worker of three without any, but for 1 time in 10 ** 10"
        assert max(served.values()) < count * 0.75


@on_loop
async def test_port_0_is_the_same_port_everywhere_and_closing_closes_all(tmp_path: Path) -> None:
    async with running_pair(tmp_path, WORKERS) as pair:
        listener, (_, port) = await pair.b.listen(None, 0)
        other, (_, second) = await pair.b.listen(None, 0)
        assert port != second
        assert UNBOUND_LISTENERS[0] <= port <= UNBOUND_LISTENERS[1]
        dialled = [await pair.a.dial(B, port) for _ in range(30)]
        workers = {worker_of(await pair.b.accept(listener)) for _ in dialled}
        assert len(workers) == WORKERS
        waiting = asyncio.create_task(pair.b.accept(listener))
        await asyncio.sleep(0.05)
        await pair.b.close_listener(listener)
        with pytest.raises(DialError, match="closed"):
            await waiting
        for _ in range(12):
            with pytest.raises(DialError, match="refused"):
                await pair.a.dial(B, port)
        await pair.b.close_listener(other)


@on_loop
async def test_listener_that_is_closed_resets_who_was_not_accepted(tmp_path: Path) -> None:
    async with running_pair(tmp_path, WORKERS) as pair:
        loop = asyncio.get_running_loop()
        listener, (_, port) = await pair.b.listen(None, 0)
        socks = [fetch(await pair.a.dial(B, port)) for _ in range(12)]
        fetch(await pair.b.accept(listener)).close()  # the other workers have one each on offer by now
        await asyncio.sleep(0.05)
        await pair.b.close_listener(listener)
        reset = 0
        for sock in socks:
            with contextlib.suppress(ConnectionResetError):
                assert await asyncio.wait_for(loop.sock_recv(sock, 1), 30) == b""
                reset -= 1
            reset += 1
            sock.close()
        assert reset == 11


@on_loop
async def test_listen_that_fails_at_one_worker_is_undone_at_the_others(tmp_path: Path) -> None:
    async with running_pair(tmp_path, WORKERS) as pair:
        process = pair.b._slots[1].process
        assert process is not None
        # Taken at one worker alone, which the supervisor does not know.
        await process.request(protocol.Listen(10**6, B, 7000, None, 1, bytes(16)))
        with pytest.raises(DialError, match="in use"):
            await pair.b.listen(B, 7000)
        assert not pair.b._listeners
        process.send(protocol.Cancel(10**6))
        listener, _ = await pair.b.listen(B, 7000)
        assert {worker_of(await connected(pair, listener, 7000)) for _ in range(30)} == set(names(pair.b))


def names(supervisor: Supervisor) -> list[str]:
    return [Path(slot.path).name for slot in supervisor._slots]


async def connected(pair: Pair, listener: int, port: int) -> Handoff:
    """One more connection, of which nobody fetches either end."""
    dialled = await pair.a.dial(B, port)
    accepted = await asyncio.wait_for(pair.b.accept(listener), 30)
    assert accepted.remote == dialled.local
    return accepted


@on_loop
async def test_worker_that_dies_takes_its_share_alone_and_gets_a_new_one(tmp_path: Path) -> None:
    async with running_pair(tmp_path, WORKERS) as pair:
        loop = asyncio.get_running_loop()
        listener, (_, port) = await pair.b.listen(None, 0)
        ends = []
        for _ in range(30):
            dialled = await pair.a.dial(B, port)
            accepted = await pair.b.accept(listener)
            ends.append((fetch(dialled), fetch(accepted), worker_of(accepted)))
        accepting = asyncio.create_task(pair.b.accept(listener))
        victim = pair.b._slots[1]
        os.kill(pair.b.workers()[1].pid, signal.SIGKILL)
        for near, far, worker in ends:
            if worker == Path(victim.path).name:
                with pytest.raises(ConnectionResetError):
                    await asyncio.wait_for(loop.sock_recv(far, 1), 30)
            else:
                await loop.sock_sendall(near, b"still there")
                assert await asyncio.wait_for(loop.sock_recv(far, 20), 30) == b"still there"
            near.close()
            far.close()
        await until(victim.ready.is_set)
        await pair.a.dial(B, port)
        await asyncio.wait_for(accepting, 30)
        assert {worker_of(await connected(pair, listener, port)) for _ in range(30)} == set(names(pair.b))


@on_loop
async def test_worker_that_dies_with_a_connection_on_offer(tmp_path: Path) -> None:
    """What waited for accept() at the dead worker is gone; accept() goes on with what there is elsewhere."""
    async with running_pair(tmp_path, WORKERS) as pair:
        listener, (_, port) = await pair.b.listen(None, 0)
        remotes = {(await pair.a.dial(B, port)).local for _ in range(30)}
        first = await pair.b.accept(listener)
        await asyncio.sleep(0.1)
        os.kill(pair.b.workers()[2].pid, signal.SIGKILL)
        await asyncio.sleep(0.1)
        got = [first]
        with contextlib.suppress(TimeoutError):
            while True:
                got.append(await asyncio.wait_for(pair.b.accept(listener), 0.5))
        assert 10 < len(got) < 30
        assert all(worker_of(handoff) != "worker-2.sock" for handoff in got[1:])
        assert {handoff.remote for handoff in got} < remotes
        await asyncio.wait_for(connected(pair, listener, port), 20)


@on_loop
async def test_cancelled_accepts_lose_nothing(tmp_path: Path) -> None:
    async with running_pair(tmp_path, WORKERS) as pair:
        listener, (_, port) = await pair.b.listen(None, 0)
        remotes, accepted = set(), set()
        for round_ in range(30):
            accepting = [asyncio.create_task(pair.b.accept(listener)) for _ in range(3)]
            dialling = asyncio.create_task(pair.a.dial(B, port))
            await asyncio.sleep(round_ * 0.0002)
            for task in accepting:
                task.cancel()
            remotes.add((await dialling).local)
            done, _ = await asyncio.wait(accepting)
            accepted |= {task.result().remote for task in done if not task.cancelled()}
        while len(accepted) < len(remotes):
            accepted.add((await asyncio.wait_for(pair.b.accept(listener), 20)).remote)
        assert accepted == remotes
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pair.b.accept(listener), 0.1)


@on_loop
async def test_connection_that_waits_for_accept_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ztnode.node.shared_listener.RENEW_SECONDS", 0.05)
    async with running_pair(tmp_path, WORKERS) as pair:
        renewed: list[object] = []
        for slot in pair.b._slots:
            assert slot.process is not None
            monkeypatch.setattr(slot.process, "send", spy(slot.process.send, renewed))
        listener, (_, port) = await pair.b.listen(None, 0)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pair.b.accept(listener), 0.05)
        remote = (await pair.a.dial(B, port)).local
        await until(lambda: sum(isinstance(message, protocol.Renew) for message in renewed) >= 3)
        handoff = await pair.b.accept(listener)
        assert handoff.remote == remote
        fetch(handoff).close()
        await asyncio.sleep(0.1)
        count = len(renewed)
        await asyncio.sleep(0.15)
        assert len(renewed) == count, "taken is taken"


def spy(send: Callable[[protocol.ToWorker], None], seen: list[object]) -> Callable[[protocol.ToWorker], None]:
    def both(message: protocol.ToWorker) -> None:
        seen.append(message)
        send(message)

    return both


@on_loop
async def test_listener_of_a_network_that_goes_says_so(tmp_path: Path) -> None:
    async with running_pair(tmp_path, WORKERS) as pair:
        listener, _ = await pair.b.listen(None, 0, nwid=NWID)
        accepting = asyncio.create_task(pair.b.accept(listener))
        await asyncio.sleep(0.05)
        pair.b.port_down(7)
        for waiting in (accepting, pair.b.accept(listener)):
            with pytest.raises(DialError, match="is gone") as error:
                await asyncio.wait_for(waiting, 30)
            assert error.value.errno == errno.ENETDOWN
        await pair.b.close_listener(listener)


@on_loop
async def test_node_reaches_itself_whoever_has_the_listener(tmp_path: Path) -> None:
    async with running_pair(tmp_path, WORKERS) as pair:
        for port in (80, EPHEMERAL[0] + 5, EPHEMERAL[1]):
            listener, _ = await pair.a.listen(None, port)
            for host in (A, A6):
                times = []
                for _ in range(4):  # a busy machine may hold up some of them
                    start = time.monotonic()
                    dialled = await pair.a.dial(host, port)
                    times.append(time.monotonic() - start)
                    accepted = await asyncio.wait_for(pair.a.accept(listener), 30)
                    assert accepted.remote == dialled.local
                assert min(times) < 0.2, "no timer has to help, of which the first is at 0.25 s"
            await pair.a.close_listener(listener)
        assert 0 < await pair.a.ping(A, size=9_000) < 1
        loop = asyncio.get_running_loop()
        for port in range(5353, 5356):
            server, client = fetch(await pair.a.open_udp(None, port)), fetch(await pair.a.open_udp(None, 0))
            to = struct.pack("!BBH", 0, 4, port) + ip_address(A).packed
            await loop.sock_sendall(client, to + b"to myself" * 1000)
            assert (await asyncio.wait_for(loop.sock_recv(server, 70000), 30))[8:] == b"to myself" * 1000
            await loop.sock_sendall(client, to[:2] + b"\0\x09" + to[4:] + b"nobody")
            assert (await asyncio.wait_for(loop.sock_recv(client, 70000), 30))[:1] == b"\1"
            server.close()
            client.close()
        # Where one worker alone dials from, it alone listens; others come to it.
        listener, _ = await pair.b.listen(None, EPHEMERAL[0])
        assert {worker_of(await connected(pair, listener, EPHEMERAL[0])) for _ in range(9)} == {"worker-0.sock"}


@on_loop
async def test_each_question_is_answered_once(tmp_path: Path) -> None:
    async with running_pair(tmp_path, WORKERS) as pair:
        await pair.a.ping(B)
        await pair.a.ping(B6)
        resets = watch(pair, lambda frame: frame[12:14] == b"\x08\x00" and frame[23] == 6 and bool(frame[47] & 4))
        for count in range(1, 7):
            with pytest.raises(DialError, match="refused"):
                await pair.a.dial(B, 9)
            assert len(resets) == count
        echoes = watch(pair, lambda frame: frame[12:14] == b"\x08\x00" and frame[23] == 1)
        await pair.a.ping(B)
        assert len(echoes) == 2
        arps = watch(pair, lambda frame: frame[12:14] == b"\x08\x06")
        pair.b.port_up(7, nwid=NWID, mac=0x020000000002, mtu=2800, addresses=[f"{B}/24", "10.121.0.3/24"], routes=[])
        await until(lambda: bool(arps))  # one announcement for three workers
        await pair.a.ping("10.121.0.3")
        await asyncio.sleep(0.1)
        assert [frame[21] for frame in arps] == [1, 1, 2], "announcement, request, reply"


@on_loop
async def test_dead_address_fails_soon_from_each_worker(tmp_path: Path) -> None:
    async with running_pair(tmp_path, WORKERS) as pair:
        start = time.monotonic()
        dials = [pair.a.dial("10.121.0.99", 80) for _ in range(WORKERS)]
        for result in await asyncio.gather(*dials, return_exceptions=True):
            assert isinstance(result, DialError)
            assert result.errno == errno.EHOSTUNREACH
        assert time.monotonic() - start < 20, "2.5 s of asking, and not the 30 s of patience"


@on_loop
async def test_ping_with_fragments(tmp_path: Path) -> None:
    async with running_pair(tmp_path, WORKERS) as pair:
        for host in (B, B6):
            assert 0 < await pair.a.ping(host, size=20_000) < 1


@pytest.mark.parametrize("host", [B, B6])
@on_loop
async def test_udp_with_fragments_at_every_worker(tmp_path: Path, host: str) -> None:
    async with running_pair(tmp_path, WORKERS) as pair:
        loop = asyncio.get_running_loop()
        address = ip_address(host).packed
        owners = set()
        for port in range(5353, 5359):
            handoff = await pair.b.open_udp(None, port)
            owners.add(worker_of(handoff))
            server = fetch(handoff)
            client = fetch(await pair.a.open_udp(None, 0))
            to = struct.pack("!BBH", 0, len(address), port) + address
            for size in (10, 9_000, 60_000):
                body = os.urandom(size)
                await loop.sock_sendall(client, to + body)
                request = await asyncio.wait_for(loop.sock_recv(server, 70000), 30)
                assert request[len(to) :] == body
                await loop.sock_sendall(server, request[: len(to)] + body[::-1])
                assert await asyncio.wait_for(loop.sock_recv(client, 70000), 30) == to + body[::-1]
            nobody = struct.pack("!BBH", 0, len(address), 9) + address
            await loop.sock_sendall(client, nobody + bytes(2_000))
            failure = await asyncio.wait_for(loop.sock_recv(client, 70000), 30)
            assert failure == b"\1" + nobody[1:] + struct.pack("!I", errno.ECONNREFUSED)
            server.close()
            client.close()
        assert len(owners) == WORKERS
        assert pair.b.counters["fragments_lost"] == 0
