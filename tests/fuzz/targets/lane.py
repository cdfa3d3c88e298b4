"""A lane under fire: datagrams of its peer, of whoever writes the peer's address, and in any order."""

from __future__ import annotations

from collections.abc import Iterator

from tests.fuzz.pieces import join, split
from tests.unit.worker.test_lane import MTU, NOW, UNTIL, Remote, lane
from ztnode.wire import fragment, packet_rows
from ztnode.wire.packet import CIPHER_AES_GMAC_SIV, CIPHER_POLY1305_SALSA2012, VERB_FRAME
from ztnode.worker.lane import Lane
from ztnode.worker.protocol import LaneTerms

_ETHERTYPES = (b"\x08\x00", b"\x86\xdd", b"\x08\x06")


def fuzz(data: bytes) -> None:
    """Pieces: bytes as they are, sealed packets whole or in fragments, forged ones, the last ones again, later or in
    another order, and terms. What comes out is what went in, once, and the same whether a batch is taken together or
    one by one."""
    made, together, remote = lane(), lane(), Remote()
    came = taken = returned = 0
    last: list[bytes] = []
    batch: list[bytes] = []
    for selector, content in split(data):
        match selector & 7:
            case 0 if selector & 8:
                many = 8 if selector & 128 else 1
                batch += [remote.text(content[:100] or b"\0", forged=bool(selector & 16)) for _ in range(many)]
            case 0:
                batch.append(content)
            case 1 | 2:
                verb = VERB_FRAME if selector & 8 else selector >> 4
                cipher = CIPHER_POLY1305_SALSA2012 if selector & 7 == 2 else CIPHER_AES_GMAC_SIV
                ethertype = _ETHERTYPES[selector % 3]
                last = []
                for _ in range(8 if selector & 128 else 1):
                    packet = remote.packet(content, verb=verb, ethertype=ethertype, cipher=cipher)
                    last += fragment.split(packet, MTU)
                batch += last
            case 3:
                batch += last
            case 4 if selector & 8:
                del batch[max(0, len(batch) - len(last)) :]
            case 4:
                batch += reversed(last)
            case 5:
                terms = LaneTerms(5, (0x0800, 0x86DD)[: selector >> 3 & 3], UNTIL if selector & 64 else NOW)
                made.agree(terms)
                together.agree(terms)
            case 6:
                batch += [content[:8] + each[8:] for each in last]
            case _:
                came += sum(map(len, batch))
                frames, rest = made.receive(batch, NOW)
                taken += len(frames)
                returned += sum(map(len, rest))
                assert _taken_together(together, batch) == (list(map(bytes, frames)), rest)
                batch = []
                assert returned <= came
                assert all(len(frame) >= 14 for frame in frames)
    used = made.used()
    assert used == together.used()
    assert made.opened_ids == together.opened_ids
    assert used.received == taken == len(made.opened_ids) == len(set(made.opened_ids))
    assert 0 <= used.datagram_octets_received <= came


def _taken_together(made: Lane, batch: list[bytes]) -> tuple[list[bytes], list[bytes]]:
    if len(batch) < 3:
        frames, rest = made.receive(batch, NOW)
    else:
        longest = max(32, *map(len, batch))
        slots = packet_rows.matrix(b"".join(each.ljust(longest, b"\xff") for each in batch), len(batch))
        lengths = list(map(len, batch))
        frames, rest = made.receive_slots(slots, lengths, lambda start, end: batch[start:end], NOW)
    return list(map(bytes, frames)), rest


def seeds() -> Iterator[bytes]:
    """A little of everything."""
    yield join((9, b"frame"), (7, b""), (3, b""), (7, b""))
    yield join((9, bytes(2000)), (4, b""), (7, b""), (13, b""), (2, b"x"), (1, bytes(900)), (7, b""))
    yield join((137, b"one"), (7, b""), (137, bytes(2000)), (7, b""), (3, b""), (7, b""), (129, b"x"), (7, b""))
    yield join((152, b"short"), (7, b""), (136, b"\x06"), (7, b""))
    yield join((153, bytes(2000)), (12, b""), (4, b""), (7, b""), (3, b""), (7, b""))
    yield join((0, b"\xff" * 60), (9, bytes(1500)), (6, bytes(8)), (7, b""))
