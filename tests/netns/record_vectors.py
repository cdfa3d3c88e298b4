"""Records frames that the Linux kernel makes, for tests/vectors/net: two namespaces, one TAP each, joined here.

Run as root: ``python -m tests.netns.record_vectors tests/vectors/net/linux.json``. Each frame is kept once per kind,
with what the kernel meant by it in the name.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tests.netns.tapharness import Namespace, Tap

ADDRESSES = {4: ("10.66.0.1", "10.66.0.2"), 6: ("fd66::1", "fd66::2")}
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}


class Wire:
    """Two kernels and the wire between them, which can lose frames on demand."""

    def __init__(self) -> None:
        self.sides: list[tuple[Namespace, Tap]] = []
        for number in (0, 1):
            namespace = Namespace()
            namespace.ip("link", "set", "lo", "up")
            tap = Tap(namespace, "tap0", 1500)
            namespace.ip("link", "set", "tap0", "address", f"02:66:00:00:00:0{number + 1}")
            namespace.ip("address", "add", f"{ADDRESSES[4][number]}/24", "dev", "tap0")
            namespace.ip("-6", "address", "add", f"{ADDRESSES[6][number]}/64", "dev", "tap0", "nodad")
            self.sides.append((namespace, tap))
        self.frames: list[bytes] = []
        self.lose: Callable[[bytes], bool] = lambda frame: False
        threading.Thread(target=self._carry, daemon=True).start()

    def _carry(self) -> None:
        taps = {self.sides[0][1].fd: self.sides[1][1], self.sides[1][1].fd: self.sides[0][1]}
        while True:
            for fd in select.select(list(taps), [], [])[0]:
                frame = os.read(fd, 65536)
                self.frames.append(frame)
                if not self.lose(frame):
                    taps[fd].write((frame,))

    def socket(self, side: int, version: int, kind: int) -> socket.socket:
        return self.sides[side][0].run(lambda: socket.socket(FAMILY[version], kind))


def upper(frame: bytes) -> tuple[int, bytes]:
    """(protocol, upper layer) of a frame as far as this recorder needs."""
    if frame[12:14] == b"\x08\x00":
        return frame[23], frame[14 + (frame[14] & 15) * 4 :]
    if frame[12:14] == b"\x86\xdd":
        return frame[20], frame[54:]
    return -1, frame[14:]


def converse(wire: Wire, version: int) -> None:
    """Everything we want to see, over one IP version."""
    _, there = ADDRESSES[version]
    server = wire.socket(1, version, socket.SOCK_STREAM)
    server.bind((there, 7000))
    server.listen()
    client = wire.socket(0, version, socket.SOCK_STREAM)
    client.connect((there, 7000))
    accepted, _ = server.accept()
    client.sendall(b"hello")
    accepted.recv(10)
    # Lose one full segment: the receiver answers with SACK blocks.
    lost: list[bytes] = []

    def lose(frame: bytes) -> bool:
        if not lost and len(frame) > 1400:
            lost.append(frame)
            return True
        return False

    wire.lose = lose
    client.sendall(bytes(range(256)) * 80)
    received = 0
    while received < 256 * 80:
        received += len(accepted.recv(65536))
    client.close()
    accepted.close()
    refused = wire.socket(0, version, socket.SOCK_STREAM)
    with contextlib.suppress(ConnectionRefusedError):
        refused.connect((there, 7001))
    one, two = wire.socket(0, version, socket.SOCK_DGRAM), wire.socket(1, version, socket.SOCK_DGRAM)
    two.bind((there, 7002))
    one.sendto(b"odd", (there, 7002))
    one.sendto(bytes(range(250)) * 16, (there, 7002))
    one.sendto(b"refused", (there, 7003))
    if version == 4:
        echo = wire.sides[0][0].run(lambda: socket.socket(FAMILY[4], socket.SOCK_DGRAM, socket.IPPROTO_ICMP))
        echo.sendto(b"\x08\0\0\0\0\0\0\x01ping", (there, 0))
    else:
        echo = wire.sides[0][0].run(lambda: socket.socket(FAMILY[6], socket.SOCK_DGRAM, socket.IPPROTO_ICMPV6))
        echo.sendto(b"\x80\0\0\0\0\0\0\x01ping", (there, 0))
    time.sleep(0.3)


def name(frame: bytes) -> str | None:
    """What the frame is, or None for what is not wanted."""
    ethertype = frame[12:14]
    if ethertype == b"\x08\x06":
        return {1: "arp_request", 2: "arp_reply"}[frame[21]]
    protocol, body = upper(frame)
    version = "ipv4" if ethertype == b"\x08\x00" else "ipv6"
    if int.from_bytes(frame[20:22], "big") & 0x3FFF if version == "ipv4" else protocol == 44:
        offset = int.from_bytes(frame[20:22], "big") & 0x1FFF if version == "ipv4" else body[2] << 5 | body[3] >> 3
        return f"{version}_fragment_{offset * 8:04}"
    if protocol == 6:
        flags, options = body[13], (body[12] >> 4) * 4 - 20
        kind = {2: "syn", 18: "syn_ack", 16: "ack", 24: "psh_ack", 17: "fin_ack", 25: "fin_psh_ack", 20: "rst_ack"}
        if flags not in kind:
            return None
        sack = "_sack" if options > 12 and flags == 16 else ""
        data = "_data" if len(body) > 20 + options else ""
        return f"{version}_tcp_{kind[flags]}{sack}{data}"
    if protocol == 17:
        return f"{version}_udp_{len(body) - 8}"
    if protocol == 1:
        return {0: "icmp_echo_reply", 3: "icmp_port_unreachable", 8: "icmp_echo_request"}.get(body[0])
    if protocol == 58:
        kinds = {1: "port_unreachable", 128: "echo_request", 129: "echo_reply", 135: "ns", 136: "na"}
        return f"icmpv6_{kinds[body[0]]}" if body[0] in kinds else None
    return None


def main() -> None:
    wire = Wire()
    for namespace, _ in wire.sides:
        namespace.sysctl("ipv4.ping_group_range", "0 0")
    time.sleep(0.2)
    for version in (4, 6):
        converse(wire, version)
    kept: dict[str, str] = {}
    for frame in wire.frames:
        kind = name(frame)
        if kind is not None:
            kept.setdefault(kind, frame.hex())
    Path(sys.argv[1]).write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")
    print(f"{len(kept)} frames: {', '.join(sorted(kept))}")


if __name__ == "__main__":
    main()
