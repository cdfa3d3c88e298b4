"""What packets of strangers cost a leaf and a root: ``python -m tests.bench.worst_packets``.

Microseconds of one core (process time) for each packet in batches of 64 and of 4, and the bytes that a burst of 4,096
of them leaves behind. The bounds themselves are held by tests that count operations (``test_vl1_floods.py``).
"""

from __future__ import annotations

import os
import time
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Final

from tests.lab.flood import forged
from tests.unit.vl1.test_vl1_hostile import hello_from, made_up, pair
from tests.unit.vl1.vl1_network import Host, Network

COUNT: Final = 4096
SOURCES: Final = 64


def packets(victim: Host, peer: Host) -> Iterator[tuple[str, Callable[[int], bytes]]]:
    """Each kind and what makes one of them; ``peer`` is known to the victim."""
    own, identity = victim.address.to_bytes(5, "big"), peer.vl1.identity.build_text()
    claimed = bytes.fromhex(identity[:10])
    hellos = [hello_from(stranger, victim.vl1.identity) for stranger in made_up(64)]
    yield "junk, 29 bytes", lambda _: forged("junk", own, "")
    yield "head of a fragmented packet", lambda _: forged("heads", own, "")
    for name, suite in (("Salsa20/12", 0x08), ("AES-GMAC-SIV", 0x18)):
        for length in (28, 1400):
            head = own + claimed + bytes((suite,))
            yield (
                f"forged {name}, {length} bytes",
                lambda _, head=head, length=length: os.urandom(8) + head + os.urandom(length - 19),  # type: ignore[misc]
            )
    yield "forged HELLO of a known peer", lambda _: forged("hello", own, identity)
    yield "HELLO of a stranger, MAC wrong", lambda number: os.urandom(8) + hellos[number % 64][8:]


def cost(victim: Host, made: list[bytes], batch: int, now: float) -> float:
    """Microseconds for each packet, from two addresses in turns."""
    sources = [(f"198.51.100.{number % 2 + 66}", 1024 + number) for number in range(SOURCES)]
    whole = [(data, sources[number % SOURCES]) for number, data in enumerate(made)]
    started = time.process_time()
    for start in range(0, len(whole), batch):
        victim.vl1.receive(whole[start : start + batch], now)
    seconds = time.process_time() - started
    victim.vl1.to_send(), victim.vl1.messages(), victim.vl1.events()
    return seconds / len(whole) * 1e6


def main() -> None:
    """Print a table."""
    print(f"{'packet':36}{'role':6}{'us in 64s':>10}{'us in 4s':>10}{'bytes held':>12}")
    for role in ("leaf", "root"):
        network = Network()
        root, one, two = pair(network)
        victim, peer = (one, two) if role == "leaf" else (root, one)
        now = network.now
        for name, make in packets(victim, peer):
            figures = []
            for batch in (64, 4):
                now += 60
                victim.vl1.handle_timer(now)
                figures.append(cost(victim, [make(number) for number in range(COUNT)], batch, now))
            made = [make(number) for number in range(COUNT)]
            now += 60
            victim.vl1.handle_timer(now)
            tracemalloc.start()
            cost(victim, made, 64, now)
            held = tracemalloc.get_traced_memory()[0]
            tracemalloc.stop()
            print(f"{name:36}{role:6}{figures[0]:10.1f}{figures[1]:10.1f}{held:12,}", flush=True)


if __name__ == "__main__":
    main()
