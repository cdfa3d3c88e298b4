"""Several nodes on one store: who dies, freezes or loses the store, and what the others do then."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from ipaddress import ip_address
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast

import pytest

import ztclient
import ztclient.controller
from tests.system import fleet_process
from tests.system.harness import identities, ipv4, until
from tests.system.store_servers import Servers, open_shared
from ztnode import plugins
from ztnode.cli.exit_codes import STORE_HELD
from ztnode.controller.documents import (
    ControlledMember,
    ControlledNetwork,
    build_document,
    build_member,
    build_network,
    change_network,
    member_key,
    network_key,
)
from ztnode.embedded import EmbeddedMember, EmbeddedNetwork
from ztnode.hookspecs import SharedStore, StateStore
from ztnode.node import opening
from ztnode.node.lease import HELD_FOR, TAKEN_AFTER, LeaseHeld
from ztnode.node.opening import Opened, StoreOptions, open_state
from ztnode.node.sealed_store import SealedStore, parse_store_key
from ztnode.wire.identity import Identity

PLUGINS = Path(__file__).parents[2] / "plugins"

STOPPABLE = ("postgresql", "redis", "etcd")
PATIENCE = 30.0
"""Seconds after which something will not happen any more; nothing is judged by it."""


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    started = Servers()
    yield started
    started.close()


@pytest.fixture(scope="module")
def processes() -> Iterator[Any]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.system.fleet_process", *(f"ztnode_store_{kind}" for kind in STOPPABLE)])
    with pytest.MonkeyPatch.context() as patch:
        # Pythons before 3.14 do not tell the fork server where modules are.
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        forkserver.ensure_running()
    yield context


class Controller:
    """One process."""

    def __init__(self, processes: Any, url: str, **options: Any) -> None:
        self.pipe: Connection
        self.pipe, theirs = processes.Pipe()
        self.process = processes.Process(target=fleet_process.run, args=(url, theirs), kwargs=options, daemon=True)
        self.process.start()
        theirs.close()
        self.log: list[str] = []
        self.is_active = False
        self.lost = ""

    def read(self, timeout: float = 0.0) -> Any:
        """The next answer; what comes besides is noted. None: there is none (yet, or any more)."""
        deadline = time.monotonic() + timeout
        try:
            while self.pipe.poll(max(0.0, deadline - time.monotonic())):
                kind, content = self.pipe.recv()
                match kind:
                    case "log":
                        self.log.append(content)
                    case "lost":
                        self.lost = content
                    case "active":
                        self.is_active = True
                        return content
                    case _:
                        return kind, content
        except (EOFError, ConnectionError):
            pass
        return None

    def become_active(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while not self.is_active:
            self.read(0.05)
            assert self.process.is_alive() and time.monotonic() < deadline, self.log

    def do(self, what: str, argument: Any = None) -> Any:
        self.pipe.send((what, argument))
        kind, content = self.read(PATIENCE)
        if kind == "failed":
            raise OSError(content)
        return content

    def kill(self) -> None:
        """At once; what it had answered by then can still be read."""
        self.process.kill()
        self.process.join()

    def close(self) -> None:
        self.pipe.close()
        self.process.join(10)
        self.process.kill()


def test_the_active_controller_killed_at_random_moments(
    processes: Any, servers: Servers, request: pytest.FixtureRequest
) -> None:
    """No address is given twice and no authorization lost. --kills 1000 is the long run of it."""
    url = servers.url("postgresql")
    chance = random.Random(request.config.getoption("--kills-seed"))
    kills = request.config.getoption("--kills")
    given: dict[int, list[str]] = {}
    authorized: set[int] = set()
    active = Controller(processes, url)
    active.become_active()
    standby = Controller(processes, url)
    addresses = iter(range(0x2000000000, 0x3000000000))
    for number in range(kills):
        pending: list[tuple[str, int]] = []
        for _ in range(chance.randrange(1, 40)):
            again = given and chance.random() < 0.3
            address = chance.choice(list(given)) if again else next(addresses)
            what = "authorize" if chance.random() < 0.2 else "ask"
            active.pipe.send((what, address))
            pending.append((what, address))
        # At a random answer, and a little later: how fast the machine is decides nothing.
        answers = [active.read(PATIENCE) for _ in range(chance.randrange(len(pending) + 1))]
        time.sleep(chance.random() * 0.02)
        active.kill()
        answers += iter(active.read, None)
        for (what, address), answer in zip(pending, answers, strict=False):
            if answer[0] != "done":  # on a machine that stood still for a second the other one has the store by now
                continue
            if what == "authorize":
                authorized.add(address)
            elif answer[1] is not None:
                assert given.setdefault(address, answer[1]) == answer[1], f"after {number} kills"
        active.pipe.close()
        standby.become_active()
        active, standby = standby, Controller(processes, url)
        if number % 10 == 9 or number == kills - 1:
            kept = active.do("members")
            assert authorized <= kept.keys()
            assert {address: kept[address] for address in given} == given
            holders = [ip for ips in kept.values() for ip in ips]
            assert len(set(holders)) == len(holders), f"an address given twice after {number} kills"
    assert len(given) > kills  # it did its work in between
    active.close()
    standby.close()


def test_a_standby_has_read_in_advance_and_serves_what_changed_since(processes: Any, servers: Servers) -> None:
    url = servers.url("postgresql")
    active = Controller(processes, url, sees_processes=False)
    active.become_active()
    given = {address: active.do("ask", address) for address in range(0x2000000000, 0x2000000000 + 300)}
    standby = Controller(processes, url, sees_processes=False)
    until(lambda: standby.read(0.05) or any("read in advance" in line for line in standby.log), PATIENCE)
    late = 0x2000000000 + 300
    given[late] = active.do("ask", late)
    assert active.do("authorize", 0x2000000007)
    active.kill()
    standby.become_active()
    (line,) = [line for line in standby.log if "are other than" in line]
    assert re.search(r": 2 of 30\d values", line), line
    members = standby.do("members")
    assert members == given and standby.do("name", 0x2000000007) == "x"
    standby.close()


def test_one_that_froze_is_silent_when_it_wakes_up_and_writes_nothing(processes: Any, servers: Servers) -> None:
    url = servers.url("postgresql")
    first = Controller(processes, url, sees_processes=False)
    first.become_active()
    until(lambda: first.do("ask", 0x2000000001), PATIENCE)
    second = Controller(processes, url, sees_processes=False)
    os.kill(first.process.pid, signal.SIGSTOP)
    second.become_active()
    assert any(f"in use by process {first.process.pid} on " in line for line in second.log)
    first.pipe.send(("ask", 0x2000000002))  # it waits for it when it wakes up
    os.kill(first.process.pid, signal.SIGCONT)
    assert first.read(PATIENCE) == ("done", None)
    until(lambda: first.read(0.05) or first.lost, PATIENCE)
    assert f"taken by process {second.process.pid}" in first.lost
    with pytest.raises(OSError, match="another node"):
        first.do("write", ("planet", b"too late"))
    assert open_shared(url).read("planet") is None
    assert second.do("members").keys() == {0x2000000001}
    second.close()
    third = Controller(processes, url, sees_processes=False)
    third.become_active()  # what was given back is free at once
    first.close()
    third.close()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Which stores are out, how, and how much faster than in earnest time goes. A frozen one takes seconds to be given
    up, and etcd some to come back."""
    if "fast" in metafunc.fixturenames:
        cases = [("postgresql", "stopped", 4.0), ("redis", "stopped", 4.0), ("etcd", "stopped", 2.0)]
        cases.append(("redis", "frozen", 2.0))
        if metafunc.config.getoption("--outage"):
            cases = [(kind, how, 1.0) for kind in STOPPABLE for how in ("stopped", "frozen")]
        metafunc.parametrize(("kind", "how", "fast"), cases)


def test_a_store_that_is_out_for_a_while(
    processes: Any, servers: Servers, kind: str, how: str, fast: float, request: pytest.FixtureRequest
) -> None:
    """The node goes on from memory, nobody takes its place, and what it missed is written then; that is said once."""
    url = servers.url(kind)
    server = servers.server(kind)
    active = Controller(processes, url, sees_processes=False, fast=fast)
    active.become_active()
    promised = active.do("ask", 0x2000000001)
    active.do("write", ("planet", b"before"))
    standby = Controller(processes, url, sees_processes=False, fast=fast)
    until(lambda: standby.read(0.02) or standby.log, PATIENCE)
    server.stop(signal.SIGINT) if how == "stopped" else server.freeze()
    outage = request.config.getoption("--outage") or TAKEN_AFTER / fast + 1.0
    assert outage > HELD_FOR / fast
    ends = time.monotonic() + outage
    written = 0
    try:
        while time.monotonic() < ends:
            written += 1
            assert active.do("write", (f"moons.d/{written % 7:016x}.moon", str(written).encode()))
            assert active.do("ask", 0x2000000001) == promised
            unkept = active.do("ask", 0x2000000002)
            assert unkept is None, "an address that nobody keeps is promised to nobody"
            assert active.do("held"), active.log
            time.sleep(0.1)
    finally:
        server.start() if how == "stopped" else server.thaw()
    until(lambda: active.lost or active.do("ask", 0x2000000002) is not None, PATIENCE)
    assert not active.lost, (active.lost, active.log)
    kept = open_shared(url)
    assert kept.read(f"moons.d/{written % 7:016x}.moon") == str(written).encode()
    assert active.do("held") and not active.lost and not standby.is_active
    out = [line for line in active.log if "does not answer" in line]
    back = [line for line in active.log if "answers again" in line]
    assert len(out) == len(back) == 1, active.log
    assert int(re.search(r"(\d+) values", back[0])[1]) >= min(written, 7)  # type: ignore[index]
    standby.read(0.2)
    assert not standby.is_active
    active.close()
    standby.become_active()
    assert standby.do("members")[0x2000000001] == promised
    standby.close()
    kept.close()


def test_a_store_that_lost_everything_is_given_it_again(processes: Any, servers: Servers) -> None:
    url = servers.url("redis")
    active = Controller(processes, url)
    active.become_active()
    promised = active.do("ask", 0x2000000001)
    active.do("write", ("planet", b"kept"))
    store = open_shared(url)
    for key, _ in list(store.items()):
        store.delete(key)
    until(lambda: store.read("planet") == b"kept", PATIENCE)
    assert active.do("held") and not active.lost
    assert any("has lost what was kept there" in line for line in active.log)
    until(lambda: not active.do("write", ("planet", b"newer")) or store.read("planet") == b"newer", PATIENCE)
    active.kill()
    after = Controller(processes, url)
    after.become_active()
    assert after.do("members") == {0x2000000001: promised}
    after.close()
    store.close()


# Whole nodes


@pytest.fixture(scope="module")
def plugged(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A command that runs another with the plugins on its path, as an installation would have them."""
    directory = tmp_path_factory.mktemp("plugged")
    for package in sorted(PLUGINS.glob("ztnode-store-*")):
        project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
        info = directory / f"{project['name'].replace('-', '_')}-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: 1\n")
        entries = project["entry-points"]["ztnode"].items()
        (info / "entry_points.txt").write_text("[ztnode]\n" + "".join(f"{name} = {at}\n" for name, at in entries))
    paths = [str(directory), *map(str, PLUGINS.glob("ztnode-store-*"))]
    return ["env", "-u", "PYTHONDONTWRITEBYTECODE", f"PYTHONPATH={os.pathsep.join(paths)}"]


def test_a_controller_that_is_killed_is_followed_and_members_keep_what_they_have(
    servers: Servers, plugged: list[str], tmp_path: Path
) -> None:
    """Two ``ztnode serve --controller`` on one PostgreSQL, encrypted; the members are real ones."""
    url = servers.url("postgresql")
    ours = identities()
    (tmp_path / "identity").write_text(next(ours).build_text(include_secret=True))
    (tmp_path / "key").write_text("00" * 32)
    arguments = ["--controller", "--store", url, "--store-key", str(tmp_path / "key")]
    arguments += ["--identity-secret", str(tmp_path / "identity")]
    (tmp_path / "net").mkdir()
    with EmbeddedNetwork(tmp_path / "net", identities=ours) as network:
        first = network.add("first", *arguments, prefix=plugged)
        first.wait_online()
        address = first.node.status().address
        admin = ztclient.controller.Controller(first.node)
        nwid = admin.create_network(**ztclient.controller.subnet("10.121.15.0/24")).nwid
        alpha = network.add("alpha")
        alpha.wait_online()
        admin.authorize(nwid, alpha.node.status().address)
        ip = ipv4(alpha, nwid)
        second = network.add("second", *arguments, prefix=plugged)
        until(lambda: f"in use by process {first.process.pid} on " in second.last_words())
        command = [argument for argument in second.command if argument != "--until-eof"]
        command[command.index("--state") + 1] = str(tmp_path / "third")
        impatient = subprocess.run([*command, "--no-standby"], capture_output=True, text=True, timeout=60)
        assert impatient.returncode == STORE_HELD
        assert impatient.stderr.count("\n") == 1 and "in use by process" in impatient.stderr
        first.process.kill()
        second.wait_online()
        assert second.node.status().address == address
        again = ztclient.controller.Controller(second.node)
        (member,) = again.members(nwid)
        assert member.authorized and ip in member.assigned_addresses
        root = network.controller  # which becomes a member too, so that no further node is needed
        again.authorize(nwid, root.node.status().address)
        assert ipv4(root, nwid) not in (ip, "")
        assert ipv4(alpha, nwid) == ip
        kept = dict(open_shared(url).items())
        assert not [key for key, value in kept.items() if not key.startswith("lease/") and b"10.121" in value]


def test_a_large_network_is_taken_over_from_a_dead_host(
    servers: Servers, plugged: list[str], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """By hand: seconds from the kill, with process numbers of their own as on another host. Prints what it took."""
    members = request.config.getoption("--large-fleet")
    if not members:
        pytest.skip("takes minutes: --large-fleet 100000 -s")
    import psycopg

    url = servers.url("postgresql")
    ours = identities()
    controller = next(ours)
    (tmp_path / "identity").write_text(controller.build_text(include_secret=True))
    nwid = controller.address << 24 | 1
    open_shared(url).close()  # makes the table
    address, _, table = url.partition("?table=")
    with psycopg.connect(address) as connection, connection.cursor() as cursor:
        with cursor.copy(f"COPY {table} FROM STDIN") as copy:
            for key, value in large_network(nwid, members):
                copy.write_row((key, value))
        cursor.execute(f"ANALYZE {table}")
    away = [*plugged, "unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    arguments = ["--controller", "--store", url, "--identity-secret", str(tmp_path / "identity")]
    (tmp_path / "net").mkdir()
    with EmbeddedNetwork(tmp_path / "net", identities=ours) as network:
        first = network.add("first", *arguments, prefix=away)
        first.wait_online()
        second = network.add("second", *arguments, prefix=away)
        until(lambda: "are read in advance" in second.last_words(), 300)
        admin = ztclient.controller.Controller(first.node)
        admin.update_member(f"{nwid:016x}", "2000000000", name="changed")
        began = time.monotonic()
        first.process.kill()
        second.wait_online()
        print(f"\nonline {time.monotonic() - began:.1f} s after the kill")
        again = ztclient.controller.Controller(second.node)
        root = network.controller
        again.authorize(f"{nwid:016x}", root.node.status().address)
        assert ipv4(root, f"{nwid:016x}")
        print(f"a new member has its address {time.monotonic() - began:.1f} s after the kill")
        print("\n".join(line for line in second.last_words().splitlines() if "advance" in line))
        assert again.member(f"{nwid:016x}", "2000000000").name == "changed"


def test_a_node_that_was_frozen_for_longer_than_its_lease_says_not_a_word(
    servers: Servers, plugged: list[str], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """By hand, since the lease takes its time: SIGSTOP in the middle of traffic, SIGCONT when another one serves; what
    leaves its port then is seen on the wire. In turns, as often as --freezes says."""
    freezes = request.config.getoption("--freezes")
    if not freezes:
        pytest.skip("takes a quarter of a minute for each: --freezes 3")
    if os.geteuid() != 0:
        pytest.skip("needs root, to see packets")
    url = servers.url("postgresql")
    ours = identities()
    (tmp_path / "identity").write_text(next(ours).build_text(include_secret=True))
    arguments = ["--controller", "--store", url, "--identity-secret", str(tmp_path / "identity")]
    (tmp_path / "net").mkdir()
    with EmbeddedNetwork(tmp_path / "net", identities=ours) as network:
        active = network.add("first", *arguments, prefix=plugged)
        active.wait_online()
        admin = ztclient.controller.Controller(active.node)
        nwid = admin.create_network(**ztclient.controller.subnet("10.121.15.0/24")).nwid
        member = network.controller
        admin.authorize(nwid, member.node.status().address)
        admin.authorize(nwid, active.node.status().address)
        active.node.join(nwid, 30)
        ip = ipv4(member, nwid)
        standby = network.add("second", *arguments, prefix=plugged)
        until(lambda: "waiting" in standby.last_words())
        for _ in range(freezes):
            with Wire(udp_ports(active.process.pid)) as wire:
                active.node.ping(ip)
                assert wire.seen()
            frozen_and_back(active, standby)
            assert ipv4(member, nwid) == ip
            active, standby = standby, active


def frozen_and_back(active: EmbeddedMember, standby: EmbeddedMember) -> None:
    """Freeze the active one until the other serves; look at what it says when it goes on."""
    ports, lost = udp_ports(active.process.pid), "offline: this node's store"
    before = active.last_words().count(lost)
    for pid in family(active.process.pid):
        os.kill(pid, signal.SIGSTOP)
    standby.wait_online()
    with Wire(ports) as wire:
        for pid in family(active.process.pid):
            os.kill(pid, signal.SIGCONT)
        until(lambda: active.last_words().count(lost) > before)
        until(lambda: "waiting" in active.last_words().rpartition(lost)[2])
        assert not wire.seen(), "it spoke with another's identity"
    assert standby.node.status().online
    with pytest.raises(ztclient.Error):
        active.node.status()


def family(pid: int) -> list[int]:
    """A process and all below it."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(each for child in children for each in family(int(child)))]


def udp_ports(pid: int) -> set[int]:
    """Those that a process has."""
    links = [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()]
    inodes = {link[8:-1] for link in links if link.startswith("socket:[")}
    rows = [row.split() for name in ("udp", "udp6") for row in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    return {int(row[1].rpartition(":")[2], 16) for row in rows if row[9] in inodes}


class Wire:
    """What leaves some UDP ports of this host on IPv4."""

    def __init__(self, ports: set[int]) -> None:
        self._ports = ports

    def __enter__(self) -> Wire:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))  # ETH_P_ALL
        self._socket.setblocking(False)
        return self

    def seen(self) -> list[bytes]:
        """The packets so far, with their IP headers."""
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                data = self._socket.recv(65536)
                if (
                    data[0] >> 4 == 4
                    and data[9] == socket.IPPROTO_UDP
                    and int.from_bytes(data[20:22], "big") in self._ports
                ):
                    found.append(data)
        return found

    def __exit__(self, *_: object) -> None:
        self._socket.close()


def large_network(nwid: int, members: int) -> Iterator[tuple[str, bytes]]:
    """Its documents."""
    settings = {"v4AssignMode": {"zt": True}, "routes": [{"target": "10.0.0.0/8", "via": None}]}
    pool = {"ipAssignmentPools": [{"ipRangeStart": "10.0.0.1", "ipRangeEnd": "10.255.255.254"}]}
    network = change_network(ControlledNetwork(nwid), settings | pool)
    yield network_key(nwid), build_document(build_network(network))
    public = fleet_process.identity(1).public
    for number in range(members):
        member = ControlledMember(
            nwid,
            0x2000000000 + number,
            identity=Identity(0x2000000000 + number, public).build_text(),
            authorized=True,
            ip_assignments=(ip_address(0x0A000001 + number),),
        )
        yield member_key(nwid, member.address), build_document(build_member(member))


def test_replicas_take_identities_from_a_pool(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    options = StoreOptions(servers.url("redis"), pool=2, standby=False)
    manager = plugins.load()
    manager.register(fleet_process.Plugin())

    def replica(name: str) -> Opened:
        monkeypatch.setattr(opening, "TOKEN", name)  # as another process would have another
        return asyncio.run(open_state(options, manager))

    one, two = replica("one"), replica("two")
    one.state.write("identity.public", b"first")
    two.state.write("identity.public", b"second")
    with pytest.raises(LeaseHeld, match="all 2 are in use"):
        replica("three")
    one.state.close()
    three = replica("three")
    assert three.state.read("identity.public") == b"first" and list(three.state.keys()) == ["identity.public"]
    two.state.close()
    three.state.close()


def test_a_pool_with_a_damaged_lease_or_another_key(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    """One identity cannot be had then, and the others can; and no part is encrypted with another key than the rest."""
    url = servers.url("redis")
    manager = plugins.load()
    manager.register(fleet_process.Plugin())

    def replica(name: str, key: bytes | None = bytes(32), pool: int = 3) -> Opened:
        monkeypatch.setattr(opening, "TOKEN", name)
        return asyncio.run(open_state(StoreOptions(url, key, pool=pool, standby=False), manager))

    one = replica("one")
    store = open_shared(url)
    store.write("pool/1/lease/holder", b"nonsense")
    two = replica("two")
    two.state.write("planet", b"two")
    assert store.read("pool/2/planet") and store.read("pool/1/planet") is None
    with pytest.raises(LeaseHeld, match="all 3 are in use"):
        replica("three")
    for key, complaint in ((bytes(31) + b"1", "another key"), (None, "the store is encrypted")):
        with pytest.raises(OSError, match=complaint):
            replica("four", key, pool=4)  # which would be the first in pool/3
    assert not [key for key, _ in store.items("pool/3/")]
    two.state.close()
    one.state.close()
    for number in range(3):
        store.write(f"pool/{number}/lease/holder", b"nonsense")
    with pytest.raises(OSError, match=r"pool/\d/lease/holder in the store is damaged"):
        replica("five")
    store.close()


def test_a_standby_whose_key_was_changed_meanwhile_leaves_everything_as_it_is(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store is copied to one with a new key while it waits with the old one."""
    url = servers.url("redis")
    manager = plugins.load()
    manager.register(fleet_process.Plugin())
    old, new = bytes(32), bytes(31) + b"1"
    active = asyncio.run(open_state(StoreOptions(url, old), manager))
    active.state.write("planet", b"secret")
    store = open_shared(url)

    def rotated(_line: str) -> None:
        for key, _ in [*store.items()]:
            if not key.startswith("lease/"):
                store.delete(key)
        sealed = SealedStore(cast(StateStore, StoreOf(store)), new)
        sealed.write("planet", b"secret")
        kept.update((key, value) for key, value in store.items() if not key.startswith("lease/"))
        active.lease.release()  # type: ignore[union-attr]

    kept: dict[str, bytes] = {}
    monkeypatch.setattr(opening, "TOKEN", "of the standby")
    with pytest.raises(OSError, match="another key"):
        asyncio.run(open_state(StoreOptions(url, old), manager, rotated))
    assert store.read("lease/holder") is None, "it gives back what it cannot use"
    assert {key: value for key, value in store.items() if not key.startswith("lease/")} == kept and kept
    after = asyncio.run(open_state(StoreOptions(url, new), manager))
    assert after.state.read("planet") == b"secret"
    after.state.close()
    store.close()


class StoreOf:
    """A shared store as a node's."""

    def __init__(self, store: SharedStore) -> None:
        self.read, self.write, self.delete = store.read, store.write, store.delete

    def keys(self, prefix: str = "") -> list[str]:
        """None that matters here."""
        return []


def test_a_standby_with_another_key_says_so_before_it_is_needed(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = servers.url("redis")
    manager = plugins.load()
    manager.register(fleet_process.Plugin())
    active = asyncio.run(open_state(StoreOptions(url, bytes(32)), manager))
    monkeypatch.setattr(opening, "TOKEN", "of the standby")
    for key, complaint in ((bytes(31) + b"1", "another key"), (None, "the store is encrypted")):
        with pytest.raises(OSError, match=complaint):
            asyncio.run(open_state(StoreOptions(url, key), manager))
    with pytest.raises(LeaseHeld):
        asyncio.run(open_state(StoreOptions(url, bytes(32), standby=False), manager))
    active.state.close()


def test_a_worker_without_state_is_who_its_environment_says(tmp_path: Path) -> None:
    """By the names that ZeroTier's own container image has."""
    who = next(identities())
    command = [sys.executable, "-m", "ztnode", "serve", "--port", "0", "--unlisted", "--store", "memory:"]
    environment = os.environ | {
        "ZEROTIER_IDENTITY_SECRET": who.build_text(include_secret=True),
        "ZEROTIER_JOIN_NETWORKS": "8056c2e21c000001 a09acf0233000001",
    }
    with subprocess.Popen([*command, "--state", str(tmp_path / "st")], env=environment, stderr=subprocess.PIPE) as node:
        said = node.stderr
        assert said is not None
        try:
            until(lambda: b"is up" in said.readline())
            found = ztclient.Node(state=tmp_path / "st")
            assert found.status().address == f"{who.address:010x}"
            assert {network.nwid for network in found.networks()} == {"8056c2e21c000001", "a09acf0233000001"}
            for pid in [each.pid for each in found.status().workers]:
                assert b"IDENTITY_SECRET" not in Path(f"/proc/{pid}/environ").read_bytes()
        finally:
            node.terminate()
            said.read()


def test_the_commands_of_the_pages_on_stores_run(servers: Servers, plugged: list[str], tmp_path: Path) -> None:
    """Those that make a key and copy stores, as they stand there, but for where the database and the home are."""
    pages = [(PLUGINS.parent / "docs" / name).read_text() for name in ("STORES.md", "PRODUCTION.md")]
    shown = [
        line
        for page in pages
        for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
        for line in block.splitlines()
    ]
    (copy,) = [line for line in shown if line.startswith("ztnode store copy") and "-key" not in line]
    (listing,) = [line for line in shown if line.startswith("ztnode store list")]
    keys = [line for line in shown if line.startswith(("openssl", "chmod"))]
    assert len(keys) == 3
    home = tmp_path / "st/zerotier"
    (home / "networks.d").mkdir(parents=True)
    (home / "networks.d/8056c2e21c000001.conf").write_bytes(b"\n")
    script = re.sub(r"postgresql://\S+", servers.url("redis"), "\n".join([*keys, copy, listing]))
    path = f"PATH={Path(sys.executable).parent}:{os.environ['PATH']}"
    command = [*plugged, path, "bash", "-euc", script]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0 and "1 values copied" in done.stderr, done.stderr
    assert done.stdout.split() == ["1", "networks.d/8056c2e21c000001.conf"]
    assert parse_store_key((tmp_path / "store.key").read_text())
