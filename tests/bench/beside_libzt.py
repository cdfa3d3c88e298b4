"""Our node and libzt, each against the same libzt peer on the same path in the same run; then on a bad wire.

The root and controller are ours, so is the network; the peer and its rival are ZeroTier cores that this project did not
write. The root and the peer are ``far``, the nodes that are compared ``near``.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench import http_peer, overlay
from tests.bench.http_peer import Transfer
from tests.bench.options import Options
from tests.bench.peer_client import SMALL
from tests.bench.report import LeftOut, Result, Row, number
from tests.bench.site import Place, Site, site, unavailable
from tests.fault_injector import Faults
from tests.interop.libzt_wheel import LibztMissing, obtain
from tests.interop.processes import REPOSITORY, Talker
from ztnode.embedded import EmbeddedMember, EmbeddedNetwork

SECTION = "beside libzt, clean wire, all peers on the far side"
LOSSY_SECTION = "beside libzt, 1 % loss and 10 ms each way"
LOSSY = Faults(loss=0.01, delay=0.01)
MB = 1 << 20
BULK_PORT, LOSSY_PORT, SMALL_PORT = 5380, 5381, 5382
KERNEL_PORTS = (5383, 5384)
LIBZT_PORTS = {"peer": 29994, "rival": 29995}
OFFICIAL_PORT = 29996
TIMEOUT = 180.0
RIVAL_REQUESTS = 20
"""libzt takes a quarter of a second for each."""


@dataclass(frozen=True, slots=True)
class Meeting:
    """All who take part: ``ours`` and the ``rival`` are near, the ``peer`` (libzt) and the ``mate`` (ours) far; so is
    zerotier-one, which some machines have. All but the rival serve HTTP."""

    site: Site
    folder: Path
    ours: EmbeddedMember
    our_ip: str
    peer: Talker
    peer_ip: str
    rival: Talker
    mate_ip: str
    official_ip: str | None

    def fars(self) -> list[Far]:
        """The libzt peer, our own node and perhaps zerotier-one, all far, with nothing measured yet."""
        found = [Far("a libzt peer", self.peer_ip), Far("a node of ours", self.mate_ip)]
        if self.official_ip is not None:
            found.append(Far("zerotier-one", self.official_ip))
        return found

    def connect(self, address: tuple[str, int], timeout: float) -> Any:
        """From our node."""
        return self.ours.node.create_connection(address, timeout)


def left_out() -> str | None:
    """Why this section cannot run here, or None."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return f"libzt's wheel is for x86-64 Linux, and this is {platform.machine()} {sys.platform}"
    return unavailable()


def measure(options: Options) -> Iterator[Result]:
    """On the clean wire."""
    yield from _measure(SECTION, clean, options)


def measure_lossy(options: Options) -> Iterator[Result]:
    """On the bad wire."""
    yield from _measure(LOSSY_SECTION, lossy, options)


def _measure(section: str, work: Callable[[Meeting, Options], Iterator[Result]], options: Options) -> Iterator[Result]:
    reason = left_out()
    if reason is not None:
        yield LeftOut(section, "all", reason)
        return
    try:
        files = obtain(REPOSITORY / "build")
    except LibztMissing as error:
        yield LeftOut(section, "all", str(error))
        return
    if official_program() is None:
        yield LeftOut(section, "against zerotier-one", "neither $ZEROTIER_ONE nor the path has it")
    with meeting(str(files.library), str(files.stubs), options) as found:
        yield from work(found, options)


@contextlib.contextmanager
def meeting(library: str, stubs: str, options: Options) -> Iterator[Meeting]:
    """Everybody is on the network and can be reached."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        place = stack.enter_context(site())
        directory = folder / "network"
        directory.mkdir()
        network = stack.enter_context(EmbeddedNetwork(directory, host=place.far.address, prefix=place.far.prefix))
        nwid = network.create()

        def libzt(name: str, where: Place) -> Talker:
            script = str(REPOSITORY / "tests" / "interop" / "libzt_driver.py")
            command = [*where.prefix, sys.executable, script, "--library", library, "--stubs", stubs]
            command += ["--planet", str(network.planet), "--state", str(folder / name)]
            command += ["--port", str(LIBZT_PORTS[name])]
            return stack.enter_context(contextlib.closing(Talker(name, command, folder / f"{name}.log")))

        peer, rival = libzt("peer", place.far), libzt("rival", place.near)
        members = [
            network.add(name, "--congestion", options.congestion, prefix=where.prefix)
            for name, where in (("ours", place.near), ("mate", place.far))
        ]
        for member in members:
            member.wait_online()
        ours, _ = members
        our_ip, mate_ip = (overlay.ipv4(member, nwid) for member in members)
        addresses = {}
        for talker in (peer, rival):
            talker.expect("online", TIMEOUT)
            talker.tell(do="join", nwid=nwid)
        for talker in (peer, rival):
            addresses[talker.name] = talker.expect("joined", TIMEOUT)["addresses"][0]
        for port, size in ((BULK_PORT, options.bulk * MB), (LOSSY_PORT, options.lossy_bulk * MB), (SMALL_PORT, SMALL)):
            body = folder / f"body-{size}"
            body.write_bytes(http_peer.content(size))
            peer.do("serving", TIMEOUT, do="serve", port=port, body=str(body))
        until_reachable(ours, addresses["peer"])
        for member, ip in zip(members, (our_ip, mate_ip), strict=True):
            for port in (BULK_PORT, LOSSY_PORT, SMALL_PORT):
                stack.enter_context(overlay.server(member.state, ip, folder, port))
        official_ip = stack.enter_context(zerotier_one(place.far, folder, network.planet, nwid))
        found = Meeting(place, folder, ours, our_ip, peer, addresses["peer"], rival, mate_ip, official_ip)
        transfers = Transfers(found, LOSSY_PORT, options.lossy_bulk * MB)
        for far in found.fars():
            transfers.measure(far)
        for member in members:
            until_direct(member)
        yield found


@contextlib.contextmanager
def zerotier_one(place: Place, folder: Path, planet: Path, nwid: str) -> Iterator[str | None]:
    """The official program with the kernel's TCP over its TAP device, serving HTTP: its overlay address, or None where
    neither $ZEROTIER_ONE nor the path has it."""
    program = official_program()
    if program is None:
        yield None
        return
    home = folder / "zerotier-one"
    (home / "networks.d").mkdir(parents=True)
    (home / "networks.d" / f"{nwid}.conf").touch()
    shutil.copy(planet, home / "planet")
    settings = {"portMappingEnabled": False, "softwareUpdate": "disable", "interfacePrefixBlacklist": ["zt"]}
    (home / "local.conf").write_text(json.dumps({"settings": settings}))
    command = [*place.prefix, program, "-U", f"-p{OFFICIAL_PORT}", str(home)]
    with contextlib.ExitStack() as stack:
        log = stack.enter_context((folder / "zerotier-one.log").open("wb"))
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        stack.callback(process.wait)
        stack.callback(process.terminate)
        address = until_assigned(place)
        for port in (BULK_PORT, LOSSY_PORT, SMALL_PORT):
            stack.enter_context(kernel_server(folder, place, address, port))
        yield address


def official_program() -> str | None:
    """zerotier-one, where this machine has it."""
    return os.environ.get("ZEROTIER_ONE") or shutil.which("zerotier-one")


def until_assigned(place: Place) -> str:
    """The address of the zt* interface, once it has one."""
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        command = ["ip", "-n", place.name, "-4", "-json", "address"]
        for interface in json.loads(subprocess.run(command, check=True, capture_output=True).stdout):
            if interface.get("ifname", "").startswith("zt") and interface["addr_info"]:
                return str(interface["addr_info"][0]["local"])
        time.sleep(0.1)
    raise TimeoutError("zerotier-one got no address")


def until_reachable(member: EmbeddedMember, address: str) -> None:
    """Wait until libzt answers ARP: it looks every five seconds for what it should subscribe to."""
    deadline = time.monotonic() + TIMEOUT
    while True:
        try:
            member.node.create_connection((address, BULK_PORT), timeout=TIMEOUT).close()
            return
        except OSError as error:
            if error.errno != errno.EHOSTUNREACH or time.monotonic() > deadline:
                raise


def until_direct(member: EmbeddedMember) -> None:
    """Wait until the node speaks to each member on a direct path."""
    deadline = time.monotonic() + TIMEOUT
    while not all(peer.direct for peer in member.node.peers()):
        if time.monotonic() > deadline:
            raise TimeoutError("no direct path to the libzt peer")
        time.sleep(0.1)


def transfer(event: dict[str, Any], size: int) -> Transfer:
    """What a process tells of a transfer, which must be whole."""
    if event["bytes"] != size:
        raise http_peer.Incomplete(f"{event['bytes']} of {size} bytes came")
    return Transfer(size, event.get("sha256", ""), event["connect_s"], event["seconds"])


@dataclass
class Both:
    """Transfers of ours and of libzt's."""

    ours: list[Transfer] = field(default_factory=list)
    libzt: list[Transfer] = field(default_factory=list)

    def row(self, section: str, what: str, **bars: Any) -> Row:
        """MB/s side by side, from the call to the last byte, as the user has it; the note says what the ratio would be
        without the connects, for which libzt takes a quarter of a second each."""
        standing = statistics.median(map(standing_rate, self.ours)) / statistics.median(map(standing_rate, self.libzt))
        note = f"{number(standing)}× without the connects"
        return Row(section, what, "MB/s", rates(self.ours), "libzt", rates(self.libzt), note=note, **bars)


def rates(transfers: Iterable[Transfer]) -> list[float]:
    """MB/s of each, its connect included."""
    return [one.rate for one in transfers]


def standing_rate(one: Transfer) -> float:
    """MB/s from the moment that the connection stood."""
    return one.bytes / (one.seconds - one.connect_s) / 1e6


@dataclass(frozen=True, slots=True)
class Far:
    """A peer on the far side: its name in the table, its overlay address, and what was measured against it."""

    name: str
    ip: str
    down: Both = field(default_factory=Both)
    up: Both = field(default_factory=Both)


class Transfers:
    """Transfers of one size, from our node and from libzt nodes."""

    def __init__(self, meeting: Meeting, port: int, size: int) -> None:
        self._meeting, self._port, self._size = meeting, port, size
        self._file = str(meeting.folder / f"body-{size}")

    def measure(self, far: Far) -> None:
        """One more sample of each of the four: libzt's and ours, down and up."""
        self.measure_download(far)
        self.measure_upload(far)

    def measure_download(self, far: Far) -> None:
        """libzt's and ours."""
        far.down.libzt.append(self.libzt_download(self._meeting.rival, far.ip))
        ours = http_peer.get(self._meeting.connect, far.ip, self._port, f"/{self._size}")
        if ours.bytes != self._size:
            raise http_peer.Incomplete(f"{ours.bytes} of {self._size} bytes came")
        far.down.ours.append(ours)

    def measure_upload(self, far: Far) -> None:
        """libzt's and ours."""
        far.up.libzt.append(self.libzt_upload(self._meeting.rival, far.ip))
        body = http_peer.content(self._size)
        far.up.ours.append(http_peer.put(self._meeting.connect, far.ip, self._port, body))

    def libzt_download(self, talker: Talker, host: str) -> Transfer:
        """A libzt node fetches."""
        command = {"do": "get", "host": host, "port": self._port, "path": f"/{self._size}"}
        return transfer(talker.do("got", TIMEOUT, **command), self._size)

    def libzt_upload(self, talker: Talker, host: str) -> Transfer:
        """A libzt node sends."""
        command = {"do": "put", "host": host, "port": self._port, "file": self._file}
        return transfer(talker.do("put", TIMEOUT, **command), self._size)


def clean(meeting: Meeting, options: Options) -> Iterator[Result]:
    """All rows on the clean wire."""
    transfers = Transfers(meeting, BULK_PORT, options.bulk * MB)
    fars = meeting.fars()
    libzt = fars[0]
    served, taken = [], []
    for _ in range(options.rounds):
        for far in fars:
            transfers.measure(far)
        served.append(transfers.libzt_download(meeting.peer, meeting.our_ip))
        taken.append(transfers.libzt_upload(meeting.peer, meeting.our_ip))
    # Two libzt nodes wait for one another a quarter of a second at a time. That is no bar: take what libzt can do.
    best = max(fars, key=lambda far: statistics.median(rates(far.down.libzt)))
    bar, peer = rates(best.down.libzt), f"libzt's download from {best.name}"
    for what, samples in (
        ("download from libzt", libzt.down.ours),
        ("upload to libzt", libzt.up.ours),
        ("libzt downloads from our server", served),
        ("libzt uploads to our server", taken),
    ):
        yield Row(SECTION, f"{what}, {options.bulk} MB", "MB/s", rates(samples), peer, bar, must=0.5, aim=1, times=True)
    for far in fars:
        yield far.down.row(SECTION, f"download from {far.name}, {options.bulk} MB")
        yield far.up.row(SECTION, f"upload to {far.name}, {options.bulk} MB")
    yield from latency(meeting, options)


@dataclass
class Pairs:
    """Milliseconds of ours and of libzt's."""

    ours: list[float] = field(default_factory=list)
    libzt: list[float] = field(default_factory=list)


def latency(meeting: Meeting, options: Options) -> Iterator[Result]:
    """Connects and small requests."""
    connects, medians, tails = Pairs(), Pairs(), Pairs()
    for _ in range(options.rounds):
        times = overlay.connect_times(meeting.connect, meeting.peer_ip, SMALL_PORT, overlay.CONNECTS // 5)
        connects.ours.append(statistics.median(times))
        command = {"host": meeting.peer_ip, "port": SMALL_PORT}
        connects.libzt.append(meeting.rival.do("got", TIMEOUT, do="get", **command)["connect_s"] * 1e3)
        times = overlay.request_times(meeting.connect, meeting.peer_ip, SMALL_PORT, RIVAL_REQUESTS)
        medians.ours.append(statistics.median(times))
        tails.ours.append(max(times))
        found = meeting.rival.do("rtt", TIMEOUT, do="rtt", count=RIVAL_REQUESTS, **command)
        medians.libzt.append(found["median_ms"])
        tails.libzt.append(found["p99_ms"])
    for what, both in (
        ("connect", connects),
        ("1 KB request-response, median", medians),
        (f"1 KB request-response, slowest of {RIVAL_REQUESTS}", tails),
    ):
        yield Row(SECTION, what, "ms", both.ours, "libzt", both.libzt, less_is_better=True)


def lossy(meeting: Meeting, options: Options) -> Iterator[Result]:
    """All rows on the bad wire: ours, libzt's, and the kernel's own TCP on the very wire, round by round.

    A download is as fast as its sender recovers from loss, and libzt's sender is slow whoever receives: its figure
    is no bar, and one sample of it is enough.
    """
    transfers = Transfers(meeting, LOSSY_PORT, options.lossy_bulk * MB)
    libzt, *others = meeting.fars()
    with contextlib.ExitStack() as stack:
        wires = [stack.enter_context(KernelPair.start(meeting, name)) for name in controls()]
        stack.enter_context(meeting.site.bad_wire(LOSSY))
        transfers.measure_download(libzt)
        for _ in range(options.rounds):
            for far in others:
                transfers.measure_download(far)
            for far in (libzt, *others):
                transfers.measure_upload(far)
            for pair in wires:
                pair.measure(options.lossy_bulk * MB)
    bars = wires[0]
    down = {"must": 2, "times": True, "aim_samples": rates(bars.down)}
    up = {"must": 2, "times": True, "aim_samples": rates(bars.up)}
    for far in others:
        yield far.down.row(LOSSY_SECTION, f"download from {far.name}, {options.lossy_bulk} MB", **down)
        yield far.up.row(LOSSY_SECTION, f"upload to {far.name}, {options.lossy_bulk} MB", **up)
    yield libzt.up.row(LOSSY_SECTION, f"upload to {libzt.name}, {options.lossy_bulk} MB", **up)
    yield libzt.down.row(LOSSY_SECTION, f"download from {libzt.name}, {options.lossy_bulk} MB, once")
    for pair in wires:
        name = f"the kernel's TCP ({pair.congestion}) on the wire itself"
        yield Row(LOSSY_SECTION, f"{name}, download", "MB/s", rates(pair.down))
        yield Row(LOSSY_SECTION, f"{name}, upload", "MB/s", rates(pair.up))


def controls() -> list[str]:
    """The kernel's congestion control, and CUBIC, which is ours."""
    default = Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()
    return [default] if default == "cubic" else [default, "cubic"]


@dataclass
class KernelPair:
    """The kernel's TCP at both ends of the wire, without an overlay."""

    congestion: str
    near: Talker
    address: str
    port: int
    down: list[Transfer] = field(default_factory=list)
    up: list[Transfer] = field(default_factory=list)

    @classmethod
    @contextlib.contextmanager
    def start(cls, meeting: Meeting, congestion: str) -> Iterator[KernelPair]:
        """A server at each place."""
        port = KERNEL_PORTS[congestion == "cubic"]
        near, far = meeting.site.places
        with (
            kernel_server(meeting.folder, near, near.address, port, congestion) as talker,
            kernel_server(meeting.folder, far, far.address, port, congestion),
        ):
            yield cls(congestion, talker, far.address, port)

    def measure(self, size: int) -> None:
        """One more sample each way."""
        command = {"host": self.address, "port": self.port, "size": size}
        self.down.append(transfer(self.near.do("got", TIMEOUT, do="get", **command), size))
        self.up.append(transfer(self.near.do("put", TIMEOUT, do="put", **command), size))


@contextlib.contextmanager
def kernel_server(
    folder: Path, place: Place, address: str, port: int, congestion: str | None = None
) -> Iterator[Talker]:
    """A server on kernel sockets at a place, which is a client, too."""
    command = [sys.executable, "-m", "tests.bench.http_peer", "--kernel", address, str(port)]
    if congestion:
        command += ["--congestion", congestion]
    name = f"kernel-{place.name}-{port}"
    with contextlib.closing(Talker(name, [*place.prefix, *command], folder / f"{name}.log")) as talker:
        talker.expect("serving", 30)
        yield talker
