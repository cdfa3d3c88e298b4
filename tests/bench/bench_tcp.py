"""What TCP alone costs per segment, each way: no IP layer, no device, the segments handed over in batches.

python -m tests.bench.bench_tcp [--profile]
"""

from __future__ import annotations

import cProfile
import os
import pstats
import struct
import sys
import time
from collections.abc import Sequence

from ztnode.netstack.frame import Frame
from ztnode.netstack.tcp.connection import TcpConnection
from ztnode.netstack.tcp.layer import TcpLayer

BATCH = 40
"""Segments that one read of the ring brings."""
CHUNK = 256 << 10


class Side:
    """A layer whose one flow collects frames."""

    port_index = 0
    generation = 0

    def __init__(self, local: bytes, remote: bytes, mtu: int) -> None:
        self.local, self.remote, self.mtu, self.takes = local, remote, mtu, mtu
        ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 0, 0, 0x4000, 64, 6, 0, local, remote)
        self.header = b"\x02" * 12 + b"\x08\x00" + ip
        self.frames: list[Frame] = []
        self.layer = TcpLayer(self, random=os.urandom, now=0.0)
        self.seconds = 0.0

    def flow_to(self, port_index: int, local: bytes, remote: bytes) -> Side:
        return self

    def send(self, frames: Sequence[Frame]) -> None:
        self.frames.extend(frames)

    def confirm(self, now: float) -> None:
        pass

    def take(self) -> list[tuple[bytes, memoryview]]:
        """The segments sent since the last call, as the other side's IP layer would hand them over."""
        joined = [b"".join(frame) for frame in self.frames]
        self.frames.clear()
        return [(frame[26:38], memoryview(frame)[34:]) for frame in joined]


def measure(mtu: int, total: int, *, half_closed: bool = False) -> tuple[float, float, int]:
    """Seconds of the sender, seconds of the receiver, and data segments, for `total` bytes.

    `half_closed`: the receiver shut its sending side down first, as a client that has said its request.
    """
    a, b = Side(b"\x0a\0\0\1", b"\x0a\0\0\2", mtu), Side(b"\x0a\0\0\2", b"\x0a\0\0\1", mtu)
    clock = time.perf_counter
    now, written, got, segments = 0.0, 0, 0, 0
    listener = b.layer.listen(80)
    client = a.layer.connect(a, 80, now)
    server: TcpConnection | None = None
    chunk = os.urandom(CHUNK)
    while got < total:
        now += 0.001
        begin = clock()
        while written < total and client.writable > 0:
            client.write(chunk)
            written += len(chunk)
        a.layer.flush(now)
        a.seconds += clock() - begin
        out = a.take()
        segments += len(out)
        for start in range(0, len(out), BATCH):
            batch = out[start : start + BATCH]
            begin = clock()
            b.layer.receive(0, batch, now)
            if server is None:
                server = listener.accept()
                if server is not None and half_closed:
                    server.shutdown()
            if server is not None and server.readable:
                got += sum(map(len, server.read(1 << 30)))
            b.layer.copy_unread()
            b.layer.flush(now)
            b.layer.ready()
            b.seconds += clock() - begin
        answers = b.take()
        begin = clock()
        for start in range(0, len(answers), 2):
            a.layer.receive(0, answers[start : start + 2], now)
        a.layer.ready()
        a.seconds += clock() - begin
    return a.seconds, b.seconds, segments


def main() -> None:
    """Print one line per MTU and direction; with --profile, where the time goes."""
    for mtu in (1500, 2800):
        total = 128 << 20
        sender, receiver, segments = measure(mtu, total)
        half_closed, _, _ = measure(mtu, total, half_closed=True)
        for name, seconds in (("out", sender), ("in", receiver), ("out, peer half-closed", half_closed)):
            rate = total / seconds / 1e6
            print(f"MTU {mtu} {name:21}: {seconds / segments * 1e6:5.2f} µs a segment, {rate:6.0f} MB/s")
    if "--profile" in sys.argv:
        profile = cProfile.Profile()
        profile.runcall(measure, 2800, 64 << 20)
        pstats.Stats(profile).sort_stats("tottime").print_stats(20)


if __name__ == "__main__":
    main()
