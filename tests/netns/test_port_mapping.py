"""Ports mapped by a real router: miniupnpd, which speaks PCP, NAT-PMP and UPnP, in a namespace with a NAT."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.places import Places, places, unavailable
from tests.system.harness import identities, until
from ztnode.embedded import EmbeddedNetwork

ROOT, ROUTER, LAN, HOST = "80.1.1.1", "80.1.1.31", "192.168.50", "192.168.50.12"
GATEWAY = f"{LAN}.1"
MINIUPNPD = shutil.which("miniupnpd", path="/usr/sbin:/usr/bin:/sbin")
CONF = f"""
ext_ifname=eth0
listening_ip=lan
port=0
enable_natpmp=yes
enable_upnp=yes
secure_mode=yes
system_uptime=yes
uuid=00000000-0000-0000-0000-000000000001
allow 1024-65535 {LAN}.0/24 1024-65535
deny 0-65535 0.0.0.0/0 0-65535
"""
CHAINS = """
table inet filter {
 chain miniupnpd {
 }
 chain prerouting_miniupnpd {
 }
 chain postrouting_miniupnpd {
 }
 chain pre {
  type nat hook prerouting priority -100;
  jump prerouting_miniupnpd
 }
}
"""


@pytest.fixture(scope="module")
def router(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    if (reason := unavailable()) is not None or MINIUPNPD is None:
        pytest.skip(reason or "needs the program miniupnpd (Debian: miniupnpd-nftables)")
    directory = tmp_path_factory.mktemp("router")
    (directory / "conf").write_text(CONF)
    with places("upnp") as made:
        made.plug("root", [f"{ROOT}/24"])
        made.router("nat", f"{ROUTER}/24", LAN)
        made.plug("own", [f"{HOST}/24"], to="nat", bridge="lan")
        made.route("own", GATEWAY)
        made.filter("nat", CHAINS)
        command = [*made.prefix("nat"), MINIUPNPD, "-d", "-f", str(directory / "conf"), "-P", str(directory / "pid")]
        with (directory / "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            until(lambda: ":5351" in made.inside("nat", "ss", "-Hlun"))
            yield made
        finally:
            process.terminate()
            process.wait()
            print((directory / "log").read_text()[-2000:])


def forwarded(router: Places, port: int) -> bool:
    """Whether the router forwards a UDP port to the host."""
    return any(
        f"dport {port}" in line and HOST in line for line in router.inside("nat", "nft", "list", "ruleset").splitlines()
    )


@pytest.mark.parametrize(("way", "port"), [("pcp", 21001), ("nat-pmp", 21002), ("upnp", 21003)])
def test_each_protocol_gets_a_port_and_gives_it_back(router: Places, way: str, port: int) -> None:
    if way == "upnp":
        pytest.importorskip("async_upnp_client")
    command = [*router.prefix("own"), sys.executable, "-m", "tests.netns.map_port", way, GATEWAY, str(port)]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root) as process:
        assert process.stdin is not None and process.stdout is not None
        (ip, mapped), lifetime = json.loads(process.stdout.readline())
        assert (ip, mapped) == (ROUTER, port) and 0 < lifetime <= 7200
        assert forwarded(router, port)
        process.stdin.close()
        assert process.wait(20) == 0
    assert not forwarded(router, port)


def test_a_node_behind_a_nat_has_itself_a_port_mapped(router: Places, tmp_path: Path) -> None:
    network = EmbeddedNetwork(tmp_path, host=ROOT, prefix=router.prefix("root"), identities=identities())
    try:
        node = network.add("own", "--port", "9993", prefix=router.prefix("own"))
        node.wait_online()
        until(lambda: f"reached from outside at {ROUTER}:9993, by PCP" in node.last_words(), 20)
        assert forwarded(router, 9993) and node.node.status().mapped_address == f"{ROUTER}:9993"
        node.stop()
        assert not forwarded(router, 9993)
    finally:
        network.close()
