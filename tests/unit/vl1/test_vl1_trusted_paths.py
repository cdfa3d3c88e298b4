"""Trusted paths: used and taken where they are configured, refused and named where they are not."""

from __future__ import annotations

from ipaddress import ip_network

from tests.unit.vl1.vl1_network import IDENTITIES, Host, Network, planet
from ztnode.vl1 import PathNotTrusted
from ztnode.vl1.trusted_paths import TrustedPaths
from ztnode.wire.packet import VERB_FRAME, VERB_USER_MESSAGE, build_trusted, trusted_path_id

ROOT, ONE, TWO = ("203.0.113.1", 9993), ("10.0.0.2", 9993), ("10.0.0.3", 9993)
LAN = (ip_network("10.0.0.0/24"), 25)


def pair(network: Network, *, two_trusts: bool = True) -> tuple[Host, Host]:
    """Two hosts on one LAN that have found each other."""
    world = planet([(IDENTITIES[0], (ROOT,))])
    network.add(IDENTITIES[0], ROOT, world)
    one = network.add(IDENTITIES[1], ONE, world, trusted_paths=(LAN,))
    two = network.add(IDENTITIES[2], TWO, world, trusted_paths=(LAN,) if two_trusts else ())
    network.run(1)
    one.vl1.send(two.address, VERB_USER_MESSAGE, b"hello", network.now)
    assert network.run(5, lambda: one.path_to(two) is not None and two.path_to(one) is not None) or not two_trusts
    return one, two


def test_what_goes_over_a_trusted_path_is_in_the_clear_and_taken_nothing_else() -> None:
    network = Network()
    one, two = pair(network)
    seen: list[tuple[int | None, bool]] = []

    def look(datagram: bytes) -> bytes:
        seen.append((trusted_path_id(datagram), b"s3cret" in datagram))
        return datagram

    network.tampers = look
    one.vl1.send(two.address, VERB_USER_MESSAGE, b"s3cret", network.now)
    one.vl1.send_batch(two.address, VERB_FRAME, [b"s3cret", b"s3cret" * 1000], network.now)  # the second in fragments
    network.run(1)
    assert two.payloads(VERB_USER_MESSAGE)[-1] == b"s3cret"
    assert two.payloads(VERB_FRAME) == [b"s3cret", b"s3cret" * 1000]
    assert seen.count((25, True)) >= 3
    # To the root, which is elsewhere, everything is protected.
    seen.clear()
    one.vl1.send(IDENTITIES[0].address, VERB_USER_MESSAGE, b"s3cret", network.now)
    network.run(0.1)
    assert (25, True) not in seen and all(not clear for _, clear in seen)


def test_a_trusted_path_that_is_not_configured_is_named_once_and_counted() -> None:
    network = Network()
    one, two = pair(network, two_trusts=False)
    for _ in range(3):
        one.vl1.send(two.address, VERB_USER_MESSAGE, b"in vain", network.now)
    network.run(1)
    assert b"in vain" not in two.payloads(VERB_USER_MESSAGE)
    assert two.vl1.counters["drop_path_not_trusted"] >= 3
    assert two.events.count(PathNotTrusted(one.address, ONE, 25)) == 1


def test_number_and_network_must_both_fit() -> None:
    network = Network()
    one, two = pair(network)
    for endpoint, path_id, is_taken in ((ONE, 25, True), (ONE, 26, False), (("10.0.1.2", 9993), 25, False)):
        message = bytes((VERB_USER_MESSAGE,)), bytes((path_id,)) + endpoint[0].encode()
        (packet,) = build_trusted(network.random.randbytes(8), two.address, one.address, [message], path_id, 1432)
        two.vl1.receive([(packet, endpoint)], network.now)
        assert (message[1] in [bytes(payload) for _, _, _, payload in two.vl1.messages()]) is is_taken
    # An unknown sender's are not even looked into.
    (packet,) = build_trusted(bytes(8), two.address, 0x1234567890, [(b"\x14", b"x")], 26, 1432)
    before = two.vl1.counters["drop_path_not_trusted"]
    two.vl1.receive([(packet, ONE)], network.now)
    assert two.vl1.counters["drop_path_not_trusted"] == before + 1


def test_the_most_specific_network_counts() -> None:
    paths = TrustedPaths([(ip_network("10.0.0.0/8"), 1), (ip_network("10.1.0.0/16"), 2), (ip_network("fd00::/8"), 3)])
    assert [paths.id_for(ip) for ip in ("10.2.0.1", "10.1.0.1", "192.0.2.1", "fd00::1")] == [1, 2, 0, 3]
    assert paths.accepts("10.1.0.1", 1) and paths.accepts("10.1.0.1", 2) and not paths.accepts("10.2.0.1", 2)
    assert not TrustedPaths(()) and not TrustedPaths(()).accepts("10.1.0.1", 0)
