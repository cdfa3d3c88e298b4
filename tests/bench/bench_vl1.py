"""What a 2,800-byte frame costs in VL1, cryptography included, in µs: out, in, and passed on by a root.

    python -m tests.bench.bench_vl1 [--json FILE] [--rounds N]

One process, no sockets: two ``Vl1`` with a direct path, and a root between two peers. The best of all rounds is shown,
since anything else measures the machine's other work.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

from tests.unit.vl1.vl1_network import IDENTITIES, Host, Network, planet, triangle
from ztnode.wire.packet import VERB_FRAME, VERB_USER_MESSAGE

FRAME = 2810
BATCHES = (1, 8, 64)


def best(work: Callable[[], None], rounds: int) -> float:
    """The shortest time that ``work`` took, in seconds."""
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def direct_pair(protocol: int) -> tuple[Network, Host, Host]:
    """Two nodes with a direct path that speak this protocol version."""
    network = Network()
    world = planet([(IDENTITIES[0], (("203.0.113.1", 9993),))])
    one = network.add(IDENTITIES[1], ("203.0.113.2", 9993), world, protocol=protocol)
    two = network.add(IDENTITIES[2], ("203.0.113.3", 9993), world, protocol=protocol)
    one.vl1.add_peer(IDENTITIES[2].without_secret(), network.now, [two.endpoint])
    two.vl1.add_peer(IDENTITIES[1].without_secret(), network.now, [one.endpoint])
    assert network.run(2, lambda: one.path_to(two) is not None and two.path_to(one) is not None)
    return network, one, two


def measure_direct(protocol: int, batch: int, rounds: int) -> tuple[float, float]:
    """µs per frame out and in."""
    network, one, two = direct_pair(protocol)
    now, address = network.now, two.address
    frames = [(os.urandom(10), os.urandom(FRAME - 10)) for _ in range(batch)]
    outward, inward = [], []
    for _ in range(rounds):
        started = time.perf_counter()
        one.vl1.send_batch(address, VERB_FRAME, frames, now)
        queue = one.vl1.to_send()
        outward.append(time.perf_counter() - started)
        datagrams = [(datagram, one.endpoint) for _, queued in queue for datagram in queued]
        started = time.perf_counter()
        two.vl1.receive(datagrams, now)
        messages = two.vl1.messages()
        inward.append(time.perf_counter() - started)
        assert len(messages) == batch
    return min(outward) / batch * 1e6, min(inward) / batch * 1e6


def measure_relay(batch: int, rounds: int) -> float:
    """µs per frame (two datagrams) that a root passes on."""
    network = Network()
    root, one, two = triangle(network, relay_only=True)
    network.run(1)
    one.vl1.send(two.address, VERB_USER_MESSAGE, b"", network.now)
    network.run(3)
    one.vl1.send_batch(two.address, VERB_FRAME, [bytes(FRAME)] * batch, network.now)
    datagrams = [(datagram, one.endpoint) for _, queued in one.vl1.to_send() for datagram in queued]

    def relay() -> None:
        root.vl1.receive(datagrams, network.now)
        root.vl1.to_send()

    return best(relay, rounds) / batch * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--rounds", type=int, default=200)
    arguments = parser.parse_args()
    rows = []
    for cipher, protocol in (("AES-GMAC-SIV", 12), ("Salsa20/12", 11)):
        for batch in BATCHES:
            out, into = measure_direct(protocol, batch, arguments.rounds)
            rows.append({"what": cipher, "batch": batch, "out_us": round(out, 2), "in_us": round(into, 2)})
    for batch in BATCHES:
        passed_on = measure_relay(batch, arguments.rounds)
        rows.append({"what": "relayed by a root", "batch": batch, "out_us": None, "in_us": round(passed_on, 2)})
    print(f"µs per frame of {FRAME} bytes      batch     out      in")
    for row in rows:
        sealed = "" if row["out_us"] is None else f"{row['out_us']:.2f}"
        print(f"{row['what']:<30} {row['batch']:>5} {sealed:>7} {row['in_us']:>7.2f}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
