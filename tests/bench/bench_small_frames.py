"""What a small frame costs the node process on its way out (doorbell, ring, VL2, VL1, ``sendto``) and in (``recvmmsg``,
VL1, VL2, ring, doorbell): Python's calls, steps of bytecode, and µs of CPU in warm caches.

    python -m tests.bench.bench_small_frames [--rounds N] [--length BYTES]

Two nodes in one process, member of one network, with sockets on loopback and rings, without their workers. Calls and
steps are the same in each run; of the times the best is shown, since anything else measures the machine's other work.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import select
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from tests.unit.vl1.vl1_network import IDENTITIES, planet
from ztnode.node.assembly import Parts
from ztnode.node.data_path import DataPath
from ztnode.node.early import Early
from ztnode.node.events import Events
from ztnode.node.fail_over import FailOver
from ztnode.node.home import Home
from ztnode.node.keeping import Complaints, Documents
from ztnode.node.local_conf import LocalConf
from ztnode.node.ports import Ports
from ztnode.node.supervisor import Supervisor
from ztnode.node.worker_process import WorkerProcess
from ztnode.plugins.stores import MemoryStore
from ztnode.plugins.udp import UdpTransport
from ztnode.ring import Ring
from ztnode.vl1 import Vl1, Vl1Config
from ztnode.vl2 import Vl2
from ztnode.wire.certificate_of_membership import CertificateOfMembership
from ztnode.wire.identity import Identity
from ztnode.wire.mac import mac_of
from ztnode.wire.network_config import NetworkConfig, NetworkType
from ztnode.wire.rules import Rule, RuleType

BATCHES = (1, 2, 16)
WALL = 1_800_000_000_000
CONTROLLER = IDENTITIES[3]
NWID = CONTROLLER.address << 24 | 1


class Member:
    """A node's way of frames from its worker's rings to its sockets."""

    def __init__(self, identity: Identity, state: Path) -> None:
        self.settled = False
        now = time.monotonic()
        world = planet([(IDENTITIES[0], (("127.0.0.1", 1),))])
        self.vl1 = Vl1(identity, world, random=os.urandom, now=now, wall=WALL, config=Vl1Config(allow_loopback=True))
        self.vl2 = Vl2(self.vl1, identity, random=os.urandom, now=now, wall=WALL)
        self.udp = UdpTransport(ipv6=False)
        home = Home(MemoryStore())
        transport = FailOver([("udp", self.udp)])
        parts = Parts(
            home,
            self.vl1,
            self.vl2,
            None,
            Documents(home, Complaints()),
            transport,
            Early(),
            None,
            LocalConf(),
            {NWID: b""},
        )
        ports = Ports()
        ports.open(NWID)
        nobody: Any = None  # for there are no events by the time that is measured
        self.events = Events(
            parts,
            memberships=nobody,
            host=nobody,
            roots=nobody,
            conflicts=nobody,
            writes=nobody,
            online=nobody,
            administration=None,
        )
        self.path = DataPath(parts, ports, self._take_events)
        self.supervisor = Supervisor(state, self.path.send_frames)
        self.path.to_stack = self.supervisor.send_frames
        self.transport = transport
        self.worker = WorkerProcess(
            0,
            "",
            self.supervisor._frames_from_worker,
            on_lost=lambda: None,
            on_groups=lambda _index: None,
            on_opened=lambda _seconds: None,
            on_lane_used=lambda _used: None,
            on_lane_refused=lambda _refused: None,
        )
        self.worker._to_worker, self.worker._from_worker = Ring.create(1 << 20), Ring.create(1 << 20)
        self.worker._rings_open = True
        slot = self.supervisor._slots[0]
        slot.process = self.worker
        slot.ready.set()
        certificate = CertificateOfMembership.issue(NWID, WALL, 1_800_000, identity).sign(CONTROLLER)
        config = NetworkConfig(
            NWID,
            identity.address,
            WALL,
            1_800_000,
            revision=1,
            type=NetworkType.PRIVATE,
            name="bench",
            rules=(Rule(RuleType.ACTION_ACCEPT),),
            certificate_of_membership=certificate,
        )
        self.vl1.add_peer(CONTROLLER.without_secret(), now)  # whose signature is on the certificates
        self.vl2.join(NWID, now, cached=config.build())

    def _take_events(self) -> None:
        """As ``Node`` does, from when on there is nothing to tell."""
        if self.settled:
            self.events.handle()
        else:
            self.vl1.events()
            self.vl2.events()
        self.vl1.identity_checks()

    async def open(self) -> None:
        await self.transport.open(0, self.path.receive)
        asyncio.get_running_loop().add_reader(self.worker._from_worker.data_fd, self.worker._on_doorbell)
        self.worker._from_worker.prepare_sleep()
        self.worker._to_worker.prepare_sleep()

    def meet(self, other: Member) -> None:
        port = other.udp.local_endpoints()[0][1]
        self.vl1.add_peer(other.vl1.identity.without_secret(), time.monotonic(), [("127.0.0.1", port)])
        self.vl1.set_local_endpoints([("127.0.0.1", self.udp.local_endpoints()[0][1])])
        self.path.pump(time.monotonic())

    def ready(self) -> Any:
        """The socket that has something to read, in a second at most."""
        lanes = [lane for lane, _ in self.udp._favored.values()]
        assert self.udp._v4 is not None
        readable, _, _ = select.select([self.udp._v4, *lanes], [], [], 1)
        return readable[0] if readable else None

    def offer(self, frames: list[bytes]) -> None:
        """As the worker does."""
        self.worker._from_worker.write_many([(0, (frame,)) for frame in frames])

    def taken(self) -> int:
        """Frames that the worker finds."""
        ring = self.worker._to_worker
        count = 0
        while frames := ring.read():
            count += len(frames)
            ring.release()
        ring.prepare_sleep()
        return count


def calls_of(work: Callable[[], object]) -> int:
    """Calls of functions of Python and C."""
    calls = 0

    def profile(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(None)
    return calls - 1  # of setprofile


def steps_of(work: Callable[[], object]) -> int:
    """Instructions of bytecode."""
    steps = 0

    def trace(frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal steps
        frame.f_trace_opcodes = True
        steps += event == "opcode"
        return trace

    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(None)
    return steps


def cross(
    one: Member, two: Member, frames: list[bytes], of: Callable[[Callable[[], object]], float]
) -> Iterator[float]:
    """``of`` the frames' way out of one node, and into the other."""
    one.offer(frames)
    outward = of(one.worker._on_doorbell)
    while one.worker._from_worker.written > one.worker._from_worker._position:  # the ring begins again at its front
        outward += of(one.worker._read_frames)
    yield outward
    inward = 0.0
    while (bound := two.ready()) is not None:
        inward += of(lambda bound=bound: two.udp._readable(bound))  # type: ignore[misc]
        if (taken := two.taken()) and (frames := frames[taken:]) == []:
            break
    assert not frames
    yield inward


def seconds(work: Callable[[], object]) -> float:
    started = time.process_time_ns()
    work()
    return (time.process_time_ns() - started) / 1e9


async def measure(length: int, rounds: int) -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as state:
        one, two = (Member(identity, Path(state)) for identity in IDENTITIES[1:3])
        await one.open()
        await two.open()
        one.meet(two)
        two.meet(one)
        macs = [mac_of(member.vl1.identity.address, NWID).to_bytes(6, "big") for member in (one, two)]
        frame = macs[1] + macs[0] + b"\x08\x00" + os.urandom(length - 14)
        deadline = time.monotonic() + 10
        while not two.taken():
            assert time.monotonic() < deadline, "the two do not meet"
            await asyncio.sleep(0.05)
            one.offer([frame])
            await asyncio.sleep(0.05)
        back = macs[0] + macs[1] + frame[12:]
        for _ in range(30):  # until each has a socket of its own for the other
            two.offer([back])
            one.offer([frame])
            await asyncio.sleep(0.1)
            one.taken(), two.taken()
        assert one.udp._favored and two.udp._favored
        for member in (one, two):  # from here on they are driven by hand alone
            member.settled = True
            loop = asyncio.get_running_loop()
            loop.remove_reader(member.worker._from_worker.data_fd)
            for bound in (member.udp._v4, *(watch._between for _, watch in member.udp._favored.values())):
                loop.remove_reader(bound)  # type: ignore[arg-type]
        print(f"a frame of {length} bytes    batch   calls out, in    steps out, in      µs out, in")
        for batch in BATCHES:
            frames = [frame] * batch
            for _ in range(50):
                list(cross(one, two, frames, seconds))
            calls = list(cross(one, two, frames, calls_of))
            steps = list(cross(one, two, frames, steps_of))
            times = [list(cross(one, two, frames, seconds)) for _ in range(rounds)]
            out, into = (sorted(found[way] for found in times)[rounds // 20] / batch * 1e6 for way in (0, 1))
            print(
                f"{'':22}{batch:>6} {calls[0] / batch:>8.1f}{calls[1] / batch:>8.1f} "
                f"{steps[0] / batch:>9.1f}{steps[1] / batch:>8.1f} {out:>9.1f}{into:>8.1f}"
            )
        await one.transport.close()
        await two.transport.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4000)
    parser.add_argument("--length", type=int, default=100)
    arguments = parser.parse_args()
    asyncio.run(measure(arguments.length, arguments.rounds))


if __name__ == "__main__":
    main()
