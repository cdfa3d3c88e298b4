"""What a frame of 2,800 bytes costs the node process on its way in, from the UDP socket to the messages of ``Vl1``, in
µs of CPU, when it comes as zerotier-one sends it: two datagrams of unequal size, each by a system call of its own.

    python -m tests.bench.bench_receive [--rounds N]

The packets are sealed with the keys of a peer, wait in the socket's buffer, and only the reading of them is measured.
The best of all rounds is shown, since anything else measures the machine's other work.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import time

from tests.bench.bench_vl1 import FRAME, direct_pair
from ztnode.hookspecs import Datagrams, Endpoint
from ztnode.plugins.udp import UdpTransport
from ztnode.wire.packet import VERB_FRAME

BATCHES = (1, 16, 256)


async def measure(protocol: int, batch: int, rounds: int) -> tuple[float, float]:
    """µs a frame for the transport alone and for all of it."""
    network, one, two = direct_pair(protocol)
    transport = UdpTransport()
    received: list[tuple[bytes, Endpoint]] = []

    def hold(datagrams: Datagrams) -> None:
        received.extend(datagrams)

    await transport.open(0, hold)
    port = transport.local_endpoints()[0][1]
    reading, whole = [], []
    bound = transport._v4
    assert bound is not None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.connect(("127.0.0.1", port))
        for _ in range(rounds):
            one.vl1.send_batch(two.address, VERB_FRAME, [bytes(FRAME)] * batch, network.now)
            for _, queued in one.vl1.to_send():
                for datagram in queued:
                    sender.send(datagram)
            received.clear()
            started = time.process_time()
            while len(received) < 2 * batch:
                transport._readable(bound)
            between = time.process_time()
            # As if it came from where the peer is.
            datagrams = [(data, one.endpoint) for data, _ in received]
            after = time.process_time()
            two.vl1.receive(datagrams, network.now)
            messages = two.vl1.messages()
            done = time.process_time()
            assert len(messages) == batch
            reading.append((between - started) / batch * 1e6)
            whole.append((between - started + done - after) / batch * 1e6)
    await transport.close()
    return min(reading), min(whole)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    arguments = parser.parse_args()
    print(f"µs a frame of {FRAME} bytes in two datagrams    batch    read   with VL1")
    for cipher, protocol in (("AES-GMAC-SIV", 12), ("Salsa20/12", 11)):
        for batch in BATCHES:
            reading, whole = asyncio.run(measure(protocol, batch, arguments.rounds))
            print(f"{cipher:<40} {batch:>8} {reading:>7.2f} {whole:>10.2f}")


if __name__ == "__main__":
    main()
