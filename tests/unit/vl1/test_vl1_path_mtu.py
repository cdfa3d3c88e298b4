"""How long a datagram a path carries: found out, kept to, and tried again."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from tests.unit.vl1.test_vl1_stalls import transfer
from tests.unit.vl1.vl1_network import Host, Network, triangle
from ztnode.vl1 import PathMtuFound, Vl1Config
from ztnode.vl1.path_mtu import LENGTHS, PathMtu
from ztnode.wire.packet import VERB_FRAME


def narrow(network: Network, limit: int, hosts: tuple[Host, Host]) -> None:
    """Between these hosts datagrams of more than ``limit`` bytes are lost, both ways."""
    ends = {host.endpoint for host in hosts}
    whole = network._transmit

    def transmit(datagram: bytes, source: tuple[str, int], destination: tuple[str, int]) -> None:
        if len(datagram) <= limit or {source, destination} != ends:
            whole(datagram, source, destination)

    network._transmit = transmit  # type: ignore[method-assign]


def connected(network: Network) -> tuple[Host, Host]:
    _, one, two = triangle(network)
    network.run(1)
    one.vl1.send_batch(two.address, VERB_FRAME, [b"hello"], network.now)
    assert network.run(30, lambda: one.path_to(two) is not None and two.path_to(one) is not None)
    return one, two


def mtu(one: Host, two: Host) -> int:
    peer = one.vl1.peer(two.address)
    assert peer is not None and peer.path is not None
    return peer.path.mtu


@pytest.mark.parametrize(("limit", "found"), [(1400, 1391), (1372, 1363), (1399, 1391), (1280, 1223), (600, 548)])
def test_path_that_loses_long_datagrams_gets_shorter_ones(limit: int, found: int) -> None:
    network = Network()
    one, two = connected(network)
    narrow(network, limit, (one, two))
    transfer(network, one, two, 30)
    assert mtu(one, two) == mtu(two, one) == found
    network.run(1)
    one.messages.clear()
    payloads = [bytes([number]) * 2810 for number in range(20)]
    two.vl1.send_batch(one.address, VERB_FRAME, payloads, network.now)
    network.run(1)
    assert one.payloads(VERB_FRAME) == payloads
    assert PathMtuFound(two.address, found) in one.events


def test_transfer_of_nothing_but_long_datagrams_goes_on() -> None:
    """Not even an acknowledgment passes, for there is nothing to acknowledge."""
    network = Network()
    one, two = connected(network)
    network.run(1)
    narrow(network, 1400, (one, two))
    one.messages.clear()
    for _ in range(26):
        two.vl1.send_batch(one.address, VERB_FRAME, [bytes(2810)], network.now)
        network.run(0.5)
    assert one.payloads(VERB_FRAME)


def test_path_that_has_become_wide_again_is_used_so() -> None:
    network = Network()
    one, two = connected(network)
    narrow(network, 1300, (one, two))
    transfer(network, one, two, 30)
    assert mtu(one, two) < 1300
    del network._transmit
    transfer(network, one, two, 90)
    assert mtu(one, two) == mtu(two, one) == 1432
    assert one.events[-1] == PathMtuFound(two.address, None)


def test_silence_and_single_losses_are_no_narrow_path() -> None:
    """The first is for the paths' own probes to judge, the second for nobody."""
    network = Network(loss=0.05)
    one, two = connected(network)
    transfer(network, one, two, 60)
    assert mtu(one, two) >= LENGTHS[0]
    search = PathMtu(1432)
    for now in range(100):
        search.question(float(now), last_receive=0.0)
    assert search.mtu == 1432


def test_idle_paths_are_not_asked() -> None:
    network = Network()
    one, two = connected(network)
    network.run(60)
    before = one.sent + two.sent
    network.run(60)
    assert one.sent + two.sent - before <= 40


def test_answered_heartbeats_leave_an_idle_host_asleep(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network()
    one, _ = connected(network)
    network.run(60)
    ticks: list[float] = []
    tick = one.vl1._tick

    def counted(now: float) -> None:
        ticks.append(now)
        tick(now)

    monkeypatch.setattr(one.vl1, "_tick", counted)
    network.run(60)
    assert len(ticks) <= 20, "one each five seconds, and one after each heartbeat"


def test_configured_lengths() -> None:
    networks = ((ip_network("203.0.113.0/24"), 1400), (ip_network("203.0.113.3/32"), 1300))
    config = Vl1Config(physical_mtus=networks)
    assert [config.mtu_to(ip) for ip in ("203.0.113.9", "203.0.113.3", "198.51.100.1", "2001:db8::1")] == [
        1400,
        1300,
        1432,
        1432,
    ]
    network = Network()
    _, one, two = triangle(network, physical_mtus=networks)
    network.run(1)
    one.vl1.send_batch(two.address, VERB_FRAME, [b"hello"], network.now)
    network.run(5, lambda: one.path_to(two) is not None)
    assert mtu(one, two) == 1300
