"""What a node sends to endpoints that others name, for each byte of theirs: ``python -m tests.bench.third_parties``.

Each case runs in a simulated network for 70 s after its packets. What zerotier-one 1.14.1 would send is worked out from
its source: a HELLO of 137 bytes to where any packet of a peer came from (``Peer::received``), an ECHO of 28 to what
others name (``Peer::attemptToContactAt``), an OK of 59 to a HELLO (``IncomingPacket::_doHELLO``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from tests.unit.vl1.test_vl1_floods import Tally, junk
from tests.unit.vl1.test_vl1_hostile import hello_from, pair, sealed
from tests.unit.vl1.vl1_network import IDENTITIES, Host, Network
from ztnode.wire.endpoint import Endpoint
from ztnode.wire.packet import VERB_NOP, VERB_PUSH_DIRECT_PATHS, VERB_RENDEZVOUS
from ztnode.wire.push_direct_paths import DirectPath, build_push_direct_paths
from ztnode.wire.rendezvous import Rendezvous, build_rendezvous

THIRD: Final = "192.0.2.77"
HELLO, ECHO, OK_HELLO, PUNCH = 137, 28, 59, 4
"""Bytes of the reference's packets."""
Packets = list[tuple[bytes, Endpoint]]
Case = Callable[[Network, Host, Host, Host], Packets]


def _from_peer(one: Host, victim: Host, verb: int, body: bytes = b"") -> bytes:
    return sealed(one.vl1.identity, victim.vl1.identity, bytes((verb,)) + body)


def _pushed(endpoints: list[tuple[str, int]]) -> bytes:
    return build_push_direct_paths([DirectPath(endpoint) for endpoint in endpoints])


def _copies(network: Network, one: Host, victim: Host) -> Packets:
    hello = hello_from(one.vl1.identity, victim.vl1.identity, 800)
    network.inject(hello, one.endpoint, victim.endpoint)
    return [(hello, (THIRD, 7))] * 100


def cases() -> Iterator[tuple[str, int, Case]]:
    """Whose packets they are, what the reference would answer in all (bytes), and the packets with their sources."""
    yield (
        "stranger: 100 of junk, source forged",
        0,
        lambda net, root, one, two: [(junk(two.vl1, net.random), (THIRD, 7)) for _ in range(100)],
    )
    yield (
        "stranger with an identity: HELLO, source forged",
        OK_HELLO + HELLO,
        lambda net, root, one, two: [(hello_from(IDENTITIES[3], two.vl1.identity), (THIRD, 7))],
    )
    yield "peer: NOP, source forged", HELLO, lambda net, root, one, two: [(_from_peer(one, two, VERB_NOP), (THIRD, 7))]
    yield (
        "anybody: a peer's HELLO played back 100 times",
        100 * OK_HELLO + HELLO,
        lambda net, root, one, two: _copies(net, one, two),
    )
    yield (
        "peer: PUSH_DIRECT_PATHS, 20 ports of one address",
        20 * ECHO,
        lambda net, root, one, two: [
            (
                _from_peer(one, two, VERB_PUSH_DIRECT_PATHS, _pushed([(THIRD, port) for port in range(1, 21)])),
                one.endpoint,
            )
        ],
    )
    yield (
        "root: RENDEZVOUS",
        PUNCH + ECHO,
        lambda net, root, one, two: [
            (
                _from_peer(root, two, VERB_RENDEZVOUS, build_rendezvous(Rendezvous(one.address, (THIRD, 7)))),
                root.endpoint,
            )
        ],
    )


def measure(case: Case) -> tuple[int, int]:
    """Bytes of the attacker, and what the victim then sent to the third party."""
    network = Network()
    root, one, two = pair(network)
    packets = case(network, root, one, two)
    tally = Tally(network, two, {THIRD})
    for data, source in packets:
        network.inject(data, source, two.endpoint)
        network.run(0.01)
    network.run(70)
    return sum(len(data) for data, _ in packets), tally.bytes


def main() -> None:
    """Print a table."""
    print(f"{'packets':52}{'bytes':>8}{'sent on':>9}{'a byte':>8}{'zerotier-one':>14}")
    for name, reference, case in cases():
        received, sent = measure(case)
        print(f"{name:52}{received:8,}{sent:9,}{sent / received:8.2f}{reference / received:14.2f}", flush=True)


if __name__ == "__main__":
    main()
