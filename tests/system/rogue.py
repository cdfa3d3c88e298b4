"""A peer with a good identity and bad intentions: a real VL1 and VL2 on a UDP socket, driven from the test by hand.

It does all that it takes to be a member, so that what it sends then is authentic: the packets pass every gate that
keeps strangers out, and only what stands behind the gates is left to refuse them.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from ztnode.vl1 import Message, Vl1
from ztnode.vl2 import Vl2
from ztnode.wire import c25519
from ztnode.wire.config_chunk import split_config
from ztnode.wire.config_request import ConfigRequest
from ztnode.wire.endpoint import Endpoint
from ztnode.wire.hello import Hello, Version, WorldVersion, build_hello
from ztnode.wire.identity import Identity
from ztnode.wire.keys import PeerKeys
from ztnode.wire.packet import CIPHER_POLY1305_NONE, VERB_NETWORK_CONFIG_REQUEST
from ztnode.wire.wire_error import WireError
from ztnode.wire.world import World

PACE_BYTES = 200_000
"""What is thrown at once: a loopback socket holds a few megabytes, and what it drops tests nothing."""
PACE_SECONDS = 0.004
RECORDED = 4096


class Rogue:
    """``on_config_request(network id, address of who asks)`` gives the bytes that it answers as a controller, in signed
    chunks; None: no answer."""

    def __init__(self, identity: Identity, planet: bytes) -> None:
        self.identity = identity
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.setblocking(False)
        now, wall = time.monotonic(), time.time_ns() // 1_000_000
        self.vl1 = Vl1(identity, World.parse(planet), random=os.urandom, now=now, wall=wall)
        self.vl2 = Vl2(self.vl1, identity, random=os.urandom, now=now, wall=wall, controller=True)
        self.sent: deque[tuple[Endpoint, bytes]] = deque(maxlen=RECORDED)
        """The datagrams that it sent in good order, for copies of all kinds."""
        self.received: deque[tuple[Endpoint, bytes]] = deque(maxlen=RECORDED)
        self.on_config_request: Callable[[int, int], bytes | None] = lambda nwid, member: None

    def close(self) -> None:
        self.socket.close()

    def turn(self) -> None:
        """Take what is there, and send what that calls for."""
        now = time.monotonic()
        batch: list[tuple[bytes, Endpoint]] = []
        while len(batch) < 1000:
            try:
                data, endpoint = self.socket.recvfrom(65535)
            except BlockingIOError:
                break
            batch.append((data, endpoint))
            self.received.append((endpoint, data))
        if batch:
            self.vl1.receive(batch, now)
        for room in (self.vl1, self.vl2):
            if (due := room.next_timer()) is not None and due <= now:
                room.handle_timer(now)
        messages = self.vl1.messages()
        self.vl2.receive(messages, now)
        for message in messages:
            if message[1] == VERB_NETWORK_CONFIG_REQUEST:
                self._configure(message, now)
        self.vl2.frames()
        self.vl1.events()
        self.vl2.events()
        self.flush()

    def flush(self) -> None:
        """Send what VL1 has to say."""
        for endpoint, datagrams in self.vl1.to_send():
            if endpoint[0] != "127.0.0.1":
                continue  # the hosts' other addresses, which its peers told it
            self.sent += ((endpoint, datagram) for datagram in datagrams)
            self.throw(datagrams, endpoint)

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Be a node for a while; stop early once ``until`` holds. Whether it does."""
        end = time.monotonic() + seconds
        while not until():
            if time.monotonic() >= end:
                return False
            self.turn()
            select.select([self.socket], [], [], 0.01)
        return True

    def throw(self, datagrams: Iterable[bytes], endpoint: Endpoint) -> None:
        """Send raw datagrams from the endpoint that its peers know."""
        throw(self.socket, datagrams, endpoint)

    def send(self, address: int, verb: int, payloads: Iterable[bytes]) -> None:
        """Send authentic packets, whatever their content, at a pace that the receiver can follow."""
        volume = 0
        for payload in payloads:
            self.vl1.send(address, verb, payload, time.monotonic())
            volume += len(payload) + 100
            if volume > PACE_BYTES:
                self.turn()
                volume = 0
        self.turn()

    def join(self, nwid: int, seconds: float = 10.0) -> bool:
        """Become a member; whether it is one."""
        self.vl2.join(nwid, time.monotonic())

        def joined() -> bool:
            snapshot = self.vl2.network(nwid)
            return snapshot is not None and bool(snapshot.addresses)

        return self.run(seconds, joined)

    def reach(self, address: int, seconds: float = 10.0) -> bool:
        """Get a direct path to a peer; whether there is one."""
        self.vl1.contact(address, time.monotonic())
        return self.run(seconds, lambda: self.endpoint_of(address) is not None)

    def endpoint_of(self, address: int) -> Endpoint | None:
        """Where a peer is reached directly."""
        peer = self.vl1.peer(address)
        return None if peer is None else peer.endpoint

    def _configure(self, message: Message, now: float) -> None:
        peer, verb, packet_id, payload = message
        try:
            nwid = ConfigRequest.parse(payload).network_id
        except WireError:
            return
        config = self.on_config_request(nwid, peer.address)
        if config is None:
            return
        update_id = int.from_bytes(os.urandom(8), "big") | 1
        for chunk in split_config(nwid, config, update_id, self.identity):
            self.vl1.reply_ok(peer, verb, packet_id, chunk.build(), now)


def throw(sender: socket.socket, datagrams: Iterable[bytes], endpoint: Endpoint | Sequence[object]) -> None:
    """Send datagrams at a pace that the receiver can follow."""
    volume = 0
    for datagram in datagrams:
        try:
            sender.sendto(datagram, tuple(endpoint))
        except BlockingIOError:
            time.sleep(PACE_SECONDS)
        volume += len(datagram) + 200
        if volume > PACE_BYTES:
            time.sleep(PACE_SECONDS)
            volume = 0


def made_up(count: int, first: int = 0x2000000000) -> list[Identity]:
    """Identities with good keys and addresses that do not belong to them."""
    secrets = [os.urandom(c25519.SECRET_LENGTH) for _ in range(count)]
    return [Identity(first + number, c25519.derive_public(secret), secret) for number, secret in enumerate(secrets)]


def hello(sender: Identity, receiver: Identity) -> bytes:
    """A HELLO whose MAC is right."""
    keys = PeerKeys(sender.agree(receiver))
    number = int.from_bytes(os.urandom(8), "big")
    content = Hello(
        12, Version(1, 14, 1), time.time_ns() // 1_000_000, sender.without_secret(), None, WorldVersion(0, 0)
    )
    plaintext = build_hello(content, number, keys)
    return keys.seal(number, receiver.address, sender.address, (plaintext,), CIPHER_POLY1305_NONE)
