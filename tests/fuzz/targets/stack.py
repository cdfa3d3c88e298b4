"""The user-space stack: frames of a neighbor that means ill, with good checksums where it wants; clients and time."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

from tests.fuzz.pieces import join, split
from tests.unit.netstack.test_netstack_stack import A4, A6, B4, B6, MAC_A, MAC_B, packed, stack
from ztnode.wire import ethernet, ipv4, ipv6, tcp, udp
from ztnode.wire.checksum import finish, region_sum

LINK = ethernet.mac_bytes(MAC_A) + ethernet.mac_bytes(MAC_B)
LISTENING, BOUND = 7000, 7002


def fuzz(data: bytes) -> None:
    """Pieces: 0 a frame, 1 an IPv4 packet, 2 IPv6, 3 and 4 TCP with its checksum, 5 and 6 UDP, 7 and 8 other protocols,
    9 time, 10 something that the owner does."""
    host = stack(1, MAC_A, f"{A4}/24", f"{A6}/64")
    listener = host.listen(None, LISTENING)
    host.udp(None, BOUND)
    connection = host.connect(B4, 80, 0.0)
    now = 0.0
    for selector, content in split(data):
        if selector == 9:
            now += min(600, content[0] if content else 1)
            host.handle_timer(now)
        elif selector == 10:
            accepted = listener.accept()
            for each in (connection, accepted):
                if each is not None:
                    with contextlib.suppress(OSError):
                        each.write(content[:1000])
                        each.read(1 << 16)
        else:
            host.receive(0, [memoryview(_frame(selector, content))], now)
            host.copy_unread()
        for ready in host.ready():
            assert ready is not None
        assert len(host.to_send(now)) < 2000, "much is sent for little"
    host.next_timer()


def _frame(selector: int, content: bytes) -> bytes:
    v6 = selector in (2, 4, 6, 8)
    match selector:
        case 0:
            return content
        case 1 | 2:
            packet = content
        case 3 | 4:
            packet = _packet(_checked(content.ljust(20, b"\0"), 6, 16, v6), 6, v6)
        case 5 | 6:
            packet = _packet(_checked(content.ljust(8, b"\0"), 17, 6, v6), 17, v6)
        case _:
            packet = _packet(content[1:], content[0] if content else 1, v6)
    return LINK + (b"\x86\xdd" if v6 else b"\x08\x00") + packet


def _packet(payload: bytes, protocol: int, v6: bool) -> bytes:
    payload = payload[:1400]
    if v6:
        return ipv6.build(ipv6.Header(packed(B6), packed(A6), protocol, len(payload))) + payload
    return ipv4.build(ipv4.Header(packed(B4), packed(A4), protocol, len(payload))) + payload


def _checked(segment: bytes, protocol: int, at: int, v6: bool) -> bytes:
    """With the checksum that belongs at ``at``."""
    segment = segment[:1400]
    ends = packed(B6) + packed(A6) if v6 else packed(B4) + packed(A4)
    plain = segment[:at] + b"\0\0" + segment[at + 2 :]
    pseudo = region_sum(ends) + protocol + len(plain)
    return plain[:at] + finish(region_sum(plain) + pseudo).to_bytes(2, "big") + plain[at + 2 :]


def seeds() -> Iterator[bytes]:
    """The kernel's frames; a handshake, data, FIN and RST; a datagram; echo requests."""
    vectors = Path(__file__).parents[2] / "vectors/net/linux.json"
    for text in json.loads(vectors.read_text()).values():
        yield join((0, bytes.fromhex(text)), (9, b"\x02"))

    def segment(flags: int, sequence: int, acknowledged: int, payload: bytes = b"") -> bytes:
        return tcp.FIXED.pack(4000, LISTENING, sequence, acknowledged, 5 << 12 | flags, 65535, 0, 0) + payload

    for selector in (3, 4):
        opening = (selector, segment(tcp.SYN, 100, 0))
        yield join(opening, (selector, segment(tcp.ACK, 101, 1)), (10, b"hello"), (9, b"\x05"))
        yield join(
            opening, (selector, segment(tcp.ACK | tcp.FIN, 101, 1, b"data")), (selector, segment(tcp.RST, 101, 0))
        )
    for selector in (5, 6):
        yield join((selector, udp.HEADER.pack(1, BOUND, 12, 0) + b"data"), (selector, udp.HEADER.pack(1, 9, 8, 0)))
    yield join((7, b"\x01\x08\x00" + bytes(20)), (8, b"\x3a\x80\x00" + bytes(20)), (8, b"\x3a\x87\x00" + bytes(30)))
