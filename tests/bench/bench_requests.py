"""What a small request costs the stack worker, in µs of its CPU: the worker is a process as the node starts it, this
process is all the others. It moves frames between the worker's rings and a stack that serves, and is the clients that
ask, with connections that it was given at the hand-off socket.

    python -m tests.bench.bench_requests [--connections N ...] [--tree DIRECTORY] [--by forward|proxy ...] [--idle N]
                                         [--lane]

``--tree``: beside it the worker of another checkout of this repository, by turns. ``--by proxy``: the clients are lent
to the worker by an HTTP proxy, and ask in absolute form; what that costs is what is more than by ``forward``.
``--idle``: beside it a worker that has so many more connections on which nothing happens, by turns. ``--lane``: the
frames pass by lanes in place of the rings.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from tests.bench.far_lane import FarLane
from ztnode.netstack import PortConfig, Stack
from ztnode.netstack.tcp.connection import TcpConnection
from ztnode.netstack.tcp.listener import TcpListener
from ztnode.ring import Ring
from ztnode.wire import checksum
from ztnode.worker import protocol
from ztnode.worker.handoff_server import ASK, JOINED, REQUEST
from ztnode.worker.loan import Loan, build_loan, channel

OWN, PEER, PORT = "10.121.15.10", "10.121.15.30", 80
NWID: Final = 0x8056C2E21C000001
MAC, PEER_MAC = 0x02AABBCC0001, 0x02AABBCC0002
_HOST: Final = b"\r\nHost: %b\r\n" % PEER.encode()
QUESTION: Final = b"GET /1024 HTTP/1.1" + _HOST + b"\r\n"
FOR_A_PROXY: Final = QUESTION.replace(b"/", b"http://%b/" % PEER.encode(), 1)
"""As ``wrk`` asks with such a path."""
AT_ONCE: Final = 64
"""Connections that are asked for side by side."""
ANSWER: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 1024\r\nContent-Type: application/octet-stream\r\n\r\n" + bytes(
    1024
)


class Far:
    """The peer: a stack that answers each question."""

    def __init__(self, to_worker: Ring, from_worker: Ring, lane: FarLane | None = None) -> None:
        self._to, self._from, self._lane = to_worker, from_worker, lane
        now = time.monotonic()
        self.stack = Stack(random=os.urandom, now=now)
        self.stack.add_port(0, PortConfig(mac=PEER_MAC, mtu=2800, addresses=(f"{PEER}/24",)), now)
        self.stack.listen(PEER, PORT, backlog=1024)

    def turn(self) -> None:
        """What has come from the worker, and what is answered."""
        now = time.monotonic()
        frames_in = [frame for tag, frame in self._from.read() if not tag & protocol.LANE]
        if self._lane is not None:
            frames_in += self._lane.receive(now)
        self.stack.receive(0, frames_in, now)
        due = self.stack.next_timer()
        if due is not None and due <= now:
            self.stack.handle_timer(now)
        for item in self.stack.ready():
            if isinstance(item, TcpListener):
                while item.accept() is not None:
                    pass
            elif isinstance(item, TcpConnection) and item.readable:
                asked = b"".join(item.read(1 << 20))
                item.write(ANSWER * asked.count(b"\r\n\r\n"))
        self.stack.copy_unread()
        self._from.release()
        frames = self.stack.to_send(now)
        if frames and self._lane is not None:
            frames = self._lane.send(frames, now)
        if frames:
            self._to.write_many(frames)


@contextlib.contextmanager
def worker(tree: str, lane: FarLane | None = None) -> Iterator[tuple[int, str, Ring, Ring]]:
    """Process id, hand-off socket, the ring to it and that from it."""
    to_worker, from_worker = Ring.create(4 << 20), Ring.create(2 << 20)
    ours, theirs = socket.socketpair()
    with tempfile.TemporaryDirectory() as folder, ours:
        path = str(Path(folder) / "w.sock")
        rings = [",".join(map(str, ring.fds)) for ring in (to_worker, from_worker)]
        environment = os.environ | ({"PYTHONPATH": tree} if tree else {})
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "ztnode.worker", str(theirs.fileno()), *rings],
            pass_fds=(theirs.fileno(), *set(to_worker.fds), *set(from_worker.fds)),
            env=environment,
        )
        theirs.close()
        ours.settimeout(30)
        ours.sendall(protocol.build(protocol.Begin(0, 1, path, 32768, 60999, "cubic")))
        ours.recv(4096)  # Ready
        port = protocol.PortUp(0, NWID, MAC, 2800, (f"{OWN}/24",), ((f"{OWN.rpartition('.')[0]}.0/24", None),), 0)
        ours.sendall(protocol.build(port))
        if lane is not None:
            socket.send_fds(ours, [protocol.build(lane.up)], [lane.worker_end.fileno()])
            ours.sendall(protocol.build(lane.terms))
        ours.setblocking(False)
        try:
            yield process.pid, path, to_worker, from_worker
        finally:
            with contextlib.suppress(BlockingIOError):
                while ours.recv(1 << 16):
                    pass
            ours.setblocking(True)
            ours.sendall(protocol.build(protocol.Stop()))
            process.wait(60)  # it resets whatever there is


def lend(stack: contextlib.ExitStack, path: str, far: Far, by: str) -> socket.socket:
    """A client whose socket the worker has joined to a connection, as ``forward`` or the proxy accepted it."""
    request = REQUEST.pack(4, 0, ip_address(PEER).packed.ljust(16, b"\0"), PORT, NWID, 5000, b"")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = stack.enter_context(socket.create_connection(listener.getsockname()))
        accepted, _ = listener.accept()
    ours, way_back = channel()
    stack.enter_context(ours)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock, accepted, way_back:
        brought = [accepted.fileno()]
        if by == "proxy":
            brought.append(way_back.fileno())
            ours.send(build_loan(Loan(PEER, PORT, None, b"")))
        sock.connect(path)
        socket.send_fds(sock, [ASK + request], brought)
        while not select.select([sock], [], [], 0.001)[0]:
            far.turn()
        if sock.recv(64) != JOINED:
            raise OSError("the worker did not take it")
    client.setblocking(False)
    return client


def ask(path: str, far: Far, count: int) -> list[socket.socket]:
    """Connections, from the worker itself, some at a time."""
    request = REQUEST.pack(4, 0, ip_address(PEER).packed.ljust(16, b"\0"), PORT, NWID, 5000, b"")
    clients: list[socket.socket] = []
    while len(clients) < count:
        with contextlib.ExitStack() as undo:
            waiting = []
            for _ in range(min(AT_ONCE, count - len(clients))):
                waiting.append(undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)))
                waiting[-1].connect(path)
                waiting[-1].sendall(ASK + request)
            for sock in waiting:
                poll = select.poll()
                poll.register(sock, select.POLLIN)
                while not poll.poll(1):
                    far.turn()
                _, descriptors, _, _ = socket.recv_fds(sock, 64, 1)
                clients.append(socket.socket(fileno=descriptors[0]))
                clients[-1].setblocking(False)
    return clients


def cpu(pid: int) -> tuple[float, float]:
    """User and system seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    tick = 1 / os.sysconf("SC_CLK_TCK")
    return int(fields[11]) * tick, int(fields[12]) * tick


class Side:
    """One worker and its clients, each with one request under way at a time."""

    def __init__(
        self, stack: contextlib.ExitStack, tree: str, by: str, connections: int, idle: int, *, by_lane: bool
    ) -> None:
        self._lane = None
        if by_lane:
            self._lane = FarLane(NWID, MAC, PEER_MAC)
            stack.callback(self._lane.close)
        self._pid, path, to_worker, self._ring = stack.enter_context(worker(tree, self._lane))
        self._far = Far(to_worker, self._ring, self._lane)
        clients = [lend(stack, path, self._far, by) for _ in range(connections)]
        for client in ask(path, self._far, idle):
            stack.enter_context(client)
        self._question = FOR_A_PROXY if by == "proxy" else QUESTION
        self._clients = {client.fileno(): client for client in clients}

    def run(self, seconds: float) -> tuple[float, float, float]:
        """µs of user and of system time a request, and requests a second."""
        ring, clients = self._ring, self._clients
        missing = dict.fromkeys(clients, len(ANSWER))
        done, busy = 0, len(clients)
        with select.epoll() as epoll:
            bells = {ring.data_fd} if self._lane is None else {ring.data_fd, self._lane.fileno()}
            for descriptor in (*bells, *clients):
                epoll.register(descriptor, select.EPOLLIN)
            before, started = cpu(self._pid), time.perf_counter()
            for client in clients.values():
                client.send(self._question)
            while busy:
                self._far.turn()
                for descriptor, _ in epoll.poll(0.05 if ring.prepare_sleep() else 0):
                    if descriptor in bells:
                        if descriptor == ring.data_fd:
                            ring.clear_data()
                        continue
                    missing[descriptor] -= len(clients[descriptor].recv(4096))
                    if missing[descriptor]:
                        continue
                    done += 1
                    missing[descriptor] = len(ANSWER)
                    if time.perf_counter() < started + seconds:
                        clients[descriptor].send(self._question)
                    else:
                        busy -= 1
            elapsed, after = time.perf_counter() - started, cpu(self._pid)
        user, system = ((then - now) / done * 1e6 for now, then in zip(before, after, strict=True))
        return user, system, done / elapsed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tree", default="")
    parser.add_argument("--by", nargs="+", choices=("forward", "proxy"), default=["forward"])
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 20, 100])
    parser.add_argument("--idle", type=int, default=0)
    parser.add_argument("--lane", action="store_true")
    arguments = parser.parse_args()
    checksum.use_numpy()
    kinds = [(by, tree, 0) for by in arguments.by for tree in dict.fromkeys(("", arguments.tree))]
    if arguments.idle:
        kinds += [(by, "", arguments.idle) for by in arguments.by]
    print("CPU of the worker, µs a request    connections    user  system   together   requests/s")
    for connections in arguments.connections:
        with contextlib.ExitStack() as stack:
            sides = {
                kind: Side(stack, kind[1], kind[0], connections, kind[2], by_lane=arguments.lane) for kind in kinds
            }
            found: dict[tuple[str, str, int], list[tuple[float, float, float]]] = {kind: [] for kind in kinds}
            for side in sides.values():
                side.run(0.5)  # numpy is being loaded
            for _ in range(arguments.rounds):
                for kind, side in sides.items():
                    found[kind].append(side.run(arguments.seconds))
        for (by, tree, idle), rounds in found.items():
            user, system, rate = map(statistics.median, zip(*rounds, strict=True))
            figures = f"{user:>8.1f}{system:>8.1f}{user + system:>11.1f}{rate:>13.0f}"
            name = f"beside {idle} idle ones" if idle else tree or "this checkout"
            print(f"{by + ', ' + name:<35}{connections:>11}{figures}")


if __name__ == "__main__":
    main()
