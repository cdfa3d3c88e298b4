"""A node behind a wall that no UDP passes: by a TCP relay of ours, by proxies from Debian packages, and by ZeroTier's
own tcp-proxy where ``ZTNODE_TCP_PROXY`` names it (``make`` in ``tcp-proxy/`` of its sources).

``python -m tests.lab udp-blocked`` has the times, zerotier-one at both ends, and UDP that comes back.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.bench.site import Site, site, unavailable
from tests.system.harness import content, identities, ipv4, until
from ztnode.embedded import EmbeddedMember, EmbeddedNetwork

NEAR, FAR = "80.1.1.1", "80.1.1.2"
"""Addresses of the internet, in namespaces of the test's own."""
RELAY, TINYPROXY, DANTE, LISTENER, SLOW_LISTENER = 443, 3128, 1080, 5380, 5381
SIZE = 1 << 20
NO_UDP = "meta l4proto udp"
NO_RELAY = f"tcp dport {RELAY}"
WALL = "table inet wall {{\n chain i {{\n type filter hook input priority 0;\n {}\n }}\n}}\n"
NO_UDP_BACK = f"""table inet wall {{
 chain o {{
  type filter hook output priority 0
  ip daddr {NEAR} {NO_UDP} drop
 }}
}}
"""
DANTE_CONF = f"""
errorlog: stderr
internal: {FAR} port = {DANTE}
external: {FAR}
socksmethod: username
clientmethod: none
user.privileged: root
user.unprivileged: nobody
client pass {{ from: 0/0 to: 0/0 }}
socks pass {{ from: 0/0 to: 0/0 command: udpassociate }}
socks pass {{ from: 0/0 to: 0/0 command: udpreply }}
"""
TINYPROXY_CONF = f"""
Port {TINYPROXY}
Listen {FAR}
Timeout 60
Allow {NEAR}
BasicAuth joe secret
ConnectPort {RELAY}
"""


@dataclass(frozen=True, slots=True)
class World:
    """A root that controls a network, is a member, serves SIZE bytes there and is a TCP relay."""

    place: Site
    network: EmbeddedNetwork
    nwid: str
    ip: str

    def wall(self, rules: str) -> None:
        """Add these to what the far place filters."""
        subprocess.run([*self.place.far.prefix, "nft", "-f", "-"], input=rules, text=True, check=True)

    @contextlib.contextmanager
    def leaf(self, name: str, walled: list[str], *arguments: str, **environment: str) -> Iterator[EmbeddedMember]:
        """A node behind a wall that has fetched what is served."""
        self.wall(WALL.format("\n ".join(f"ip saddr {NEAR} {each} drop" for each in walled)))
        prefix = [*self.place.near.prefix, "env", *(f"{key}={value}" for key, value in environment.items())]
        leaf = self.network.add(name, *arguments, prefix=prefix)
        try:
            leaf.wait_online()
            leaf.node.join(self.nwid, 30)
            with leaf.node.create_connection((self.ip, LISTENER), 30) as sock, sock.makefile("rb") as stream:
                assert hashlib.sha256(stream.read()).digest() == hashlib.sha256(content(SIZE)).digest()
            yield leaf
        finally:
            leaf.stop()
            subprocess.run([*self.place.far.prefix, "nft", "flush", "ruleset"], check=True)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    reason = unavailable() or (None if shutil.which("nft") else "needs the program nft (Debian: nftables)")
    if reason is not None:
        pytest.skip(reason)
    with site() as place:
        for each, address in ((place.near, NEAR), (place.far, FAR)):
            each.ip("addr", "add", f"{address}/24", "dev", "br0")
        directory = tmp_path_factory.mktemp("blocked")
        arguments = () if os.environ.get("ZTNODE_TCP_PROXY") else ("--tcp-relay-listen", f"{FAR}:{RELAY}")
        network = EmbeddedNetwork(
            directory, host=FAR, prefix=place.far.prefix, identities=identities(), controller_arguments=arguments
        )
        with contextlib.ExitStack() as stack:
            stack.callback(network.close)
            if program := os.environ.get("ZTNODE_TCP_PROXY"):
                stack.enter_context(running(place, program))
            nwid = network.create()
            ip = ipv4(network.controller, nwid)
            listener = stack.enter_context(network.controller.node.listen(ip, LISTENER))

            def serve() -> None:
                with contextlib.suppress(Exception):
                    while True:
                        connection, _ = listener.accept()
                        with connection:
                            connection.sendall(content(SIZE))

            threading.Thread(target=serve, daemon=True).start()
            yield World(place, network, nwid, ip)


@contextlib.contextmanager
def running(place: Site, *command: str) -> Iterator[None]:
    """A program in the far place, until the block ends."""
    process = subprocess.Popen([*place.far.prefix, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def listening(place: Site, port: int) -> bool:
    """Whether a program in the far place takes connections."""
    command = [*place.far.prefix, "ss", "-Hltn", f"sport = {port}"]
    return bool(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_a_relay_is_taken_when_nothing_answers(world: World) -> None:
    arguments = ("--tcp-relay", f"auto={FAR}:{RELAY}", "--fail-over-after", "1")
    with world.leaf("auto", [NO_UDP], *arguments) as leaf:
        log = leaf.last_words()
        assert "no answer by udp: packets go by tcp" in log and f"packets go by the TCP relay {FAR}:{RELAY}" in log
        root = next(
            peer for peer in leaf.node.peers() if peer.address == world.network.controller.node.status().address
        )
        assert root.direct
    if not os.environ.get("ZTNODE_TCP_PROXY"):
        counters = world.network.controller.node.status().counters
        assert counters["tcp_relay_server.sent"] > 10 and not counters.get("tcp_relay_server.refused")


@pytest.mark.parametrize("lanes", [(), ("--no-lanes",)], ids=["lanes", "no lanes"])
@pytest.mark.parametrize("back", [NO_UDP_BACK, ""], ids=["both ways", "out alone"])
def test_a_transfer_goes_on_by_the_relay(world: World, lanes: tuple[str, ...], back: str) -> None:
    """A wall comes up in the middle of it."""
    if os.environ.get("ZTNODE_TCP_PROXY"):
        pytest.skip("is about our own relay; ZTNODE_TCP_PROXY names another")
    piece, pieces, pause = content(SIZE)[: 1 << 14], 512, 0.01
    listener = world.network.controller.node.listen(world.ip, SLOW_LISTENER)

    def serve() -> None:
        with contextlib.suppress(Exception):
            connection, _ = listener.accept()
            with connection:
                for _ in range(pieces):
                    connection.sendall(piece)
                    time.sleep(pause)  # so that it is not over before the wall is up

    threading.Thread(target=serve, daemon=True).start()
    with (
        listener,
        world.leaf("midway", [], "--tcp-relay", f"auto={FAR}:{RELAY}", *lanes) as leaf,
        leaf.node.create_connection((world.ip, SLOW_LISTENER), 30) as sock,
    ):
        sock.settimeout(90)
        gaps, got, is_up = [0.0], 0, False
        digest = hashlib.sha256()
        before = time.monotonic()
        while data := sock.recv(1 << 16):
            digest.update(data)
            got += len(data)
            gaps.append(time.monotonic() - before)
            if not is_up and got > len(piece) * pieces // 4:
                is_up = True
                world.wall(WALL.format(f"ip saddr {NEAR} {NO_UDP} drop") + back)
            before = time.monotonic()
        print(f"stood still for {max(gaps):.1f} s")
        assert digest.digest() == hashlib.sha256(piece * pieces).digest()
        assert f"packets go by the TCP relay {FAR}:{RELAY}" in leaf.last_words()


def test_a_relay_by_an_http_proxy(world: World, tmp_path: Path) -> None:
    if shutil.which("tinyproxy") is None:
        pytest.skip("needs the program tinyproxy (Debian: tinyproxy-bin)")
    (tmp_path / "conf").write_text(TINYPROXY_CONF)
    with running(world.place, "tinyproxy", "-d", "-c", str(tmp_path / "conf")):
        until(lambda: listening(world.place, TINYPROXY))
        proxy = f"http://joe:secret@{FAR}:{TINYPROXY}"
        with world.leaf(
            "connect", [NO_UDP, NO_RELAY], "--tcp-relay", f"force={FAR}:{RELAY}", HTTPS_PROXY=proxy
        ) as leaf:
            status = leaf.node.status()
            assert not status.listening and status.transport == f"tcp://{FAR}:{RELAY}", "no UDP at all"


def test_udp_by_a_socks5_proxy_with_a_password(world: World, tmp_path: Path) -> None:
    if shutil.which("danted", path=f"{os.environ['PATH']}:/usr/sbin") is None:
        pytest.skip("needs the program danted (Debian: dante-server)")
    hashed = subprocess.run(["openssl", "passwd", "-6", "secret"], capture_output=True, text=True, check=True).stdout
    (tmp_path / "conf").write_text(DANTE_CONF)
    (tmp_path / "passwd").write_text(Path("/etc/passwd").read_text() + "ztjoe:x:65533:65533::/:/bin/false\n")
    (tmp_path / "shadow").write_text(Path("/etc/shadow").read_text() + f"ztjoe:{hashed.strip()}:20000:0:99999:7:::\n")
    # Its users are the system's: it sees one more, in a mount namespace that ends with it.
    mounts = "; ".join(f"mount --bind {tmp_path / name} /etc/{name}" for name in ("passwd", "shadow"))
    with running(world.place, "sh", "-ec", f"{mounts}; exec /usr/sbin/danted -f {tmp_path / 'conf'}"):
        until(lambda: listening(world.place, DANTE))
        proxy = f"socks5://ztjoe:secret@{FAR}:{DANTE}"
        with world.leaf("socks", ["udp dport 9993", NO_RELAY], "--fail-over-after", "1", ALL_PROXY=proxy) as leaf:
            assert "UDP goes by the SOCKS5 proxy" in leaf.last_words() and leaf.node.status().transport == "socks5"
