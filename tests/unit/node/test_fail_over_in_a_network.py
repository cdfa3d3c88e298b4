"""``FailOver`` under a whole ``Vl1``, on the simulated network: what makes a node leave UDP, and what does not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest

from tests.unit.vl1.vl1_network import IDENTITIES, Host, Network, planet
from ztnode.hookspecs import Datagrams, Endpoint
from ztnode.node.fail_over import FailOver
from ztnode.wire.packet import VERB_FRAME

ROOT: Endpoint = ("84.17.53.155", 9993)
NODE: Endpoint = ("84.17.53.1", 9993)
RELAY: Endpoint = ("84.17.53.2", 443)
PEERS: Sequence[Endpoint] = [("84.17.53.3", 9993), ("84.17.53.4", 9993)]


class Way:
    """A transport whose datagrams come from ``own`` on the network."""

    def __init__(self, network: Network, own: Endpoint) -> None:
        self._network, self._own = network, own
        self.receive: Callable[[Datagrams], None] = lambda _datagrams: None

    async def open(self, port: int, receive: Callable[[Datagrams], None]) -> None:
        self.receive = receive

    def send(self, endpoint: Endpoint, datagrams: Sequence[bytes]) -> int:
        for datagram in datagrams:
            self._network._transmit(datagram, self._own, endpoint)
        return 0

    def local_endpoints(self) -> Sequence[Endpoint]:
        return []

    async def close(self) -> None:
        self.receive = lambda _datagrams: None


class Walled(Network):
    """A root, two peers, and a node that has UDP and a relay; ``switches`` counts how often it left a way."""

    def __init__(self, seed: int = 1) -> None:
        super().__init__(seed)
        world = planet([(IDENTITIES[0], (ROOT,))])
        self.root = self.add(IDENTITIES[0], ROOT, world)
        self.node = self.add(IDENTITIES[1], NODE, world)
        self.peers = [
            self.add(identity, endpoint, world) for identity, endpoint in zip(IDENTITIES[2:4], PEERS, strict=True)
        ]
        self.ways = Way(self, NODE), Way(self, RELAY)
        self.joined = FailOver([("udp", self.ways[0]), ("tcp", self.ways[1])], clock=lambda: self.now)
        vl1 = self.node.vl1
        self.joined.answers = lambda: vl1.counters["answers"]
        self.joined.answered = lambda: vl1.answered_from_afar
        self.joined.heard = lambda: vl1.heard_from_afar
        self.joined.ask = lambda: vl1.ask_afar(self.now)
        self.joined.on_another = vl1.greet_again
        self.switches = 0

    def flush(self) -> None:
        for destination, datagrams in self.node.vl1.to_send():
            self.joined.send(destination, datagrams)
        super().flush()

    def _deliver(self, datagram: bytes, source: Endpoint, destination: Endpoint) -> None:
        if destination == RELAY:
            self.ways[1].receive([(datagram, source)])
        elif destination == NODE:
            self.ways[0].receive([(datagram, source)])
        else:
            super()._deliver(datagram, source, destination)

    async def live(self, seconds: float, each: Callable[[], None] = lambda: None) -> None:
        """Let time pass in steps of 0.1 s; ``each``: done in every one."""
        end = self.now + seconds
        while self.now < end - 1e-6:
            each()
            self.run(0.1)
            looking = self.joined._looking
            before = self.joined.in_use
            if looking is not None and self.now >= self.joined._look_due:
                looking.cancel()
                self.joined._look()
            for _ in range(5):
                await asyncio.sleep(0)
            self.switches += self.joined.in_use != before

    async def start(self) -> None:
        await self.joined.open(9993, lambda datagrams: self.node.vl1.receive(datagrams, self.now))
        await self.live(1)
        for peer in self.peers:
            self.node.vl1.send_batch(peer.address, VERB_FRAME, [b"hello"], self.now)
            await self.live(2)
            assert self.node.path_to(peer) and peer.path_to(self.node)

    def chat(self, peer: Host, *, answers: bool = True) -> None:
        """A frame, and one back."""
        self.node.vl1.send_batch(peer.address, VERB_FRAME, [b"data"], self.now)
        if answers:
            peer.vl1.send_batch(self.node.address, VERB_FRAME, [b"ack"], self.now)


def simulated(check: Callable[[Walled], Awaitable[None]], seed: int = 1) -> None:
    async def bounded() -> None:
        network = Walled(seed)
        await network.start()
        await check(network)
        await network.joined.close()

    asyncio.run(bounded())


def without(*gone: Endpoint) -> Callable[[Endpoint, Endpoint], bool]:
    """Nothing comes from these or reaches them."""
    return lambda source, destination: source in gone or destination in gone


@pytest.mark.parametrize("gone", [(ROOT,), (ROOT, PEERS[0]), PEERS], ids=["root", "root and a peer", "peers"])
@pytest.mark.parametrize("is_busy", [False, True])
def test_who_is_left_shows_that_only_the_others_are_gone(gone: Sequence[Endpoint], is_busy: bool) -> None:
    async def check(network: Walled) -> None:
        network.blocked = without(*gone)
        await network.live(200, (lambda: network.chat(network.peers[0])) if is_busy else lambda: None)
        assert not network.switches

    simulated(check)


def test_who_sends_one_way_only_is_no_reason() -> None:
    async def check(network: Walled) -> None:
        await network.live(300, lambda: network.chat(network.peers[0], answers=False))
        assert not network.switches

    simulated(check)


def test_loss_of_half_is_no_wall() -> None:
    async def check(network: Walled) -> None:
        network.loss = 0.5
        await network.live(60, lambda: network.chat(network.peers[0]))
        assert not network.switches

    simulated(check)


def test_a_process_that_was_stopped_reads_first() -> None:
    """For 30 s nothing runs; what has come meanwhile waits in the socket, and the look is due before it is read."""

    async def check(network: Walled) -> None:
        network.chat(network.peers[0])
        network.flush()
        udp, waiting = network.ways[0], list[Datagrams]()
        takes, udp.receive = udp.receive, waiting.append
        del network.hosts[NODE]
        for _ in range(300):
            network.peers[0].vl1.send_batch(network.node.address, VERB_FRAME, [b"data"], network.now)
            network.run(0.1)
        network.hosts[NODE] = network.node
        await network.live(0.1)
        udp.receive = takes
        for datagrams in waiting:
            takes(datagrams)
        await network.live(30, lambda: network.chat(network.peers[0]))
        assert not network.switches

    simulated(check)


@pytest.mark.parametrize("up_for", [1, 3])
@pytest.mark.parametrize("of", [10, 13, 30])
def test_udp_that_comes_back_for_moments_stops_a_transfer_once(up_for: float, of: float) -> None:
    async def check(network: Walled) -> None:
        stops = []
        peer, began, last = network.peers[0], network.now, network.now

        def each() -> None:
            nonlocal last
            is_up = (network.now - began) % of >= of - up_for
            network.blocked = without() if is_up else without(NODE)
            network.chat(peer)
            if peer.messages and network.node.messages:
                peer.messages.clear()
                network.node.messages.clear()
                if network.now - last > 1:
                    stops.append(network.now - last)
                last = network.now

        await network.live(200, each)
        assert network.joined.in_use == "tcp" and network.switches == 1
        assert len(stops) <= 2 and max(stops) < 8
        network.blocked = without()
        await network.live(30, lambda: network.chat(peer))
        assert network.joined.in_use == "udp"

    simulated(check)


def test_a_relay_that_fails_while_there_is_no_udp_is_waited_for() -> None:
    async def check(network: Walled) -> None:
        network.blocked = without(NODE)
        await network.live(10, lambda: network.chat(network.peers[0]))
        assert network.joined.in_use == "tcp" and network.node.messages
        network.blocked = without(NODE, RELAY)
        await network.live(60, lambda: network.chat(network.peers[0]))
        network.node.messages.clear()
        network.blocked = without(NODE)
        await network.live(6, lambda: network.chat(network.peers[0]))
        assert network.node.messages
        network.blocked = without()
        await network.live(20, lambda: network.chat(network.peers[0]))
        assert network.joined.in_use == "udp" and network.switches == 2

    simulated(check)
