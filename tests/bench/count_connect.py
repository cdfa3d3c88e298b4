"""What the worker does for a connection that a client of this machine dials and closes, counted as ``count_request``
counts: Python calls, calls of built-in functions, byte codes, and the CPU time in warm caches and in cold ones.

    python -m tests.bench.count_connect [--in-a-row] [--cpu] [--calls]

Three parts: until the SYN is in the ring to the node, from the SYN-ACK until the client has its socket, and what nobody
waits for: the acknowledgment, the next pair of sockets, the end of the connection.
"""

from __future__ import annotations

import argparse
import collections
import os
import socket
import statistics
import time
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path
from types import FrameType
from typing import Any, Final
from unittest.mock import patch

from tests.bench.bench_requests import NWID, PEER, PORT, Far
from tests.bench.count_request import Run
from ztnode.netstack.tcp.connection import TcpConnection
from ztnode.ring import Record, Ring
from ztnode.wire import checksum
from ztnode.worker.handoff_server import ASK, REQUEST

_WARM: Final = 50
_MEASURED: Final = 300
PARTS: Final = ("until the SYN", "until the answer", "the rest")
_DIAL: Final = ASK + REQUEST.pack(4, 0, ip_address(PEER).packed.ljust(16, b"\0"), PORT, NWID, 500, b"")


class Server(Far):
    """The peer, which closes when the other side has."""

    def turn(self) -> None:
        """What has come from the worker, and what is answered."""
        super().turn()
        for connection in self.stack.tcp.connections():
            if isinstance(connection, TcpConnection) and connection.eof:
                connection.close()
        frames = self.stack.to_send(time.monotonic())
        if frames:
            self._to.write_many(frames)


class Dials(Run):
    """One dial after the other, the next when nothing is left of the last."""

    def __init__(self, mode: str, *, in_a_row: bool = False) -> None:
        super().__init__(1, mode)
        self._in_a_row = in_a_row
        self.measured = _MEASURED
        self.calls_of: list[collections.Counter[str]] = [collections.Counter() for _ in PARTS]
        self.opcodes_of = [0, 0, 0]
        self.cpu_of: list[list[float]] = [[], [], []]
        self._spent_of = [0.0, 0.0, 0.0]
        self._part = 2
        self._asking = False
        self._client: socket.socket | None = None
        self._far = Server(self._far._to, self._far._from)

    def measure(self) -> None:
        """Until all is measured."""
        ring_out = self._worker._ring_out
        really_write, really_send = Ring.write_many, socket.socket.sendmsg

        def write_many(ring: Ring, frames: Sequence[Record]) -> int:
            written = really_write(ring, frames)
            if ring is ring_out and self._part == 0:
                self._turn_to(2)
            return written

        def sendmsg(*arguments: Any) -> int:
            sent = really_send(*arguments)
            self._turn_to(2)
            return sent

        with patch.object(Ring, "write_many", write_many), patch.object(socket.socket, "sendmsg", sendmsg):
            super().measure()

    def _turn_to(self, part: int) -> None:
        now = time.thread_time()
        self._spent_of[self._part] += now - self._started
        self._started = now
        self._part = part

    def _be_clients(self) -> None:
        worker = self._worker
        if not worker._ports:
            return
        if self._client is None:
            self._client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._client.connect(worker._path)
            self._client.setblocking(False)
        if self._asking:
            try:
                data, descriptors, _, _ = socket.recv_fds(self._client, 64, 1)
            except BlockingIOError:
                if self._part == 2:
                    self._part = 1
                return
            assert data and descriptors, data
            self._asking = False
            os.close(descriptors[0])
            return
        if worker._splices or worker.stack.tcp.connections() or self._far.stack.tcp.connections():
            return
        if worker.pairs.due and not self._in_a_row:
            return
        if self._rounds > _WARM:
            for spent, times in zip(self._spent_of, self.cpu_of, strict=True):
                times.append(spent)
        self._spent_of = [0.0, 0.0, 0.0]
        self._rounds += 1
        if self._rounds > _WARM + self.measured:
            worker.stop()
            return
        self._part = 0
        self._asking = True
        self._client.send(_DIAL)

    def _pause(self) -> None:
        super()._pause()
        self._spent_of[self._part] += time.thread_time() - self._started

    def _called(self, frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            code = frame.f_code
            self.calls_of[self._part][f"{Path(code.co_filename).stem}.{code.co_qualname}"] += 1
        elif event == "c_call":
            self.calls_of[self._part][f"({argument.__qualname__})"] += 1

    def _traced(self, frame: FrameType, event: str, argument: Any) -> Any:
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        if event == "opcode":
            self.opcodes_of[self._part] += 1
        return self._traced


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--in-a-row", action="store_true", help="not 5 ms apart, after which the next is prepared for")
    parser.add_argument("--cpu", action="store_true", help="the CPU times alone")
    parser.add_argument("--calls", action="store_true", help="name the functions")
    arguments = parser.parse_args()
    checksum.use_numpy()
    rows: list[list[str]] = [[""] * 4 for _ in PARTS]
    called = Dials("calls", in_a_row=arguments.in_a_row)
    if not arguments.cpu:
        called.measure()
        coded = Dials("opcodes", in_a_row=arguments.in_a_row)
        coded.measure()
        for row, calls, opcodes in zip(rows, called.calls_of, coded.opcodes_of, strict=True):
            python = sum(count for name, count in calls.items() if not name.startswith("("))
            row[0] = f"{python / called.measured:.1f}"
            row[1] = f"{(sum(calls.values()) - python) / called.measured:.1f}"
            row[2] = f"{len(calls)}"
            row[3] = f"{opcodes / coded.measured:.0f}"
    for mode in ("hot", "cold"):
        timed = Dials(mode, in_a_row=arguments.in_a_row)
        timed.measure()
        for row, times in zip(rows, timed.cpu_of, strict=True):
            row.append("{0:.0f} to {4:.0f}".format(*(each * 1e6 for each in statistics.quantiles(times, n=10))))
    print("part                Python calls   built-in   functions   byte codes   µs in caches   µs out of them")
    for part, row in zip(PARTS, rows, strict=True):
        print(f"{part:<18}{row[0]:>14}{row[1]:>11}{row[2]:>12}{row[3]:>13}{row[4]:>15}{row[5]:>17}")
    if arguments.calls:
        for part, calls in zip(PARTS, called.calls_of, strict=True):
            print(part)
            for name, count in calls.most_common():
                if count >= called.measured / 20:
                    print(f"{count / called.measured:>10.2f}  {name}")


if __name__ == "__main__":
    main()
