"""Hosts of a lab: nodes of ours and of the reference, side by side in places, on a planet of their own.

The reference is the program named by ``$ZEROTIER_ONE``; each host of it has a TAP device and speaks TCP by the kernel.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import ztclient
import ztclient.controller
from tests.bench import machine
from tests.lab.places import LabError, Places, places
from tests.unit.vl1.vl1_network import IDENTITIES
from ztnode.worldtool import WorldSecret, create_world, parse_root

REPOSITORY: Final = Path(__file__).parents[2]
ZTNODE: Final = (sys.executable, "-m", "ztnode")
PORT: Final = 9993
WEB_PORT: Final = 5380
NETWORK: Final = 0x0A69E3
SUBNET: Final = "10.121.15"
MEGABYTE: Final = 1 << 20

_T = TypeVar("_T")


def reference() -> str:
    """The reference's program; LabError where there is none."""
    program = os.environ.get("ZEROTIER_ONE") or shutil.which("zerotier-one")
    if program is None:
        raise LabError("needs zerotier-one 1.14.1: name the program in $ZEROTIER_ONE")
    return program


def has_reference() -> bool:
    """Whether there is a program of the reference."""
    return bool(os.environ.get("ZEROTIER_ONE") or shutil.which("zerotier-one"))


def until(what: str, condition: Callable[[], _T | None], seconds: float = 30.0, every: float = 0.05) -> _T:
    """Wait for something; its value. Raises LabError when it does not come."""
    deadline = time.monotonic() + seconds
    last: Exception | None = None
    while time.monotonic() < deadline:
        try:
            if value := condition():
                return value
        except (LabError, ztclient.Error, OSError, KeyError, ValueError) as error:
            last = error
        time.sleep(every)
    raise LabError(f"{what}: not in {seconds:g} s{f' ({last})' if last else ''}")


@dataclass
class Host:
    """A node in a place, of ours or of the reference."""

    lab: Lab
    place: str
    folder: Path
    is_ours: bool
    arguments: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    tree: str = ""
    """Another checkout of this repository, whose node ours is."""

    @property
    def home(self) -> Path:
        """Where its identity, planet and networks are kept."""
        return self.folder / "zerotier" if self.is_ours else self.folder

    @property
    def identity(self) -> str:
        """Its public identity, made when first asked for."""
        self.home.mkdir(parents=True, exist_ok=True)
        public, secret = self.home / "identity.public", self.home / "identity.secret"
        if not public.exists():
            identity = next(self.lab.identities)
            secret.write_text(identity.build_text(include_secret=True))
            public.write_text(identity.build_text())
        return public.read_text().strip()

    @property
    def address(self) -> str:
        """Ten hexadecimal digits."""
        return self.identity[:10]

    def start(self) -> Host:
        """Start it, or start it again."""
        _ = self.identity
        command: tuple[str, ...]
        if self.is_ours:
            elsewhere = ("env", "-C", self.tree, f"PYTHONPATH={self.tree}") if self.tree else ()
            command = (*elsewhere, *ZTNODE, "serve", "--unlisted", "--state", str(self.folder))
            command = (*command, "--planet", str(self.lab.planet), *self.arguments)
        else:
            shutil.copy(self.lab.planet, self.folder / "planet")
            settings = {
                "primaryPort": PORT,
                "portMappingEnabled": False,
                "allowTcpFallbackRelay": False,
                "softwareUpdate": "disable",
                "interfacePrefixBlacklist": ["zt", "lo"],
                "allowManagementFrom": ["127.0.0.0/8"],
            }
            conf = {**self.settings, "settings": {**settings, **self.settings.get("settings", {})}}
            (self.folder / "local.conf").write_text(json.dumps(conf))
            command = (reference(), "-U", f"-p{PORT}", str(self.folder))
        self.process = self.lab.start(self.place, *command, log=self.folder / "log")
        until(f"{self.place} is up", self.is_up)
        return self

    def is_up(self) -> bool:
        """Whether it answers its clients."""
        if self.is_ours:
            return bool(self.node.status().address)
        return bool(self.api("/status"))

    def is_online(self) -> bool:
        """Whether a root has answered."""
        return self.node.status().online if self.is_ours else bool(self.api("/status")["online"])

    def stop(self, how: int = signal.SIGKILL) -> None:
        """End it; ``how`` is a signal."""
        if self.process is not None:
            self.lab.end(self.process, how)
            self.process = None

    @property
    def node(self) -> ztclient.Node:
        """A client of one of ours."""
        return ztclient.Node(state=self.folder)

    def api(self, path: str, data: Mapping[str, Any] | None = None) -> Any:
        """The reference's local API. Raises LabError."""
        token = (self.folder / "authtoken.secret").read_text().strip()
        command = ["curl", "-sf", "-m", "10", "-H", f"X-ZT1-Auth: {token}", f"http://127.0.0.1:{PORT}{path}"]
        if data is not None:
            command += ["-X", "POST", "-d", json.dumps(data)]
        answer = self.lab.places.inside(self.place, *command)
        return json.loads(answer) if answer.strip() else {}

    def resident(self) -> int:
        """Bytes of memory of its processes."""
        assert self.process is not None
        return machine.resident(machine.tree(self.process.pid))

    def log_lines(self) -> int:
        """How many lines it has logged."""
        return len((self.folder / "log").read_text(errors="replace").splitlines())

    def join(self, ip: str) -> None:
        """Join the lab's network with this address, and wait until it is there."""
        self.lab.admit(self.address, ip)
        if self.is_ours:
            self.node.join(self.lab.nwid, 60)
        else:
            self.api(f"/network/{self.lab.nwid}", {"allowDNS": False})
        until(f"{self.place} has {ip}", lambda: self.has(ip), 60)

    def has(self, ip: str) -> bool:
        """Whether it has this managed address."""
        if self.is_ours:
            return any(ip in address for address in self.node.network(self.lab.nwid).addresses)
        return f" {ip}/" in self.lab.places.inside(self.place, "ip", "-o", "addr")

    def paths(self, peer: str) -> list[str]:
        """The endpoints at which a peer is reached directly, ``IP/PORT`` or ``IP:PORT``, the one in use first."""
        if self.is_ours:
            found = [each for each in self.node.peers() if each.address == peer]
            ways = sorted(found[0].paths, key=lambda way: not way.preferred) if found and found[0].direct else []
            return [way.endpoint for way in ways]
        known = [each for each in self.api("/peer") if each["address"] == peer]
        listed = sorted(known[0]["paths"], key=lambda way: not way["preferred"]) if known else []
        return [way["address"] for way in listed if way["active"]]

    def serve(self, ip: str) -> None:
        """Serve HTTP on its managed address (``tests.bench.http_peer``)."""
        where = ("--node", str(self.folder)) if self.is_ours else ("--kernel",)
        log = self.folder / f"web-{time.monotonic_ns()}.log"
        command = (sys.executable, "-m", "tests.bench.http_peer", *where, ip, str(WEB_PORT))
        self.lab.start(self.place, *command, log=log, stdin=subprocess.PIPE)
        until(f"{self.place} serves", lambda: "serving" in log.read_text())

    def fetch(self, ip: str, size: int, rate: float = 0.0, patience: float = 120.0) -> Download:
        """Start to fetch ``size`` bytes from ``ip``, at ``rate`` bytes a second at the most."""
        where = (str(self.folder),) if self.is_ours else ()
        log = self.folder / f"fetch-{time.monotonic_ns()}.json"
        command = (sys.executable, "-m", "tests.lab.paced", ip, str(WEB_PORT), str(size), str(rate), str(patience))
        process = self.lab.start(self.place, *command, *where, log=log)
        return Download(process, log)


@dataclass
class Download:
    """One that runs."""

    process: subprocess.Popen[bytes]
    log: Path

    def result(self, patience: float = 180.0) -> dict[str, Any]:
        """What ``tests.lab.paced`` found. Raises LabError."""
        try:
            self.process.wait(patience)
        except subprocess.TimeoutExpired:
            raise LabError("a download does not end") from None
        lines = self.log.read_text().strip().splitlines()
        if self.process.returncode or not lines:
            raise LabError(f"a download failed: {lines[-1:] or 'no word'}")
        found: dict[str, Any] = json.loads(lines[-1])
        return found


class Lab:
    """A planet of its own in places of its own, and the hosts in them."""

    def __init__(self, made: Places, folder: Path) -> None:
        self.places = made
        self.folder = folder
        self.planet = folder / "planet"
        self.hosts: dict[str, Host] = {}
        self.controller: Host | None = None
        self.identities = iter(IDENTITIES)
        """Made before: that takes seconds."""
        self._processes: list[subprocess.Popen[bytes]] = []
        self._signer = WorldSecret.generate(os.urandom)

    def host(self, place: str, *, ours: bool, arguments: Sequence[str] = (), tree: str = "", **settings: Any) -> Host:
        """A node in a place; not started yet. ``arguments`` and ``tree``, another checkout of this repository, are for
        ours, ``settings`` for the reference."""
        host = Host(self, place, self.folder / place, ours, tuple(arguments), settings, tree=tree)
        self.hosts[place] = host
        return host

    def make_planet(self, *roots: tuple[Host, Sequence[tuple[str, int]]]) -> None:
        """The planet of these roots and where they are reached."""
        entries = [parse_root(root.identity, [f"{ip}/{port}" for ip, port in endpoints]) for root, endpoints in roots]
        self.planet.write_bytes(create_world(entries, self._signer, int(time.time() * 1000)))

    def basics(self, *, ours: bool | None = None) -> tuple[Host, Host]:
        """The least that a network needs: a root at 203.0.113.1 and a controller at .2, both started. ``ours`` None:
        the reference's where there is one, so that a node of ours has to get on with it."""
        ours = not has_reference() if ours is None else ours
        self.places.plug("root", ["203.0.113.1/24", "2a00:77::1/64"])
        self.places.plug("ctrl", ["203.0.113.2/24", "2a00:77::2/64"])
        root = self.host("root", ours=ours, arguments=("--root",))
        self.make_planet((root, [("203.0.113.1", PORT), ("2a00:77::1", PORT)]))
        root.start()
        controller = self.host("ctrl", ours=ours, arguments=("--controller",)).start()
        until("the controller is online", controller.is_online)
        self.make_network(controller)
        return root, controller

    def make_network(self, controller: Host, **settings: Any) -> None:
        """The lab's network; ``settings`` are the reference's."""
        self.controller = controller
        if controller.is_ours:
            own = ztclient.controller.subnet(f"{SUBNET}.0/24")
            ztclient.controller.Controller(controller.node).create_network(self.nwid, **own)
            return
        defaults = {
            "name": "lab",
            "private": True,
            "enableBroadcast": True,
            "v4AssignMode": {"zt": True},
            "ipAssignmentPools": [{"ipRangeStart": f"{SUBNET}.1", "ipRangeEnd": f"{SUBNET}.90"}],
            "routes": [{"target": f"{SUBNET}.0/24", "via": None}],
        }
        controller.api(f"/controller/network/{self.nwid}", {**defaults, **settings})

    @property
    def nwid(self) -> str:
        """The lab's network."""
        assert self.controller is not None
        return f"{self.controller.address}{NETWORK:06x}"

    def admit(self, address: str, ip: str) -> None:
        """Authorize a member and give it an address."""
        assert self.controller is not None
        if self.controller.is_ours:
            manager = ztclient.controller.Controller(self.controller.node)
            manager.update_member(self.nwid, address, addresses=[ip])
            manager.authorize(self.nwid, address)
            return
        member = {"authorized": True, "ipAssignments": [ip]}
        self.controller.api(f"/controller/network/{self.nwid}/member/{address}", member)

    def start(self, place: str, *command: str, log: Path, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
        """Start a program in a place; it ends with the lab at the latest."""
        with log.open("ab") as file:
            process = subprocess.Popen(
                [*self.places.prefix(place), *command],
                stdin=stdin,
                stdout=file,
                stderr=file,
                cwd=REPOSITORY,
                start_new_session=True,
            )
        self._processes.append(process)
        return process

    def end(self, process: subprocess.Popen[bytes], how: int = signal.SIGKILL) -> None:
        """End a program and what it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, how)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def close(self) -> None:
        """End every program."""
        for process in reversed(self._processes):
            self.end(process)


@contextlib.contextmanager
def lab(name: str, keep: Path | None = None) -> Iterator[Lab]:
    """A lab; ``keep``: a folder in which homes and logs stay."""
    with contextlib.ExitStack() as stack:
        folder = keep or Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        made = Lab(stack.enter_context(places(name)), folder)
        stack.callback(made.close)
        yield made
