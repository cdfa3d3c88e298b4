"""Packets by the matrix against packets one by one: the same bytes out, and in what one by one is taken or refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.wire.test_vl1_interop import PACKETS, assemble, keys_of, name_of, packet_without_hops
from ztnode.wire import packet_rows
from ztnode.wire.aes_gmac_siv import AesGmacSiv
from ztnode.wire.fragment import split
from ztnode.wire.packet import CIPHER_AES_GMAC_SIV

CIPHER = AesGmacSiv(bytes(range(32)), bytes(range(32, 64)))
TO_FROM = b"\x11" * 5 + b"\x22" * 5
WHOLE, IN_TWO = TO_FROM + b"\x18", TO_FROM + b"\x58"
SLOT = 1500


def one_by_one(first: int, texts: Sequence[bytes], mtu: int) -> list[bytes]:
    associated = WHOLE if len(texts[0]) + 27 <= mtu else IN_TWO
    datagrams: list[bytes] = []
    for number, text in enumerate(texts, first):
        packet_id = (number % (1 << 64)).to_bytes(8, "big")
        datagrams += split(CIPHER.seal(packet_id, associated, (text,)), mtu)
    return datagrams


def slots(datagrams: Sequence[bytes]) -> packet_rows.Matrix:
    memory = b"".join(datagram.ljust(SLOT, b"\xee") for datagram in datagrams)
    return packet_rows.matrix(memory, len(datagrams))


def opened(datagrams: Sequence[bytes]) -> list[bytes | None] | None:
    """The plaintexts, None for what is not authentic; None where they are not of one form."""
    found = packet_rows.gather(slots(datagrams), list(map(len, datagrams)), WHOLE, IN_TWO)
    if found is None:
        return None
    tags, rows = found
    good = packet_rows.open_rows(CIPHER, tags, rows)
    return [row[packet_rows.TEXT :].tobytes() if is_good else None for row, is_good in zip(rows, good, strict=True)]


@pytest.mark.parametrize(
    "vector", [each for each in PACKETS["packets"] if each["cipher"] == CIPHER_AES_GMAC_SIV], ids=name_of
)
def test_what_a_real_node_sealed_is_opened_and_sealed_alike(vector: dict[str, Any]) -> None:
    cipher = AesGmacSiv(*keys_of(vector).aes_keys())
    datagrams = list(map(bytes.fromhex, vector["datagrams"])) * 3
    constant = datagrams[0][8:19]
    found = packet_rows.gather(slots(datagrams), list(map(len, datagrams)), constant, constant)
    assert found is not None
    tags, rows = found
    tag = tags[0].tobytes()
    assert packet_rows.open_rows(cipher, tags, rows) == [True] * 3
    size = packet_rows.piece(rows.shape[1] - packet_rows.TEXT, 1432)
    first = int.from_bytes(cipher.decrypt_blocks(tag)[:8], "big")
    sealed = packet_rows.seal(cipher, first, rows[:2].tobytes(), 2, size).tobytes()
    pieces = len(sealed) // size // 2
    packet = sealed[:size] + sealed[size + 16 : pieces * size]  # the reference cuts it elsewhere
    assert packet == packet_without_hops(assemble(vector))


texts_alike = st.integers(1, 2800).flatmap(
    lambda length: st.lists(st.binary(min_size=length, max_size=length), min_size=2, max_size=9)
)


@given(texts_alike, st.integers(0, (1 << 64) - 1), st.sampled_from([1432, 1400, 1280]))
def test_what_is_sealed_together_is_what_is_sealed_one_by_one(texts: list[bytes], first: int, mtu: int) -> None:
    expected = one_by_one(first, texts, mtu)
    size = packet_rows.piece(len(texts[0]), mtu)
    if not size:  # of three datagrams, or of two that are not of one size
        assert len(expected) != len(texts)
        assert len(expected) > 2 * len(texts) or len(expected[0]) != len(expected[1])
        return
    assert {len(datagram) for datagram in expected} == {size}
    head = packet_rows.row_head(WHOLE if len(expected) == len(texts) else IN_TWO)
    padded = b"".join(head + text for text in texts)
    assert packet_rows.seal(CIPHER, first, padded, len(texts), size) == b"".join(expected)


@given(texts_alike, st.integers(0, (1 << 64) - 1), st.sampled_from([1432, 1400]))
def test_what_is_sealed_one_by_one_is_opened_together(texts: list[bytes], first: int, mtu: int) -> None:
    datagrams = one_by_one(first, texts, mtu)
    pieces = len(datagrams) // len(texts)
    assert opened(datagrams) == (texts if pieces <= 2 else None)


@given(texts_alike, st.data())
def test_what_was_changed_on_the_way_is_refused_and_no_other(texts: list[bytes], data: st.DataObject) -> None:
    datagrams = one_by_one(7, texts, 1432)
    pieces = len(datagrams) // len(texts)
    if pieces > 2:
        return
    number = data.draw(st.integers(0, len(datagrams) - 1))
    second = pieces == 2 and number % 2 == 1
    at = data.draw(st.integers(16 if second else 19, len(datagrams[number]) - 1))
    bit = 1 << data.draw(st.integers(0, 7))
    changed = bytearray(datagrams[number])
    changed[at] ^= bit
    datagrams[number] = bytes(changed)
    expected: list[bytes | None] = list(texts)
    expected[number // pieces] = None
    assert opened(datagrams) == expected


LONG = [bytes([number]) * 2000 for number in range(4)]
SHORT = [bytes([number]) * 50 for number in range(4)]


@pytest.mark.parametrize(
    "datagrams",
    [
        pytest.param(one_by_one(1, SHORT[:3], 1432) + one_by_one(4, [b"longer" * 20], 1432), id="another length"),
        pytest.param(one_by_one(1, LONG[:3], 1432) + one_by_one(4, [bytes(2001)], 1432), id="another length of two"),
        pytest.param(one_by_one(1, LONG, 1432)[:-1], id="a half is missing at the end"),
        pytest.param(one_by_one(1, LONG, 1432)[1:], id="a half is missing at the beginning"),
        pytest.param(one_by_one(1, LONG, 1432)[:2] + one_by_one(1, LONG, 1432)[3:], id="a half is missing"),
        pytest.param([*one_by_one(1, LONG, 1432)[:3], *one_by_one(9, LONG, 1432)[3:]], id="halves of two packets"),
        pytest.param(one_by_one(1, LONG, 1432)[::-1], id="halves in the wrong order"),
        pytest.param(one_by_one(1, [bytes(3500)] * 2, 1432), id="three pieces"),
        pytest.param([each[:8] + b"\x33" + each[9:] for each in one_by_one(1, SHORT, 1432)], id="for somebody else"),
        pytest.param([each[:13] + b"\x33" + each[14:] for each in one_by_one(1, SHORT, 1432)], id="from somebody else"),
        pytest.param([each[:18] + b"\x19" + each[19:] for each in one_by_one(1, SHORT, 1432)], id="relayed"),
        pytest.param([each[:18] + b"\x58" + each[19:] for each in one_by_one(1, SHORT, 1432)], id="more to follow"),
        pytest.param([each[:27] for each in one_by_one(1, SHORT, 1432)], id="no packet"),
        pytest.param([b"", b""], id="empty"),
        pytest.param([each[:16] for each in one_by_one(1, LONG, 1432)], id="no fragment"),
    ],
)
def test_what_is_not_of_one_form_is_left_alone(datagrams: list[bytes]) -> None:
    assert opened(datagrams) is None


def test_hops_of_second_halves_do_not_matter() -> None:
    """As one by one: they are not authenticated, and a relay that added one to the head's would be seen there."""
    datagrams = one_by_one(1, LONG, 1432)
    datagrams[1] = datagrams[1][:15] + b"\x01" + datagrams[1][16:]
    assert opened(datagrams) == LONG


def test_frames_are_views_of_the_rows() -> None:
    rows = np.arange(3 * 40, dtype=np.uint8).reshape(3, 40)
    assert packet_rows.beginnings(rows, 3, [1]) == {bytes(range(56, 59))}
    frames = packet_rows.frames(rows, 9, b"head of 12 b", [0, 2])
    assert [bytes(frame) for frame in frames] == [
        b"head of 12 b" + bytes(range(25, 40)),
        b"head of 12 b" + bytes(range(105, 120)),
    ]
    assert all(frame.readonly for frame in frames)
