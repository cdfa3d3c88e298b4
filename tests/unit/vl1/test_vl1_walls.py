"""A wall comes up in the middle of a transfer: for how long it stands still, and what is no wall."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from tests.unit.vl1.test_vl1_stalls import OUTER, ROOT, SERVER, behind_a_nat, transfer
from tests.unit.vl1.vl1_network import Host, Network, triangle
from ztnode.vl1 import PeerPathChanged
from ztnode.vl1.path import EXPIRATION, PROBE_AFTER, PROBES, UNANSWERED, UNANSWERED_AFTER
from ztnode.wire.endpoint import Endpoint
from ztnode.wire.packet import VERB_FRAME

IN_SILENCE = PROBE_AFTER + PROBES + 1
"""Seconds until a path by which nothing comes is left, and ``DEAF``: one by which nothing is answered."""
DEAF = UNANSWERED_AFTER + UNANSWERED + 2
WALLS: dict[str, Callable[[Endpoint, Endpoint], bool]] = {
    "out": lambda source, destination: source[0] == OUTER and destination == SERVER,
    "in": lambda source, destination: source == SERVER and destination[0] == OUTER,
    "both": lambda source, destination: {source[0], destination[0]} == {OUTER, SERVER[0]},
}


def chat(network: Network, one: Host, two: Host, seconds: float, *, answers: bool = True) -> None:
    """Frames, ten a second, and as many answers."""
    end = network.now + seconds
    while network.now < end:
        one.vl1.send_batch(two.address, VERB_FRAME, [b"data"], network.now)
        if answers:
            two.vl1.send_batch(one.address, VERB_FRAME, [b"ack"], network.now)
        network.run(0.1)


def until_it_passes(network: Network, one: Host, two: Host) -> float:
    """Seconds of such frames until what each says reaches the other."""
    began = network.now
    one.messages.clear()
    two.messages.clear()
    while not (one.messages and two.messages):
        assert network.now - began < 120, "it never does"
        chat(network, one, two, 0.1)
    return network.now - began


@pytest.mark.parametrize("wall", WALLS)
@pytest.mark.parametrize("back_after", [5, 60])
@pytest.mark.parametrize("is_download", [False, True])
def test_what_a_wall_stops_goes_by_the_root_until_it_is_gone(wall: str, back_after: float, is_download: bool) -> None:
    network = Network()
    client, server, _ = behind_a_nat(network)
    sides = (server, client) if is_download else (client, server)
    whole = network.blocked
    network.blocked = WALLS[wall]
    began = network.now
    assert until_it_passes(network, *sides) <= (IN_SILENCE if wall == "both" else DEAF)
    chat(network, *sides, max(0.0, back_after - (network.now - began)))
    network.blocked = whole
    chat(network, *sides, 6)
    assert client.path_to(server) and server.path_to(client), "back on the direct path"
    assert transfer(network, *sides, 10) < 1


def test_a_root_behind_a_wall_is_no_reason_to_leave_a_peer() -> None:
    network = Network()
    client, server, _ = behind_a_nat(network)
    network.blocked = lambda source, destination: ROOT in (source, destination)
    assert transfer(network, server, client, 60) < 1
    assert not client.vl1.counters["paths_deaf"] and client.path_to(server) == SERVER


@pytest.mark.parametrize("answers", [True, False])
def test_loss_of_a_third_is_no_wall(answers: bool) -> None:
    network = Network(4)
    _, one, two = triangle(network)
    network.run(1)
    chat(network, one, two, 3)
    network.loss = 0.3
    chat(network, one, two, 300, answers=answers)
    assert not one.vl1.counters["paths_deaf"] and not two.vl1.counters["paths_deaf"]
    left = one.events.count(PeerPathChanged(two.address, None))
    # Where nothing is said but answers to questions, one of four falls silent for six seconds now and then.
    assert not left if answers else left <= 3 and one.path_to(two) is not None


def test_an_idle_path_is_asked_in_heartbeats() -> None:
    network = Network()
    client, server, _ = behind_a_nat(network)
    network.run(60)
    sent = client.sent
    network.run(EXPIRATION)
    assert client.sent - sent < 75 and not client.vl1.counters["paths_dead"]
    assert client.path_to(server) == SERVER


def test_a_peer_that_slept_is_found_where_it_was() -> None:
    network = Network()
    client, server, _ = behind_a_nat(network)
    asleep = network.hosts.pop(SERVER)
    for _ in range(200):
        client.vl1.send_batch(server.address, VERB_FRAME, [b"data"], network.now)
        network.run(0.1)
    assert client.path_to(server) is None
    network.hosts[SERVER] = asleep
    until_it_passes(network, client, server)
    chat(network, client, server, 6)
    assert client.path_to(server) == SERVER


def test_forged_packets_keep_no_dead_path_alive() -> None:
    network = Network()
    client, server, _ = behind_a_nat(network)
    heard: list[bytes] = []

    def listens(datagram: bytes) -> bytes:
        heard.append(datagram)
        return datagram

    network.tampers = listens
    chat(network, client, server, 2)
    network.tampers = lambda datagram: datagram
    to_client = [each for each in heard if each[8:13] == client.address.to_bytes(5, "big") and len(each) > 40]
    network.blocked = WALLS["both"]
    replies = itertools.cycle(to_client)
    began = network.now
    while client.path_to(server) is not None:
        assert network.now - began <= IN_SILENCE
        played = next(replies)
        forged = played[:-1] + bytes([played[-1] ^ 1])
        client.vl1.receive([(played, SERVER), (forged, SERVER)], network.now)
        chat(network, client, server, 0.1)


def test_who_says_what_he_was_not_asked_makes_us_ask_no_more() -> None:
    """What is not authentic moves no clock of a path: no question more goes out for it."""
    counts = []
    for forged in (0, 50):
        network = Network()
        client, server, _ = behind_a_nat(network)
        before = client.sent
        for _ in range(100):
            chat(network, client, server, 0.1)
            junk = client.address.to_bytes(5, "big") + server.address.to_bytes(5, "big")
            for number in range(forged):
                packet = number.to_bytes(8, "big") + junk + bytes([3 << 3]) + bytes(40)
                client.vl1.receive([(packet, SERVER)], network.now)
        counts.append(client.sent - before)
    assert counts[0] == counts[1]
