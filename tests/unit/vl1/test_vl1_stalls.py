"""A connection stalls because a NAT has forgotten it, an address has changed or a wire was cut: for how long."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.unit.vl1.vl1_network import IDENTITIES, Host, Nat, Network, planet
from ztnode.vl1 import PeerReturned, verbs
from ztnode.vl1.path import Path
from ztnode.vl1.vl1_core import FLOWING, Vl1Core
from ztnode.wire.packet import VERB_FRAME, VERB_PUSH_DIRECT_PATHS
from ztnode.wire.push_direct_paths import DirectPath, parse_push_direct_paths

ROOT, SERVER = ("203.0.113.1", 9993), ("203.0.113.3", 9993)
INNER, OUTER = ("10.1.0.2", 9993), "198.51.100.1"


class ForgetfulNat(Nat):
    """A NAT that can lose its table, and then gives out other ports."""

    _base = 40000

    def outward(self, source: tuple[str, int], destination: tuple[str, int]) -> tuple[str, int]:
        port = self._ports.setdefault(source, self._base + len(self._ports))
        self._allowed.add((port, destination))
        return self.outer_ip, port

    def forget(self) -> None:
        self._base += 1000
        self._ports.clear()
        self._allowed.clear()

    def inward(self, source: tuple[str, int], destination: tuple[str, int]) -> tuple[str, int] | None:
        if (destination[1], source) not in self._allowed:
            return None
        return next((inner for inner, port in self._ports.items() if port == destination[1]), None)


def transfer(network: Network, server: Host, client: Host, seconds: float) -> float:
    """A download as TCP does it: the client says something when something came, the server repeats itself ever more
    rarely when nothing does. Returns the longest time without anything at the client."""
    end, last, longest, retry, due = network.now + seconds, network.now, 0.0, 0.3, network.now
    while network.now < end:
        if network.now >= due:
            server.vl1.send_batch(client.address, VERB_FRAME, [b"data"], network.now)
            retry = min(retry * 2, 60.0)
            due = network.now + retry
        network.run(0.05)
        if client.payloads(VERB_FRAME):
            client.messages.clear()
            longest, last = max(longest, network.now - last), network.now
            client.vl1.send_batch(server.address, VERB_FRAME, [b"ack"], network.now)
        if server.payloads(VERB_FRAME):
            server.messages.clear()
            retry, due = 0.3, network.now
    return max(longest, network.now - last)


def behind_a_nat(network: Network) -> tuple[Host, Host, ForgetfulNat]:
    world = planet([(IDENTITIES[0], (ROOT,))])
    network.add(IDENTITIES[0], ROOT, world)
    nat = ForgetfulNat(OUTER)
    client = network.add(IDENTITIES[1], INNER, world, nat=nat)
    server = network.add(IDENTITIES[2], SERVER, world)
    network.run(1)
    client.vl1.send_batch(server.address, VERB_FRAME, [b"hello"], network.now)
    assert network.run(5, lambda: client.path_to(server) is not None and server.path_to(client) is not None)
    transfer(network, server, client, 5)
    return client, server, nat


@pytest.mark.parametrize("moment", [0.0, 0.3, 0.7])
def test_transfer_goes_on_soon_after_a_nat_forgot_us(moment: float) -> None:
    network = Network()
    client, server, nat = behind_a_nat(network)
    transfer(network, server, client, moment)
    nat.forget()
    # The way over the root is lost too, until the next word to it.
    assert transfer(network, server, client, 12) <= 3.0


def test_transfer_goes_on_after_a_wire_was_cut() -> None:
    network = Network()
    client, server, _ = behind_a_nat(network)
    whole: Callable[[tuple[str, int], tuple[str, int]], bool] = network.blocked
    network.blocked = lambda source, destination: "198.51" in source[0] or "198.51" in destination[0]
    transfer(network, server, client, 20)
    network.blocked = whole
    assert not server.events.count(PeerReturned(client.address))
    assert network.run(3.5, lambda: client.path_to(server) is not None and server.path_to(client) is not None)
    # The layer above has waited longer and longer; it is told.
    assert server.events.count(PeerReturned(client.address)) == 1
    transfer(network, server, client, 10)
    assert server.events.count(PeerReturned(client.address)) == 1


def test_peer_is_asked_to_send_to_where_we_are_now() -> None:
    """As the reference understands it: PUSH_DIRECT_PATHS with the flag of a cluster's redirection, naming the endpoint
    from which the peer itself has seen us, and not more often than it takes such messages."""
    network = Network()
    client, server, _ = behind_a_nat(network)
    server_peer = client.vl1.peer(server.address)
    assert server_peer is not None
    client.vl1.trust(server_peer, network.now)
    told: list[DirectPath] = []
    handler = verbs.HANDLERS[VERB_PUSH_DIRECT_PATHS]

    def listen(core: Vl1Core, arrival: verbs.ArrivedPacket) -> None:
        if core is server.vl1._core:
            told.extend({path for path in parse_push_direct_paths(arrival.payload) if path.redirect})
        handler(core, arrival)

    def seen_at(port: int) -> None:
        network.run(FLOWING)  # or where the server sends to is right
        server_peer.paths[SERVER].last_receive = network.now
        client.vl1._core.surface_reported(server_peer, SERVER, (OUTER, port), network.now)
        network.run(0.5)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(verbs.HANDLERS, VERB_PUSH_DIRECT_PATHS, listen)
        transfer(network, server, client, 6)
        assert told == []
        for port in (50001, 50002, 50003):
            seen_at(port)
        assert [path.endpoint for path in told] == [(OUTER, 50001)]
        transfer(network, server, client, 6)
        seen_at(50004)
        assert [path.endpoint for path in told] == [(OUTER, 50001), (OUTER, 50004)]
        network.run(60)
        seen_at(50005)  # nobody waits for us
        assert len(told) == 2


def test_a_peer_of_the_reference_follows_one_change_of_path_after_another() -> None:
    """``Peer::clusterRedirect`` to the letter: paths with their priorities, and which of them it keeps."""
    network = Network()
    client, server, _ = behind_a_nat(network)
    peer, core = client.vl1.peer(server.address), client.vl1._core
    assert peer is not None
    sent: list[list[DirectPath]] = []
    transmit = core.transmit.send

    def noted(to: Any, verb: int, parts: Any, *more: Any, **options: Any) -> int:
        if verb == VERB_PUSH_DIRECT_PATHS:
            sent.append(list(parse_push_direct_paths(b"".join(parts))))
        return transmit(to, verb, parts, *more, **options)

    ours = [(OUTER, 50001), ("198.51.100.2", 50001)]
    theirs = dict.fromkeys(ours, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(core.transmit, "send", noted)
        for turn in range(8):
            way = ours[turn % 2]
            peer.last_frame = now = network.now + 20.0 * turn
            client.vl1.trust(peer, now)
            peer.paths[SERVER].last_receive = now
            core.surface_reported(peer, SERVER, way, now)
            for path in sent.pop() if turn else []:
                priority = theirs.get(way, 1) + 2
                theirs = {known: had for known, had in theirs.items() if had >= priority and known != way}
                theirs[path.endpoint] = priority
            if turn:
                assert list(theirs) == [way], f"change {turn}: it may still choose {theirs}"
            for known in ours:  # what comes by the other way makes it a path again
                theirs.setdefault(known, 1)


def test_a_dead_path_that_is_remembered_is_no_reason_to_ask_for_ever() -> None:
    network = Network()
    client, server, _ = behind_a_nat(network)
    peer, core = client.vl1.peer(server.address), client.vl1._core
    assert peer is not None
    asked = []
    for second in range(240):
        peer.last_frame = now = network.now + second
        client.vl1.trust(peer, now)
        if second == 0:
            lost = peer.paths[SERVER[0], 9] = Path((SERVER[0], 9), now)
            lost.dead = True
        peer.paths[SERVER].last_receive = now
        before = core.counters["redirects_sent"]
        # The NAT gave us another port once, long after the path was lost: that is news.
        core.surface_reported(peer, SERVER, (OUTER, 50001 if second < 200 else 50002), now)
        if core.counters["redirects_sent"] > before:
            asked.append(second)
    assert asked[-3:] == [200, 210, 230] and len(asked) <= 8, asked


def test_idle_peers_are_left_in_peace() -> None:
    network = Network()
    client, server, _ = behind_a_nat(network)
    network.run(60)
    before = client.sent + server.sent
    network.run(60)
    assert client.sent + server.sent - before <= 40


def test_nobody_is_asked_by_a_path_that_may_be_as_dead_as_the_last_nor_while_frames_come() -> None:
    """Both would spend the one message in five seconds that the peer takes."""
    network = Network()
    client, server, _ = behind_a_nat(network)
    peer, core = client.vl1.peer(server.address), client.vl1._core
    assert peer is not None
    now = peer.last_frame = network.now
    client.vl1.trust(peer, now)
    lost = peer.paths[SERVER[0], 9] = Path((SERVER[0], 9), now)
    lost.dead = True
    path = peer.paths[SERVER]
    for path.last_receive, peer.last_frame_in, asked in ((now - 2, now - 1, 0), (now, now - 0.1, 0), (now, now - 1, 1)):
        core.surface_reported(peer, SERVER, (OUTER, 50001), now)
        assert core.counters["redirects_sent"] == asked
