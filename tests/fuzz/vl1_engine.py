"""A root and two leaves under fire from strangers, from each other and from the root: what the VL1 targets share."""

from __future__ import annotations

import functools
from collections.abc import Iterator

from tests.fuzz.pieces import join, split
from tests.unit.vl1.test_vl1_hostile import hello_from, made_up, pair
from tests.unit.vl1.vl1_network import Host, Network
from ztnode.wire import fragment
from ztnode.wire.identity import Identity
from ztnode.wire.keys import PeerKeys
from ztnode.wire.packet import CIPHER_AES_GMAC_SIV, CIPHER_POLY1305_NONE, CIPHER_POLY1305_SALSA2012

STRANGER = made_up(1)[0]
FAR = ("192.0.2.66", 9)
CIPHERS = (CIPHER_AES_GMAC_SIV, CIPHER_POLY1305_SALSA2012, CIPHER_POLY1305_NONE)
INPUTS = 200
"""To one set of nodes; a fault that needs more than one of them is found again with the same seed of libFuzzer."""


@functools.cache
def _keys(sender: Identity, receiver: Identity) -> PeerKeys:
    return PeerKeys(sender.agree(receiver))


class Siege:
    """Three nodes that live through a number of inputs: to make them takes longer than to try one."""

    def __init__(self, at: str) -> None:
        """``at``: who is attacked, "leaf" or "root"."""
        self._at = at
        self._begin()

    def _begin(self) -> None:
        self._network = Network()
        self._hosts = pair(self._network)
        self._inputs = self._packets = 0

    def attack(self, data: bytes) -> None:
        """Each piece is something that the target gets or that happens. Raises where a node is at fault."""
        if self._inputs >= INPUTS:
            self._begin()
        self._inputs += 1
        network, hosts = self._network, self._hosts
        root, one, two = hosts
        sent = sum(host.sent for host in hosts)
        for selector, content in split(data):
            self._packets += 1  # each has a number of its own, or it would be a duplicate
            _happen(network, hosts, root if self._at == "root" else two, self._packets, selector, content)
            network.run(0.02)
        network.run(0.2)
        assert two.vl1.online and one.vl1.online
        assert sum(host.sent for host in hosts) - sent < 5000, "much is sent for little"


def _happen(
    network: Network, hosts: tuple[Host, Host, Host], target: Host, number: int, selector: int, content: bytes
) -> None:
    root, one, _ = hosts
    cipher = CIPHERS[selector >> 4 & 3] if selector >> 4 & 3 < 3 else CIPHER_AES_GMAC_SIV
    victim = target.vl1.identity
    match selector & 7:
        case 0:
            network.inject(content, FAR, target.endpoint)
        case 1:
            network.inject(_sealed(one.vl1.identity, victim, content, cipher, number), one.endpoint, target.endpoint)
        case 2:
            network.inject(_sealed(root.vl1.identity, victim, content, cipher, number), root.endpoint, target.endpoint)
        case 3:
            network.inject(_sealed(STRANGER, victim, content, cipher, number), FAR, target.endpoint)
        case 4:
            # A HELLO whose MAC is right, whatever it says.
            whole = bytearray(_plain_hello(STRANGER if selector & 8 else one.vl1.identity, victim))
            for at, byte in zip(content[::2], content[1::2], strict=False):
                whole[at % len(whole)] = byte
            sender = STRANGER if selector & 8 else one.vl1.identity
            network.inject(_sealed(sender, victim, bytes(whole), CIPHER_POLY1305_NONE, number), FAR, target.endpoint)
        case 5:
            network.run(min(60, content[0] if content else 1))
        case 6:
            # As if a relay had handed it on: addressed to us, from nobody we know.
            header = number.to_bytes(8, "big") + victim.address.to_bytes(5, "big")
            network.inject(header + content, root.endpoint, target.endpoint)
        case _:
            header = number.to_bytes(8, "big") + victim.address.to_bytes(5, "big") + bytes((fragment.INDICATOR,))
            network.inject(header + content, one.endpoint, target.endpoint)


def _sealed(sender: Identity, receiver: Identity, plaintext: bytes, cipher: int, number: int) -> bytes:
    if sender.address == receiver.address:
        sender = STRANGER
    body = plaintext[:9000] or b"\0"
    packet_id = 0x0123456789000000 + number
    return _keys(sender, receiver).seal(packet_id, receiver.address, sender.address, (body,), cipher)


@functools.cache
def _plain_hello(sender: Identity, receiver: Identity) -> bytes:
    if sender.address == receiver.address:
        sender = STRANGER
    return hello_from(sender, receiver)[27:]


def seeds() -> Iterator[bytes]:
    """One piece of each kind with each verb; some in a row."""
    for verb in range(0x20):
        body = bytes((verb,)) + bytes(40)
        yield join((1, body), (0x11, body), (2, body), (5, b"\x02"))
        yield join((4, b""), (3, body), (0x0C, b"\x05\x0b"), (3, body))
    yield join((0, bytes(29)), (6, bytes(30)), (7, b"\x20\x00" + bytes(100)), (7, b"\x21\x01" + bytes(100)))
