"""Two TCP layers under a fake clock, joined by a link that can lose, delay, reorder, repeat and damage packets.

Everything follows from the seed: the same seed gives the same run, packet for packet.
"""

from __future__ import annotations

import hashlib
import heapq
import random
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ztnode.netstack.frame import Frame
from ztnode.netstack.tcp.connection import TcpConnection
from ztnode.netstack.tcp.layer import TcpLayer
from ztnode.netstack.tcp.listener import TcpListener
from ztnode.netstack.tcp.tcp_config import TcpConfig
from ztnode.wire import tcp as wire
from ztnode.wire.checksum import verify

A4, B4 = bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2])
A6, B6 = bytes.fromhex("fd00" + "00" * 13 + "01"), bytes.fromhex("fd00" + "00" * 13 + "02")
PORT = 7


@dataclass
class Impairment:
    """What one direction of the link does. Probabilities per packet, times in seconds."""

    loss: float = 0.0
    duplicate: float = 0.0
    corrupt: float = 0.0
    reorder: float = 0.0
    delay: float = 0.005
    jitter: float = 0.0
    rate: float = 0.0
    """Bytes per second; 0 for no limit. The queue before it holds ``queue`` seconds."""
    queue: float = 0.1
    batch: float = 0.0
    """Arrivals are rounded up to multiples of this, so that several make one batch."""


class SimFlow:
    """A flow whose frames go straight to the other host of the simulation."""

    def __init__(self, host: Host, local: bytes, remote: bytes, mtu: int) -> None:
        self.host = host
        self.port_index = PORT
        self.local = local
        self.remote = remote
        self.mtu = self.takes = mtu
        self.generation = 0
        if len(local) == 4:
            ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 0, 0, 0x4000, 64, 6, 0, local, remote)
            self.header = b"\x02" * 12 + b"\x08\x00" + ip
        else:
            self.header = b"\x02" * 12 + b"\x86\xdd" + struct.pack("!IHBB16s16s", 6 << 28, 0, 6, 64, local, remote)

    def send(self, frames: Sequence[Frame]) -> None:
        for frame in frames:
            self.host.transmit(b"".join(frame))

    def confirm(self, now: float) -> None:
        """Nobody counts."""

    def set_mtu(self, mtu: int) -> None:
        self.mtu = self.takes = mtu
        self.generation += 1


class Host:
    """A TCP layer with its owner's side: callbacks are plain functions of the test."""

    def __init__(self, world: World, addresses: tuple[bytes, bytes], config: TcpConfig, mtu: int, name: str) -> None:
        self.world = world
        self.name = name
        self.addresses = addresses
        self.mtu = mtu
        self.flows: dict[tuple[bytes, bytes], SimFlow] = {}
        self.layer = TcpLayer(self, random=world.random_bytes, now=world.now, config=config)
        self.peer: Host = self
        self.impairment = Impairment()
        self.line_free = 0.0
        self.filter: Callable[[bytes], bool] | None = None
        """Test hook: return False to lose the packet."""
        self.sent = 0
        self.log: list[tuple[float, wire.Header, int]] = []
        self.poll: Callable[[], None] = lambda: None

    def flow_to(self, port_index: int, local: bytes, remote: bytes) -> SimFlow:
        key = (local, remote)
        if key not in self.flows:
            self.flows[key] = SimFlow(self, local, remote, self.mtu)
        return self.flows[key]

    def transmit(self, frame: bytes) -> None:
        world, link, rng = self.world, self.impairment, self.world.rng
        packet = check_frame(frame)
        self.sent += 1
        if world.keep_log:
            header, payload = wire.parse(packet[1])
            self.log.append((world.now, header, len(payload)))
        if self.filter is not None and not self.filter(packet[1]):
            return
        if rng.random() < link.loss:
            return
        at = world.now
        if link.rate:
            if self.line_free - world.now > link.queue:
                return
            self.line_free = at = max(self.line_free, world.now) + len(frame) / link.rate
        for _ in range(2 if rng.random() < link.duplicate else 1):
            arrival = at + link.delay + rng.random() * link.jitter
            if rng.random() < link.reorder:
                arrival += rng.random() * (link.delay + 0.01)
            if link.batch:
                arrival = (int(arrival / link.batch) + 1) * link.batch
            key, segment = packet
            if rng.random() < link.corrupt:
                damaged = bytearray(segment)
                damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
                segment = bytes(damaged)
            world.order += 1
            heapq.heappush(world.events, (arrival, world.order, self.peer, key, segment))

    def receive(self, segments: list[tuple[bytes, bytes]]) -> None:
        now = self.world.now
        scratch = [bytearray(segment) for _, segment in segments]
        views = [(key, memoryview(copy)) for (key, _), copy in zip(segments, scratch, strict=True)]
        self.layer.receive(PORT, views, now)
        self.poll()
        self.layer.copy_unread()
        for copy in scratch:  # whoever still looks at the ring's memory reads rubbish
            copy[:] = b"\xee" * len(copy)
        self.layer.flush(now)

    def turn(self) -> None:
        """The owner acts and the layer sends."""
        self.poll()
        self.layer.copy_unread()
        self.layer.flush(self.world.now)

    def connect(self, port: int = 80, v6: bool = False, **options: Any) -> TcpConnection:
        family = 1 if v6 else 0
        flow = self.flow_to(PORT, self.addresses[family], self.peer.addresses[family])
        return self.layer.connect(flow, port, self.world.now, **options)

    def listen(self, port: int = 80, **options: Any) -> TcpListener:
        return self.layer.listen(port, **options)


def check_frame(frame: bytes) -> tuple[bytes, bytes]:
    """(connection key, segment) of a frame of ours, with everything that a receiver could object to checked."""
    if frame[12:14] == b"\x08\x00":
        assert int.from_bytes(frame[16:18], "big") == len(frame) - 14
        assert verify(frame[14:34])
        key, segment = frame[26:38], frame[34:]
        pseudo = frame[26:34] + struct.pack("!HH", 6, len(segment))
    else:
        assert int.from_bytes(frame[18:20], "big") == len(frame) - 54
        key, segment = frame[22:58], frame[54:]
        pseudo = frame[22:54] + struct.pack("!II", len(segment), 6)
    assert verify(pseudo + segment + b"\0" * (len(segment) & 1)), "TCP checksum"
    return key, segment


@dataclass
class World:
    """The clock, the seed and the packets under way."""

    seed: int = 0
    config_a: TcpConfig = field(default_factory=TcpConfig)
    config_b: TcpConfig = field(default_factory=TcpConfig)
    mtu: int = 1500
    keep_log: bool = False
    start: float = 1000.0

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.now = self.start
        self.events: list[tuple[float, int, Host, bytes, bytes]] = []
        self.order = 0
        self.a = Host(self, (A4, A6), self.config_a, self.mtu, "a")
        self.b = Host(self, (B4, B6), self.config_b, self.mtu, "b")
        self.a.peer, self.b.peer = self.b, self.a
        self.steps = 0

    def random_bytes(self, count: int) -> bytes:
        return self.rng.randbytes(count)

    def impair(self, **options: float) -> None:
        for host in (self.a, self.b):
            host.impairment = Impairment(**options)

    def step(self) -> bool:
        """Go to the next thing that happens; False when nothing ever will."""
        self.steps += 1
        due = [self.events[0][0]] if self.events else []
        for host in (self.a, self.b):
            timer = host.layer.next_timer()
            if timer is not None:
                due.append(timer)
        if not due:
            return False
        self.now = max(self.now, min(due))
        batches: dict[str, list[tuple[bytes, bytes]]] = {}
        while self.events and self.events[0][0] <= self.now:
            _, _, host, key, segment = heapq.heappop(self.events)
            batches.setdefault(host.name, []).append((key, segment))
        for host in (self.a, self.b):
            if host.name in batches:
                host.receive(batches[host.name])
        for host in (self.a, self.b):
            timer = host.layer.next_timer()
            if timer is not None and timer <= self.now:
                host.layer.handle_timer(self.now)
                host.turn()
                after = host.layer.next_timer()
                assert after is None or after > self.now or after != timer, "a timer that does not go away"
        return True

    def run(self, until: Callable[[], bool], limit: float = 600.0, steps: int = 2_000_000) -> bool:
        """Run until the condition holds; False when ``limit`` seconds passed or nothing is left to happen."""
        self.a.turn()
        self.b.turn()
        end = self.now + limit
        while not until():
            if steps <= 0:
                raise AssertionError(f"no end after many steps at {self.now} (seed {self.seed})")
            steps -= 1
            if not self.step() or self.now > end:
                return until()
        return True

    def run_for(self, seconds: float) -> None:
        """Let time pass."""
        self.a.turn()
        self.b.turn()
        end = self.now + seconds
        while True:
            due = [self.events[0][0]] if self.events else []
            due += [t for t in (self.a.layer.next_timer(), self.b.layer.next_timer()) if t is not None]
            if not due or min(due) > end:
                break
            self.step()
        self.now = end
        self.a.layer.now = self.b.layer.now = end

    def pair(self, v6: bool = False, **options: Any) -> tuple[TcpConnection, TcpConnection]:
        """An established connection from a to b."""
        listener = self.b.listen(80)
        client = self.a.connect(80, v6, **options)
        assert self.run(lambda: listener.pending > 0 and client.established, 60.0), client.error
        server = listener.accept()
        assert server is not None
        listener.close()
        return client, server


class Transfer:
    """Sends ``total`` pseudo-random bytes from one connection to the other and checks that they arrive whole."""

    def __init__(self, world: World, source: TcpConnection, sink: TcpConnection, total: int, **options: Any) -> None:
        self.source = source
        self.sink = sink
        self.total = total
        self.written = 0
        self.received = 0
        self.chunk = options.get("chunk", 65536)
        self.read_limit = options.get("read_limit", 1 << 30)
        self.shutdown = options.get("shutdown", True)
        self.data = random.Random(world.seed + 77).randbytes(min(total, 1 << 20)) or b"x"
        self.sent_hash = hashlib.sha256()
        self.got_hash = hashlib.sha256()
        self.finished_at: float | None = None
        self.world = world

    def pump(self) -> None:
        source, sink = self.source, self.sink
        while self.written < self.total and source.error is None and source.writable > 0:
            offset = self.written % len(self.data)
            piece = self.data[offset : offset + min(self.chunk, self.total - self.written, source.writable)]
            source.write(piece)
            self.sent_hash.update(piece)
            self.written += len(piece)
        if self.written == self.total and self.shutdown:
            source.shutdown()
        while sink.readable:
            for part in sink.read(self.read_limit):
                self.got_hash.update(part)
                self.received += len(part)
        if self.complete and self.finished_at is None:
            self.finished_at = self.world.now

    def seconds_since(self, start: float) -> float:
        """How long it took, from ``start`` on."""
        assert self.finished_at is not None
        return self.finished_at - start

    @property
    def complete(self) -> bool:
        return self.received == self.total and (self.sink.eof or not self.shutdown)

    def check(self) -> None:
        assert self.received == self.total
        assert self.got_hash.digest() == self.sent_hash.digest(), f"seed {self.world.seed}: bytes differ"


def transfer(
    world: World, source: TcpConnection, sink: TcpConnection, total: int, limit: float = 600.0, **options: Any
) -> Transfer:
    """Run one transfer to its end; returns it."""
    job = Transfer(world, source, sink, total, **options)
    world.a.poll = world.b.poll = job.pump
    began = world.now
    assert world.run(lambda: job.complete, limit), (
        f"seed {world.seed}: {job.received} of {total} bytes after {world.now - began:.1f} s; "
        f"{source.state.name} {source.error} {source.info()} | {sink.state.name} {sink.error} {sink.info()}"
    )
    job.check()
    return job
