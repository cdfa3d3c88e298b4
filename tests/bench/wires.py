"""Our congestion controls and the kernel's on five wires: what one upload gets, and what it leaves to another.

    python -m tests.bench.wires [--seconds N] [--rounds N] [--wire NAME ...] [--control NAME ...]

Three hosts on one switch in this process: the sender under examination (our stack, or a kernel), a rival (a kernel with
CUBIC, where the wire has one), and the sink (a kernel). What goes to the sink passes one bottleneck: a rate, a queue
that drops what it has no room for, losses at random, and a delay each way. Kernels sit behind TAP devices in namespaces
of their own. MB/s (10^6 bytes) that arrive from the second second on; medians. Needs root.
"""

from __future__ import annotations

import argparse
import contextlib
import heapq
import os
import random
import select
import socket
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from tests.netns.tapharness import Namespace, Tap, unavailable
from ztnode.netstack.config import PortConfig, StackConfig
from ztnode.netstack.stack import Stack
from ztnode.netstack.tcp.congestion import ALGORITHMS
from ztnode.netstack.tcp.tcp_config import TcpConfig

MTU: Final = 1500
PORT: Final = 7000
IP: Final = {"sender": "10.80.0.1", "rival": "10.80.0.2", "sink": "10.80.0.3"}
MAC: Final = {name: 0x020000000001 + number for number, name in enumerate(IP)}
KERNELS: Final = {"kernel cubic": "cubic", "kernel bbr": "bbr"}
_BROADCAST: Final = b"\xff" * 6


@dataclass(frozen=True, slots=True)
class Wire:
    """``rate``: bytes a second; ``queue``: bytes; ``delay``: seconds each way."""

    rate: float
    queue: int
    delay: float
    loss: float = 0.0
    rival: bool = False


WIRES: Final = {
    "clean": Wire(30e6, 1 << 20, 0.001),
    "1 % loss": Wire(30e6, 1 << 20, 0.01, loss=0.01),
    "shallow, shared": Wire(10e6, 40_000, 0.01, rival=True),
    "deep, shared": Wire(10e6, 800_000, 0.01, rival=True),
    "100 ms": Wire(20e6, 1 << 20, 0.05),
}


class Bottleneck:
    """One direction: frames leave one after the other at the rate, and arrive a delay later."""

    def __init__(self, wire: Wire, generator: random.Random) -> None:
        self._wire = wire
        self._random = generator.random
        self._free_at = 0.0
        self._held: deque[tuple[float, bytes]] = deque()
        self.full = 0

    def push(self, frame: bytes, now: float) -> None:
        wire = self._wire
        if wire.loss and self._random() < wire.loss:
            return
        begin = max(now, self._free_at)
        if (begin - now) * wire.rate + len(frame) > wire.queue:
            self.full += 1
            return
        self._free_at = begin + len(frame) / wire.rate
        self._held.append((self._free_at + wire.delay, frame))

    def pull(self, now: float) -> Iterator[bytes]:
        while self._held and self._held[0][0] <= now:
            yield self._held.popleft()[1]

    @property
    def due(self) -> float:
        return self._held[0][0] if self._held else float("inf")


class Lab:
    """The switch with its hosts."""

    def __init__(self, wire: Wire, control: str) -> None:
        self._wire = wire
        self._there = Bottleneck(wire, random.Random(1))
        self._back: list[tuple[float, int, bytes]] = []
        self._serial = 0
        self._now = time.monotonic()
        self._spaces: dict[str, Namespace] = {}
        self._taps: dict[str, Tap] = {}
        self._received = {"sender": 0, "rival": 0}
        self._ending = False
        self._stack: Stack | None = None
        kernels = ["sink"] + ["rival"] * wire.rival
        if control in KERNELS:
            kernels.append("sender")
        else:
            config = StackConfig(announce=False, tcp=TcpConfig(congestion=control))
            self._stack = Stack(random=os.urandom, now=self._now, config=config)
            self._stack.add_port(0, PortConfig(MAC["sender"], MTU, (f"{IP['sender']}/24",)), self._now)
        for name in kernels:
            space = self._spaces[name] = Namespace()
            tap = self._taps[name] = Tap(space, "tap0", MTU)
            mac = MAC[name].to_bytes(6, "big").hex(":")
            space.ip("link", "set", "tap0", "address", mac)
            space.ip("address", "add", f"{IP[name]}/24", "dev", "tap0")
            assert tap.fd >= 0
        self._names = {MAC[name].to_bytes(6, "big"): name for name in IP}
        server = self._spaces["sink"].run(lambda: socket.create_server((IP["sink"], PORT), backlog=8))
        self._threads = [threading.Thread(target=self._serve, args=(server,), daemon=True)]
        for name in ("sender", "rival"):
            if name in self._spaces:
                kind = KERNELS[control] if name == "sender" else "cubic"
                self._threads.append(threading.Thread(target=self._upload, args=(name, kind), daemon=True))

    def _serve(self, server: socket.socket) -> None:
        server.settimeout(0.5)
        while not self._ending:
            with contextlib.suppress(TimeoutError):
                connected, (ip, _) = server.accept()
                name = next(each for each in IP if IP[each] == ip)
                threading.Thread(target=self._count, args=(connected, name), daemon=True).start()
        server.close()

    def _count(self, connected: socket.socket, name: str) -> None:
        with connected, contextlib.suppress(OSError):
            while not self._ending and (length := len(connected.recv(1 << 18))):
                self._received[name] += length

    def _upload(self, name: str, kind: str) -> None:
        sock = self._spaces[name].run(socket.socket)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, kind.encode())
        sock.settimeout(0.5)
        with sock, contextlib.suppress(OSError):
            sock.connect((IP["sink"], PORT))
            data = bytes(1 << 16)
            while not self._ending:
                with contextlib.suppress(TimeoutError):
                    sock.send(data)

    def run(self, seconds: float) -> tuple[float, float]:
        """Bytes a second of sender and rival, after a second to begin with."""
        for thread in self._threads:
            thread.start()
        connection = None
        if self._stack is not None:
            connection = self._stack.connect(IP["sink"], PORT, time.monotonic())
        data = bytes(1 << 16)
        began = time.monotonic()
        first: tuple[float, int, int] | None = None
        while (now := time.monotonic()) < began + seconds:
            if connection is not None:
                if connection.error is not None:
                    raise connection.error
                while connection.established and connection.writable > 0:
                    connection.write(data)
            self._turn()
            if first is None and now - began > 1.0:
                first = now, self._received["sender"], self._received["rival"]
        assert first is not None
        passed = time.monotonic() - first[0]
        return (self._received["sender"] - first[1]) / passed, (self._received["rival"] - first[2]) / passed

    def _turn(self) -> None:
        now = time.monotonic()
        stack = self._stack
        due = min(self._there.due, self._back[0][0] if self._back else float("inf"), now + 0.01)
        if stack is not None:
            for _, parts in stack.to_send(now):
                self._switch(b"".join(parts), now)
            stack.copy_unread()
            due = min(due, stack.next_timer() or due, self._there.due)
        readable, _, _ = select.select([tap.fd for tap in self._taps.values()], [], [], max(0.0, due - now))
        now = time.monotonic()
        for name, tap in self._taps.items():
            if tap.fd in readable:
                for came in tap.read(256):
                    self._switch(bytes(came), now, name)
        for frame in self._there.pull(now):
            with contextlib.suppress(OSError):
                self._taps["sink"].write((frame,))
        arrived = []
        while self._back and self._back[0][0] <= now:
            frame = heapq.heappop(self._back)[2]
            for name in self._receivers(frame, "sink"):
                if name in self._taps:
                    with contextlib.suppress(OSError):
                        self._taps[name].write((frame,))
                elif stack is not None and name == "sender":
                    arrived.append(memoryview(frame))
        if stack is not None:
            if arrived:
                stack.receive(0, arrived, now)
            timer = stack.next_timer()
            if timer is not None and timer <= now:
                stack.handle_timer(now)

    def _receivers(self, frame: bytes, source: str) -> list[str]:
        if frame[0] & 1:
            return [name for name in IP if name != source]
        return [self._names.get(frame[:6], "")]

    def _switch(self, frame: bytes, now: float, source: str = "sender") -> None:
        if source == "sink":
            self._serial += 1
            heapq.heappush(self._back, (now + self._wire.delay, self._serial, frame))
        elif "sink" in self._receivers(frame, source):
            self._there.push(frame, now)

    def close(self) -> None:
        self._ending = True
        for thread in self._threads:
            thread.join(2)
        for tap in self._taps.values():
            tap.close()
        for space in self._spaces.values():
            space.close()


def measure(wire: Wire, control: str, seconds: float) -> tuple[float, float]:
    """Of one upload: its rate, and the rival's."""
    lab = Lab(wire, control)
    try:
        return lab.run(seconds)
    finally:
        lab.close()


def main() -> int:
    """A line for each wire and control."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.wires", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    controls = [*ALGORITHMS, *KERNELS]
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--wire", nargs="+", choices=WIRES, default=list(WIRES), metavar="NAME")
    parser.add_argument("--control", nargs="+", choices=controls, default=controls, metavar="NAME")
    chosen = parser.parse_args()
    if (reason := unavailable()) is not None:
        print(f"no wires here: {reason}", file=sys.stderr)
        return 2
    for name in chosen.wire:
        samples: dict[str, list[tuple[float, float]]] = {control: [] for control in chosen.control}
        for _ in range(chosen.rounds):
            for control in chosen.control:
                samples[control].append(measure(WIRES[name], control, chosen.seconds))
        for control, found in samples.items():
            rate, rival = (statistics.median(column) / 1e6 for column in zip(*found, strict=True))
            left = f"   the rival {rival:6.2f}" if WIRES[name].rival else ""
            print(f"{name:16}{control:14}{rate:7.2f} MB/s{left}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
