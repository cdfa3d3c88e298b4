"""The worker's loop around a stack in the test's hands: pressure on the way out, bad control messages, the end."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from ztnode.netstack.stack import Stack
from ztnode.ring import Ring
from ztnode.worker import protocol
from ztnode.worker.poller import Poller
from ztnode.worker.worker import ChannelClosed, Worker


class FakeTransit:
    """What a gateway would carry on: nothing."""

    owner: object = None

    def leads(self, _index: int, _address: bytes) -> bool:
        return False


class FakeStack:
    """Frames out as the test puts them, frames in as they came."""

    timed = True
    groups_changed = ()

    def __init__(self) -> None:
        self.out: list[tuple[int, tuple[bytes, ...]]] = []
        self.received: list[tuple[int, bytes]] = []
        self.ports: list[int] = []
        self.made_ahead: list[float] = []
        self.changed: list[Echo] = []
        self.echoes: list[Echo] = []
        self.transit = FakeTransit()
        self.tcp = SimpleNamespace(unread=SimpleNamespace(total=0), unacked=SimpleNamespace(total=0))

    def ready(self) -> list[Echo]:
        taken, self.changed = self.changed, []
        return taken

    def next_timer(self) -> None:
        return None

    def to_send(self, _now: float) -> list[tuple[int, tuple[bytes, ...]]]:
        taken, self.out = self.out, []
        for echo in self.echoes:
            echo.sent()
        return taken

    def receive(self, index: int, frames: list[memoryview], _now: float) -> None:
        self.received += [(index, bytes(frame)) for frame in frames]

    def copy_unread(self) -> None:
        pass

    def make_ahead(self, now: float) -> None:
        self.made_ahead.append(now)

    def add_port(self, index: int, _config: object, _now: float) -> None:
        self.ports.append(index)

    def remove_port(self, index: int, _now: float) -> None:
        self.ports.remove(index)


class Echo:
    """A socket of the stack, and its owner, that speaks to itself: what is sent makes it ready again."""

    def __init__(self, stack: FakeStack, times: int) -> None:
        self.owner = self
        self.told = 0
        self._stack = stack
        self._times = times
        stack.changed.append(self)
        stack.echoes.append(self)

    def on_ready(self) -> None:
        self.told += 1

    def sent(self) -> None:
        if self.told < self._times:
            self._stack.changed = [self]


class Bench:
    def __init__(self, directory: Path) -> None:
        self.stack = FakeStack()
        self.ring_in, self.ring_out = Ring.create(4096), Ring.create(4096)
        self.control, theirs = socket.socketpair()
        self.worker = Worker(
            control=theirs,
            ring_in=self.ring_in,
            ring_out=self.ring_out,
            stack=cast(Stack, self.stack),
            path=str(directory / "w.sock"),
            now=0.0,
        )

    def tell(self, *messages: protocol.Message) -> None:
        self.control.sendall(b"".join(map(protocol.build, messages)))
        self.worker.poller.dispatch(self.worker.poller.wait(1))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_what_the_stack_sends_to_itself_wakes_its_owner_without_a_timer(bench: Bench) -> None:
    echo = Echo(bench.stack, 3)
    bench.worker._serve_owners(0.0)
    assert echo.told == 3
    assert bench.worker._timeout() != 0.0


@pytest.mark.parametrize(
    ("dialled", "by_ring", "by_lane", "made"),
    [(True, 0, False, 1), (True, 1, False, 0), (True, 0, True, 0), (False, 0, False, 0)],
)
def test_the_next_connection_is_made_while_what_a_client_asked_for_is_under_way(
    bench: Bench, dialled: bool, by_ring: int, by_lane: bool, made: int
) -> None:
    """Not when something has come for it, and not when nobody has dialled lately."""
    bench.worker.pairs.due = time.monotonic() + 60 if dialled else 0.0
    bench.ring_in.write_many([(0, (b"frame",))] * by_ring)
    if by_lane:
        bench.worker._ports[0] = 1
        bench.worker.take_frames(0, [memoryview(b"frame")])
    bench.control.sendall(protocol.build(protocol.Stop()))
    bench.worker.run()
    assert len(bench.stack.made_ahead) == made


def test_endless_talk_with_itself_leaves_others_their_turn_and_loses_no_wake_up(bench: Bench) -> None:
    echo = Echo(bench.stack, 10)
    rounds = 0
    bench.worker._serve_owners(0.0)
    while bench.worker._timeout() == 0.0:
        assert echo.told < 10
        bench.worker._serve_owners(0.0)
        rounds += 1
    assert echo.told == 10
    assert rounds >= 2


ROUTES = (("10.9.0.0/16", "10.0.0.9"),)
PORT = protocol.PortUp(3, 0x8056C2E21C000001, 0x020000000001, 2800, ("10.0.0.1/24",), ROUTES, 1)


def test_full_ring_holds_the_stack_back_and_loses_nothing(bench: Bench) -> None:
    frames: list[tuple[int, tuple[bytes, ...]]] = [(n, (b"head", bytes(600))) for n in range(40)]
    bench.stack.out = frames[:]
    bench.worker._transmit(0.0)
    received = []
    for _ in range(40):
        while records := bench.ring_out.read():
            received += [tag for tag, _ in records]
        if len(received) >= 40:
            break
        assert bench.worker._blocked
        bench.ring_out.release()
        assert select.select([bench.ring_out.space_fd], [], [], 0)[0], "the worker would sleep for ever"
        bench.ring_out.clear_space()
        bench.stack.out.append((99, (b"not before the rest",)))
        bench.worker._transmit(0.0)
        bench.stack.out = []
    assert received == [*range(40), *received[40:]]
    assert set(received[40:]) <= {99}
    assert bench.worker.counters["ring_stalls"] == 1


def test_room_that_appears_while_announcing_is_used(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The consumer frees the ring between the failed write and the announcement: nobody will ring then."""
    ring = bench.ring_out
    taken: list[int] = []
    original = Ring.prepare_wait

    def prepare_wait(self: Ring) -> bool:
        taken.extend(tag for tag, _ in self.read())
        self.release()
        return original(self)

    monkeypatch.setattr(Ring, "prepare_wait", prepare_wait)
    bench.stack.out = [(n, (bytes(600),)) for n in range(40)]
    bench.worker._transmit(0.0)
    assert not bench.worker._blocked
    while records := ring.read():
        taken += [tag for tag, _ in records]
        ring.release()
    assert taken == list(range(40))


def test_frames_go_to_their_ports_and_strangers_are_counted(bench: Bench) -> None:
    bench.tell(PORT, protocol.PortUp(4, 5, 6, 1500, (), (), 0))
    assert bench.stack.ports == [3, 4]
    bench.ring_in.write_many([(3, (b"one",)), (4, (b"two",)), (9, (b"lost",)), (3, (b"three",))])
    bench.worker._receive(bench.ring_in.read(), 0.0)
    assert sorted(bench.stack.received) == [(3, b"one"), (3, b"three"), (4, b"two")]
    assert bench.worker.counters["unknown_port"] == 1
    bench.tell(protocol.PortDown(4), protocol.PortDown(4))
    assert bench.stack.ports == [3]


def test_message_in_the_wrong_direction_ends_the_worker(bench: Bench) -> None:
    with pytest.raises(protocol.ProtocolError, match="from worker to node"):
        bench.tell(protocol.Ready("/tmp/x"))


def test_a_lane_whose_socket_finds_no_room_is_none_and_the_worker_lives(bench: Bench) -> None:
    """A worker may have as many clients as it may have descriptors. The next lane gets its own socket all the same."""
    kept: list[int] = []

    def lane(number: int) -> protocol.LaneUp:
        return protocol.LaneUp(number, 3, 1, 2, 4, 5, 6, 1432, 100, bytes(64))

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as lent:
        lent.connect(("127.0.0.1", 9))
        bench.tell(PORT)
        try:
            while True:
                kept.append(os.dup(0))
        except OSError:
            pass
        try:
            socket.send_fds(bench.control, [protocol.build(lane(1))], [lent.fileno()])
            bench.worker.poller.dispatch(bench.worker.poller.wait(1))
        finally:
            for descriptor in kept:
                os.close(descriptor)
        assert not bench.worker._lanes._lanes
        (message,) = protocol.MessageStream().feed(bench.control.recv(65536))
        assert isinstance(message, protocol.LaneRefused)
        assert message.id == 1
        assert "too many open files" in message.reason.lower()
        socket.send_fds(bench.control, [protocol.build(lane(2))], [lent.fileno()])
        bench.worker.poller.dispatch(bench.worker.poller.wait(1))
        assert list(bench.worker._lanes._lanes) == [2]
        bench.worker._lanes.down(2)


def test_end_of_the_channel_ends_the_worker(bench: Bench) -> None:
    bench.control.close()
    with pytest.raises(ChannelClosed):
        bench.worker.poller.dispatch(bench.worker.poller.wait(1))


def test_node_that_reads_nothing_does_not_grow_the_worker(bench: Bench) -> None:
    stats = protocol.Stats(0, {f"{n:0200}": n for n in range(4000)}, {})
    with pytest.raises(OSError, match="does not read"):
        for _ in range(100):
            bench.worker.send(stats)


def test_started_by_hand_it_says_who_starts_it() -> None:
    result = subprocess.run([sys.executable, "-m", "ztnode.worker"], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "ztnode serve" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.skipif(not hasattr(os, "eventfd"), reason="needs Linux' eventfd")
def test_a_bell_that_nobody_reads_rings_each_time() -> None:
    poller, bell = Poller(), os.eventfd(0, os.EFD_NONBLOCK)
    assert poller.wake_by(bell)
    for _ in range(3):
        os.eventfd_write(bell, 1)
        assert [fd for fd, _ in poller.wait(10)] == [bell]
        assert poller.wait(0) == [], "once for each time"
    poller.dispatch([(bell, 1)])
    os.close(bell)
