"""What the worker does for a request of 1 KB, counted: Python calls, calls of built-in functions, byte codes, and the
CPU time when all of that is in the processor's caches and when it is not. Counts do not depend on what else the machine
does.

    python -m tests.bench.count_request [--connections N ...] [--lane] [--cpu] [--calls]

One process, one thread, and while it counts a clock of its own: the worker's own loop, which reaches the peer's stack
and the clients where it would wait. ``--lane``: frames pass by a lane in place of the rings. ``--calls``: which
functions are called, and which have the byte codes.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import itertools
import os
import socket
import statistics
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType
from typing import Any, Final
from unittest import mock

from tests.bench.bench_requests import ANSWER, MAC, NWID, OWN, PEER, PEER_MAC, PORT, QUESTION, Far
from tests.bench.far_lane import FarLane
from ztnode.netstack import Stack
from ztnode.ring import Ring
from ztnode.wire import checksum
from ztnode.worker import protocol
from ztnode.worker.splice import Splice
from ztnode.worker.worker import Worker

_WARM: Final = 50
_MEASURED: Final = 300
"""Turns; fewer where each has many requests."""
_REQUESTS: Final = 2000
_LOOK: Final = 50e-6
"""Seconds that pass at each look at the clock while something is counted: by the real one, timers would come due that
do not when nobody counts."""
_EVICTS: Final = 8 << 20
"""Bytes that are copied where caches are to be cold: some times the second level's."""


class Run:
    """A worker with its clients, and what is measured of it."""

    def __init__(self, connections: int, mode: str, *, by_lane: bool = False) -> None:
        self.calls: collections.Counter[str] = collections.Counter()
        self.opcodes = 0
        self.opcodes_by: collections.Counter[str] = collections.Counter()
        self.cpu: list[float] = []
        """Seconds of the worker's CPU for the requests of one turn, each divided by their number."""
        self._mode = mode
        self._rounds = 0
        self.measured = max(30, min(_MEASURED, _REQUESTS // connections))
        self._spent = 0.0
        self._started = 0.0
        self._connections = connections
        to_worker, from_worker = Ring.create(4 << 20), Ring.create(2 << 20)
        self._lane = FarLane(NWID, MAC, PEER_MAC) if by_lane else None
        self._far = Far(to_worker, from_worker, self._lane)
        self._node, control = socket.socketpair()
        self._folder = tempfile.TemporaryDirectory()
        now = time.monotonic()
        self._worker = Worker(
            control=control,
            ring_in=to_worker,
            ring_out=from_worker,
            stack=Stack(random=os.urandom, now=now),
            path=str(Path(self._folder.name) / "w.sock"),
            now=now,
        )
        subnet = f"{OWN.rpartition('.')[0]}.0/24"
        self._node.sendall(protocol.build(protocol.PortUp(0, NWID, MAC, 2800, (f"{OWN}/24",), ((subnet, None),), 0)))
        if self._lane is not None:
            socket.send_fds(self._node, [protocol.build(self._lane.up)], [self._lane.worker_end.fileno()])
            self._node.sendall(protocol.build(self._lane.terms))
        self._really_wait = self._worker.poller.wait
        self._clients: list[socket.socket] = []
        self._missing: list[int] = []
        self._evicted = bytearray(_EVICTS)
        self._evictor = os.urandom(_EVICTS)

    def measure(self) -> None:
        """Until all is measured."""
        self._worker.poller.wait = self._wait  # type: ignore[method-assign]
        looks = itertools.count(self._worker.now, _LOOK)
        counting = self._mode in ("calls", "opcodes")
        with mock.patch("time.monotonic", looks.__next__) if counting else contextlib.nullcontext():
            self._worker.run()
        self._pause()
        self._folder.cleanup()
        if self._lane is not None:
            assert self._lane.carried >= self._rounds * self._connections
            self._lane.close()

    def _wait(self, timeout: float) -> list[tuple[int, int]]:
        """In place of the worker's sleep: what everybody else does until there is something for the worker."""
        self._pause()
        if timeout == 0.0:
            events = self._really_wait(0.0)
        else:
            until = time.monotonic() + timeout if timeout > 0.0 else float("inf")
            while True:
                self._far.turn()
                self._be_clients()
                events = self._really_wait(0.0)
                if events or not self._worker._running or time.monotonic() >= until:
                    break
        if self._mode == "cold":
            self._evicted[:] = self._evictor
        self._resume()
        return events

    def _be_clients(self) -> None:
        worker = self._worker
        if not worker._ports:
            return
        if not self._clients:
            for _ in range(self._connections):
                ours, theirs = socket.socketpair()
                ours.setblocking(False)
                theirs.setblocking(False)
                connection = worker.stack.connect(PEER, PORT, worker.now, port_index=0)
                Splice(connection, theirs, worker)
                self._clients.append(ours)
            self._missing = [0] * self._connections
        waiting = False
        for position, client in enumerate(self._clients):
            if self._missing[position]:
                try:
                    self._missing[position] -= len(client.recv(4096))
                except BlockingIOError:
                    waiting = True
                    continue
                waiting = waiting or self._missing[position] > 0
        if waiting:
            return
        # All have their answers: the next turn. So many requests are measured together.
        if self._rounds > _WARM:
            self.cpu.append(self._spent / self._connections)
        self._spent = 0.0
        self._rounds += 1
        if self._rounds > _WARM + self.measured:
            worker.stop()
            return
        for position, client in enumerate(self._clients):
            client.send(QUESTION)
            self._missing[position] = len(ANSWER)

    @property
    def _measuring(self) -> bool:
        return self._rounds > _WARM

    def _pause(self) -> None:
        sys.setprofile(None)
        sys.settrace(None)
        self._spent += time.thread_time() - self._started

    def _resume(self) -> None:
        if self._measuring:
            if self._mode == "calls":
                sys.setprofile(self._called)
            elif self._mode == "opcodes":
                sys.settrace(self._traced)
                frame = sys._getframe(2)  # the worker's loop, which called us
                frame.f_trace = self._traced
                frame.f_trace_opcodes = True
        self._started = time.thread_time()

    def _called(self, frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            self.calls[_name(frame)] += 1
        elif event == "c_call":
            self.calls[f"({argument.__qualname__})"] += 1

    def _traced(self, frame: FrameType, event: str, argument: Any) -> Any:
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        if event == "opcode":
            self.opcodes += 1
            self.opcodes_by[_name(frame)] += 1
        return self._traced


def _name(frame: FrameType) -> str:
    code = frame.f_code
    return f"{Path(code.co_filename).stem}.{code.co_qualname}"


def _show(counts: collections.Counter[str], requests: int, least: float) -> None:
    for name, count in counts.most_common():
        if count >= requests * least:
            print(f"{count / requests:>10.2f}  {name}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 20])
    parser.add_argument("--lane", action="store_true", help="frames pass by a lane")
    parser.add_argument("--cpu", action="store_true", help="the CPU times alone")
    parser.add_argument("--calls", action="store_true", help="name the functions")
    arguments = parser.parse_args()
    checksum.use_numpy()
    print("connections   Python calls   built-in   byte codes   µs in caches   µs out of them")
    for connections in arguments.connections:
        figures = ["", "", ""]
        by_lane = arguments.lane
        if not arguments.cpu:
            counted = Run(connections, "calls", by_lane=by_lane)
            counted.measure()
            requests = counted.measured * connections
            python = sum(count for name, count in counted.calls.items() if not name.startswith("("))
            coded = Run(connections, "opcodes", by_lane=by_lane)
            coded.measure()
            built_in = sum(counted.calls.values()) - python
            figures = [f"{python / requests:.1f}", f"{built_in / requests:.1f}", f"{coded.opcodes / requests:.0f}"]
        for mode in ("hot", "cold"):
            timed = Run(connections, mode, by_lane=by_lane)
            timed.measure()
            # What others do to the caches, and to the clock of a virtual machine, only adds: the quickest tenth tells.
            figures.append(f"{statistics.quantiles(timed.cpu, n=10)[0] * 1e6:.1f}")
        print(f"{connections:>11}{figures[0]:>15}{figures[1]:>11}{figures[2]:>13}{figures[3]:>15}{figures[4]:>17}")
        if arguments.calls and not arguments.cpu:
            _show(counted.calls, requests, 0.05)
            print("Byte codes")
            _show(coded.opcodes_by, requests, 2.0)


if __name__ == "__main__":
    main()
