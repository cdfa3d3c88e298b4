"""What strangers could send, at a steady rate, to addresses of labs and to loopback alone.

    python -m tests.lab.flood KIND IP PORT RATE SECONDS VICTIM [IDENTITY [SOURCE]]
    python -m tests.lab.flood record FILE SECONDS PORT
    python -m tests.lab.flood replay IP PORT RATE SECONDS FILE

KIND is junk, salsa, aes, heads (of fragmented packets) or hello, all forged; VICTIM is the node's address, IDENTITY the
public identity that salsa, aes and hello claim (else a random address), SOURCE the IP address from which all seems to
come, and from the port PORT. ``replay`` sends again what ``record`` has seen
on its host's wire.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

LABS: Final = [ipaddress.ip_network(text) for text in ("127.0.0.0/8", "203.0.113.0/24", "198.51.100.0/24")]
UDP_SEGMENT: Final = 103
TRAIN: Final = 40
"""Datagrams that leave with one system call, so that the sender costs less than what it attacks."""
TRAINS: Final = 499
"""Different ones, of which each leaves by another port the next time."""
PORTS: Final = 64
"""Source ports that take turns."""
_ALL_PROTOCOLS: Final = 3
_IP_TRANSPARENT: Final = 19  # linux/in.h


def forged(kind: str, victim: bytes, identity: str) -> bytes:
    """One datagram, new each time."""
    claimed = bytes.fromhex(identity[:10]) if identity else os.urandom(5)
    head = os.urandom(8) + victim
    match kind:
        case "junk":
            return head + os.urandom(5) + b"\x18" + os.urandom(10)
        case "salsa":
            return head + claimed + b"\x08" + os.urandom(9)
        case "aes":
            return head + claimed + b"\x18" + os.urandom(9)
        case "heads":
            return head + os.urandom(5) + b"\x58" + os.urandom(381)
        case "hello":
            key = bytes.fromhex(identity.split(":")[2])
            hello = b"\x01\x0c\x01\x0e\x00\x01" + os.urandom(8) + claimed + b"\0" + key + b"\0"
            return head + claimed + b"\0" + os.urandom(8) + hello + os.urandom(40)
    raise SystemExit(__doc__)


def send(make: Callable[[], bytes], where: tuple[str, int], rate: float, seconds: float, source: str = "") -> int:
    """Send at this rate, as far as this process keeps up. How many were sent."""
    if not any(ipaddress.ip_address(where[0]) in lab for lab in LABS):
        raise SystemExit(__doc__)
    # Made before: what the sender computes meanwhile is taken from its victim, where both share a machine.
    trains = [[make() for _ in range(TRAIN)] for _ in range(min(TRAINS, 1 + int(rate * seconds) // TRAIN))]
    ready = [(b"".join(train), struct.pack("=H", len(train[0]))) for train in trains]
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(PORTS)]
    if source:
        sockets = [_impostor(source, where[1])] * PORTS
    started, sent, turn = time.monotonic(), 0, 0
    while (passed := time.monotonic() - started) < seconds:
        while sent < passed * rate:
            data, size = ready[turn % len(ready)]
            with contextlib.suppress(OSError):
                sockets[turn % PORTS].sendmsg([data], [(socket.IPPROTO_UDP, UDP_SEGMENT, size)], 0, where)
            sent += TRAIN
            turn += 1
        time.sleep(0.001)
    return sent


def _impostor(source: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.IPPROTO_IP, _IP_TRANSPARENT, 1)
    sock.bind((source, port))
    return sock


def record(file: Path, seconds: float, port: int) -> None:
    """Keep what comes to a UDP port of this host: the packets of the size that is most frequent."""
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL_PROTOCOLS))
    wire.settimeout(0.2)
    seen: list[bytes] = []
    until = time.monotonic() + seconds
    while time.monotonic() < until and len(seen) < 20000:
        try:
            frame = wire.recv(2048)
        except TimeoutError:
            continue
        if frame[12:14] == b"\x08\x00" and frame[23] == 17 and frame[36:38] == port.to_bytes(2, "big"):
            seen.append(frame[42:])
    if not seen:
        raise SystemExit("nothing came")
    size = Counter(map(len, seen)).most_common(1)[0][0]
    file.write_bytes(size.to_bytes(4, "big") + b"".join(packet for packet in seen if len(packet) == size))


def main() -> None:
    """See the module."""
    kind, *rest = sys.argv[1:]
    if kind == "record":
        file, wait, listening = rest
        record(Path(file), float(wait), int(listening))
        return
    ip, port, rate, seconds, what, *identity = rest
    if kind == "replay":
        data = Path(what).read_bytes()
        size = int.from_bytes(data[:4], "big")
        packets = [data[start : start + size] for start in range(4, len(data), size)]
        turn = iter(range(1 << 60))
        sent = send(lambda: packets[next(turn) % len(packets)], (ip, int(port)), float(rate), float(seconds))
    else:
        victim, (claims, source) = bytes.fromhex(what), (*identity, "", "")[:2]
        sent = send(lambda: forged(kind, victim, claims), (ip, int(port)), float(rate), float(seconds), source)
    print(sent)


if __name__ == "__main__":
    main()
